"""Checks that run before long work starts: each says what was wrong, what was expected and what to do."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

LATENT_CHANNELS = 16
SPATIAL_FACTOR = 8  # pixels per latent
TEMPORAL_FACTOR = 4  # frames per latent, after the first
SIZE_MULTIPLE = 16  # a 2x2 patch of latents
NOISE_STEPS = 1000


def latent_frames(num_frames: int) -> int:
    """Latent frames of a clip, ``(num_frames - 1) // 4 + 1``.

    Raises:
        ValueError: a number of frames that is not 4n + 1.
    """
    if num_frames < 1 or (num_frames - 1) % TEMPORAL_FACTOR:
        below = max(1, (num_frames - 1) // TEMPORAL_FACTOR * TEMPORAL_FACTOR + 1)
        raise ValueError(
            f"{num_frames} frames: the VAE takes 1, 5, 9, ... (4n + 1) frames. "
            f"Use {below} or {below + TEMPORAL_FACTOR}."
        )
    return (num_frames - 1) // TEMPORAL_FACTOR + 1


def check_size(height: int, width: int) -> None:
    """Raise ValueError unless both are positive multiples of 16."""
    for name, value in (("height", height), ("width", width)):
        if value < SIZE_MULTIPLE or value % SIZE_MULTIPLE:
            below = max(SIZE_MULTIPLE, value // SIZE_MULTIPLE * SIZE_MULTIPLE)
            raise ValueError(
                f"{name} {value}: sizes are multiples of {SIZE_MULTIPLE} pixels. "
                f"Use {below} or {below + SIZE_MULTIPLE}."
            )


def check_noise_step(noise_step: float) -> None:
    """Raise ValueError unless the noise step is an index of the schedule."""
    if not 0 <= noise_step < NOISE_STEPS or int(noise_step) != noise_step:
        raise ValueError(
            f"noise step {noise_step}: expected a whole number from 0 (clean) to {NOISE_STEPS - 1} (pure noise); "
            "the published Stage II was trained on 650 to 750, 675 is the default."
        )


def check_positive(name: str, value: int) -> None:
    if int(value) != value or value < 1:
        raise ValueError(f"{name} is {value}; expected a whole number of at least 1.")


def check_finite_number(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; expected a finite number.")


def check_latents(name: str, latents: Tensor, *, even: bool = True) -> None:
    """Raise ValueError unless ``latents`` are floating ``[B, 16, T, h, w]`` (with even ``h`` and ``w``)."""
    shape = list(latents.shape)
    if latents.ndim != 5 or shape[1] != LATENT_CHANNELS or min(shape) < 1 or not latents.is_floating_point():
        raise ValueError(
            f"{name} is {latents.dtype} of shape {shape}; expected floating point [B, {LATENT_CHANNELS}, T, h, w]: "
            "video latents of the CogVideoX VAE (image latents and other VAEs' latents do not fit)."
        )
    if even and (shape[3] % 2 or shape[4] % 2):
        raise ValueError(
            f"{name} has shape {shape}: its height and width must be even, since the transformer takes 2x2 patches. "
            f"Use pixel sizes that are multiples of {SIZE_MULTIPLE}."
        )


def check_prompt_embeds(name: str, embeds: Tensor, batch: int, transformer: Any) -> None:
    """Raise ValueError unless ``embeds`` fit the batch and, where it tells, the transformer."""
    length, dim = getattr(transformer, "text_length", None), getattr(transformer, "text_dim", None)
    shape = list(embeds.shape)
    fits = embeds.ndim == 3 and shape[0] in (1, batch) and length in (None, shape[1]) and dim in (None, shape[2])
    if not fits:
        raise ValueError(
            f"{name} has shape {shape}; expected [{batch}, {length or 226}, {dim or 'D'}]. "
            "Encode the prompt with the text encoder that belongs to this model, padded to its token count."
        )
