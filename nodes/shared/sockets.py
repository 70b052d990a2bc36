"""What comes through a node's sockets is looked at before the node works: ComfyUI compares names of types only."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...flashvideo.method.checks import check_noise_step
from ...flashvideo.tensors.checks import check_latents
from .wiring import NOISE_STEP_KEY

_Checks = dict[str, Callable[[str, Any], None]]  # by name of the socket
_Names = tuple[tuple[str, str], ...]  # (name, type) of sockets


@functools.cache
def checked(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node, which refuses malformed values of its sockets in words."""
    execute = node.execute.__func__  # type: ignore[attr-defined]

    @functools.cache
    def sockets() -> tuple[_Checks, _Names, tuple[io.Input, ...]]:
        return _checks(node), _required(node), _widgets(node)

    @functools.wraps(execute)
    def checking(cls: type[io.ComfyNode], **values: Any) -> Any:
        checks, required, widgets = sockets()
        for name, check in checks.items():
            if values.get(name) is not None:
                check(name, values[name])
        for widget in widgets:
            if widget.id in values and not (widget.optional and values[widget.id] is None):
                check_widget(node, widget, values[widget.id])
        _require_connected(required, values)
        return execute(cls, **values)

    node.execute = classmethod(checking)  # type: ignore[assignment]
    return node


def _checks(node: type[io.ComfyNode]) -> _Checks:
    return {entry.id: CHECKS[kind] for entry in node.define_schema().inputs if (kind := entry.get_io_type()) in CHECKS}


def _required(node: type[io.ComfyNode]) -> _Names:
    """(name, type) of the sockets that always bring something."""
    return tuple(
        (entry.id, entry.get_io_type().replace(",", " or "))
        for entry in node.define_schema().inputs
        if entry.get_io_type() in _NEVER_NONE and not entry.optional and not getattr(entry, "lazy", False)
    )


def _require_connected(required: _Names, values: dict[str, Any]) -> None:
    for name, kind in required:
        if values.get(name) is None:
            raise ValueError(f"The {name} is None: the node that is connected gave no {kind}. Connect another one.")


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"


def _widgets(node: type[io.ComfyNode]) -> tuple[io.Input, ...]:
    return tuple(entry for entry in node.define_schema().inputs if entry.io_type in _WIDGETS)


def check_widget(node: type[io.ComfyNode], widget: Any, value: Any) -> None:
    """Raise ValueError unless a widget has a value of its kind: what comes by a link, ComfyUI does not look at.

    Numbers have their limits where they are used, which for linked ones may be wider than what the widget offers.
    """
    if widget.io_type == "COMBO":
        known: Any = widget.options
        if value not in known:  # a file of today, perhaps
            known = next(entry.options for entry in _widgets(node) if entry.id == widget.id)  # type: ignore[attr-defined]
        fits = value in known
        expected = f"one of {', '.join(map(str, known[:_NAMED]))}{' ...' if len(known) > _NAMED else ''}"
    elif widget.io_type == "STRING":
        fits, expected = isinstance(value, str), "text"
    else:
        whole = widget.io_type == "INT"
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        fits, expected = number and (not whole or value == int(value)), "a whole number" if whole else "a number"
    if not fits:
        told = repr(value) if value is None or isinstance(value, str | int | float) else _kind(value)
        raise ValueError(f"The {widget.id} is {told[:_TOLD]}; expected {expected}. Choose it on the node.")


def check_latent(name: str, latent: Any) -> None:
    """Raise ValueError unless a LATENT has finite video latents ``[B, 16, T, h, w]`` and sound extras."""
    if not isinstance(latent, dict) or "samples" not in latent:
        what = "a dictionary without samples" if isinstance(latent, dict) else _kind(latent)
        raise ValueError(f"The {name} is {what}; expected a LATENT. Connect a video latent.")
    samples = latent["samples"]
    if not isinstance(samples, Tensor) or samples.is_nested:
        raise ValueError(
            f"The {name} is not one tensor but {_kind(samples)} (audio and video packed together?). Connect a "
            "video latent."
        )
    check_latents(f"The {name}", samples, even=False)
    if not torch.isfinite(samples).all():
        raise ValueError(
            f"The {name} has NaN or infinite values. The node that made it is at fault, its weights or their "
            "dtype: try bf16 or fp32 there."
        )
    mask = latent.get("noise_mask")
    if mask is not None and (not isinstance(mask, Tensor) or mask.is_nested or mask.ndim < 2 or not mask.numel()):
        what = f"of shape {list(mask.shape)}" if isinstance(mask, Tensor) and not mask.is_nested else _kind(mask)
        raise ValueError(f"The noise mask of the {name} is {what}; expected a MASK. Connect another one, or none.")
    indices = latent.get("batch_index")
    if indices is not None and not _are_indices(indices, len(samples)):
        raise ValueError(
            f"The batch_index of the {name} is no list of {len(samples)} whole numbers, one a video. Take the "
            "videos from their batch with FlashVideo Pick Preview."
        )
    step = latent.get(NOISE_STEP_KEY, 0)
    if isinstance(step, bool) or not isinstance(step, int | float):
        raise ValueError(f"The {NOISE_STEP_KEY} of the {name} is {_kind(step)}; expected a whole number.")
    check_noise_step(step)


