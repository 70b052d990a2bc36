"""Checks of videos and latents before long work starts: what is wrong, what is expected, what to do."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from .sizes import LATENT_CHANNELS, SIZE_MULTIPLE

VideoForm = Literal["[B, 3, F, H, W]", "[1, 3, F, H, W]", "[3, F, H, W]"]


def check_video(name: str, video: Tensor, *forms: VideoForm) -> None:
    """Raise ValueError unless ``video`` is floating point of one of the forms, by default ``[B, 3, F, H, W]``."""
    forms = forms or ("[B, 3, F, H, W]",)
    if not video.is_floating_point() or not any(_has_form(video, form) for form in forms):
        raise ValueError(
            f"{name} is {video.dtype} of shape {list(video.shape)}; expected floating point {' or '.join(forms)} in "
            "0..1. Put the three colours before the frames, and divide 8-bit values by 255."
        )


def check_latents(name: str, latents: Tensor, *, even: bool = True, channels: int = LATENT_CHANNELS) -> None:
    """Raise ValueError unless ``latents`` are floating point ``[B, channels, T, h, w]`` (with even ``h``, ``w``)."""
    shape = list(latents.shape)
    form = f"[B, {channels}, T, h, w]"
    if not latents.is_floating_point() or not _has_form(latents, form):
        raise ValueError(
            f"{name} is {latents.dtype} of shape {shape}; expected floating point {form}: "
            "video latents of the CogVideoX VAE (image latents and other VAEs' latents do not fit)."
        )
    if even and (shape[3] % 2 or shape[4] % 2):
        raise ValueError(
            f"{name} has shape {shape}: its height and width must be even, since the transformer takes 2x2 patches. "
            f"Use pixel sizes that are multiples of {SIZE_MULTIPLE}."
        )


def _has_form(tensor: Tensor, form: str) -> bool:
    """Whether a shape is as written: a number stands for itself, a letter for any size but 0."""
    sizes = form.strip("[]").split(", ")
    return len(sizes) == tensor.ndim and all(
        size == int(wanted) if wanted.isdigit() else size > 0 for size, wanted in zip(tensor.shape, sizes, strict=True)
    )