def _are_indices(indices: Any, count: int) -> bool:
    return isinstance(indices, list | tuple) and len(indices) == count and all(isinstance(i, int) for i in indices)


def check_image(name: str, image: Any) -> None:
    """Raise ValueError unless an IMAGE is floating point ``[F, H, W, C]`` with three colours at least."""
    if not isinstance(image, Tensor) or image.is_nested:
        raise ValueError(f"The {name} is {_kind(image)}; expected an IMAGE. Connect a video's frames.")
    if image.ndim != 4 or image.shape[-1] < 3 or min(image.shape) < 1:
        raise ValueError(f"The {name} has shape {list(image.shape)}; expected [frames, height, width, 3].")
    if not image.is_floating_point():
        raise ValueError(f"The {name} is {image.dtype}; expected floating point in 0..1. Divide 8-bit values by 255.")


def check_video(name: str, video: Any) -> None:
    """Raise ValueError unless a VIDEO can be asked for what it holds."""
    if not callable(getattr(video, "get_components", None)):
        raise ValueError(f"The {name} is {_kind(video)}; expected a VIDEO. Connect Load Video or Create Video.")


def check_frames(name: str, frames: Any) -> None:
    """Raise ValueError unless this is an IMAGE or a VIDEO, of the form of its type."""
    if isinstance(frames, Tensor):
        check_image(name, frames)
    elif not callable(getattr(frames, "get_components", None)):
        raise ValueError(f"The {name} is {_kind(frames)}; expected an IMAGE or a VIDEO. Connect frames, or Load Video.")


def check_audio(name: str, audio: Any) -> None:
    """Raise ValueError unless an AUDIO is a waveform ``[B, channels, samples]`` with its rate."""
    waveform = audio.get("waveform") if isinstance(audio, dict) else None
    if not isinstance(waveform, Tensor) or waveform.is_nested or waveform.ndim != 3 or "sample_rate" not in audio:
        raise ValueError(
            f"The {name} is {_kind(audio)}; expected an AUDIO, with a waveform [batch, channels, samples] and its "
            "sample_rate. Connect Load Audio."
        )
    rate = audio["sample_rate"]
    if isinstance(rate, bool) or not isinstance(rate, int) or rate < 1:
        raise ValueError(f"The sample_rate of the {name} is {rate!r}; expected samples a second.")


def check_model(name: str, model: Any) -> None:
    """Raise ValueError unless a MODEL is a patcher of a network."""
    if getattr(model, "model", None) is None or not callable(getattr(model, "clone", None)):
        raise ValueError(f"The {name} is {_kind(model)}; expected a MODEL. Connect a FlashVideo loader.")


def check_clip(name: str, clip: Any) -> None:
    """Raise ValueError unless a CLIP encodes text."""
    if not callable(getattr(clip, "tokenize", None)):
        raise ValueError(f"The {name} is {_kind(clip)}; expected a CLIP. Connect FlashVideo Load Text Encoder.")


def check_conditioning(name: str, conditioning: Any) -> None:
    """Raise ValueError unless a CONDITIONING is a list of (floating point ``[B, L, D]``, dictionary)."""
    if not isinstance(conditioning, list | tuple) or not conditioning:
        what = "empty" if isinstance(conditioning, list | tuple) else _kind(conditioning)
        raise ValueError(f"The {name} is {what}; expected a CONDITIONING. Connect FlashVideo Text Encode.")
    for entry in conditioning:
        paired = isinstance(entry, list | tuple) and len(entry) == 2 and isinstance(entry[1], dict)
        embeds = entry[0] if paired else None
        if not isinstance(embeds, Tensor) or embeds.is_nested or embeds.ndim != 3 or not embeds.is_floating_point():
            shape = f", not {list(embeds.shape)}" if isinstance(embeds, Tensor) and not embeds.is_nested else ""
            raise ValueError(
                f"The {name} holds no prompt embeddings of this model, floating point [1, tokens, width]{shape}. "
                "Connect FlashVideo Text Encode."
            )
        if not torch.isfinite(embeds).all():
            raise ValueError(f"The {name} has NaN or infinite values. Use the text encoder's bf16, fp8 or fp32 file.")


CHECKS: dict[str, Callable[[str, Any], None]] = {  # a VAE is asked for its kind by :func:`host.codec.require_vae`
    "LATENT": check_latent,
    "IMAGE": check_image,
    "VIDEO": check_video,
    "IMAGE,VIDEO": check_frames,
    "AUDIO": check_audio,
    "MODEL": check_model,
    "CLIP": check_clip,
    "CONDITIONING": check_conditioning,
}
_WIDGETS = ("COMBO", "STRING", "INT", "FLOAT")
_NAMED, _TOLD = 20, 200  # options and characters in a message
_NEVER_NONE = CHECKS.keys() - {"CLIP"}  # core gives None for a checkpoint without a text encoder
