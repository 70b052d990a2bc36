"""Masks of what Stage II keeps, from pictures and videos: white is kept as the preview shows it."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..checkpoints.paths import expanded
from ..method.keeping import latent_masks
from ..tensors.sizes import SPATIAL_FACTOR, latent_frames
from ..video.files import open_video
from ..video.reading import Pictures, as_video
from ..video.resize import resize_video

if TYPE_CHECKING:
    from .settings import Stage2Settings

log = logging.getLogger(__name__)

NOTHING_KEPT = ""
_DIGEST = 16  # hexadecimal digits


def identified(text: str) -> str:
    """A mask's file with what tells its content: ``PATH#DIGEST``; a file with another content is another mask.

    Raises:
        ValueError: no such file, or no picture.
    """
    path, known = _parted(text)
    if not path:
        return NOTHING_KEPT
    found = _digest(path)
    if known not in ("", found):
        raise ValueError(
            f"The mask {path} has changed since this was asked for. Give --keep {path} again to take it as it is now, "
            "or bring the old one back."
        )
    for _frame in _frames(path):
        return f"{path}#{found}"
    raise ValueError(f"The mask {path} has no picture that can be read. Give a picture, or a video.")


def keep_mask(settings: Stage2Settings, frames: int) -> Tensor | None:
    """``[1, 1, 1 or T, h, w]`` for Stage II of so many frames; None where nothing is kept.

    The mask is of the preview's picture, and brought to Stage II's size as that is. A picture holds for the whole
    video. A video that ends earlier goes on with its last frame; of a longer one the rest is left out.

    Raises:
        ValueError: a mask that is missing, has changed, or cannot be read.
    """
    if not settings.keep:
        return None
    count, masks = 0, list[Tensor]()
    for mask in keep_masks(settings):
        masks.append(mask)
        count += 1
        if count == latent_frames(frames):
            break
    path, _ = _parted(settings.keep)
    if 1 < count < latent_frames(frames):
        log.warning("The mask %s ends earlier than the video: its last frame goes on.", path)
        masks += [masks[-1]] * (latent_frames(frames) - count)
    return torch.cat(masks, dim=2)


def endless_masks(settings: Stage2Settings) -> Tensor | Iterator[Tensor] | None:
    """:func:`keep_mask` of a video of any length: one mask for all latents, or masks that go on with their last."""
    if not settings.keep:
        return None
    return endless(keep_masks(settings))


def endless(masks: Iterator[Tensor]) -> Tensor | Iterator[Tensor]:
    """A single mask for all latents, or masks that go on with their last."""
    begin = list(islice(masks, 2))
    return begin[0] if len(begin) == 1 else _going_on(chain(begin, masks))


def _going_on(masks: Iterator[Tensor]) -> Iterator[Tensor]:
    for mask in masks:
        yield mask
    yield from repeat(mask)


def keep_masks(settings: Stage2Settings) -> Iterator[Tensor]:
    """Masks ``[1, 1, 1, h, w]`` of one latent after another, as many as the mask's file has."""
    path, _ = _parted(identified(settings.keep))
    return masks_of(_frames(path), settings)


def masks_of(frames: Iterable[Tensor], settings: Stage2Settings) -> Iterator[Tensor]:
    """Masks ``[1, 1, 1, h, w]`` of latents, from those of frames, ``[1, 3, 1, H, W]`` of any size."""
    height, width = settings.height, settings.width
    sized = (resize_video(frame, height, width, mode=settings.resize) for frame in frames)
    grey = (frame[0, :, 0].mean(dim=0, keepdim=True) for frame in sized)
    return latent_masks(grey, height // SPATIAL_FACTOR, width // SPATIAL_FACTOR)


def _parted(text: str) -> tuple[str, str]:
    """The path, and the digest that stands behind it, or ""."""
    match = re.fullmatch(rf"(.+)#([0-9a-f]{{{_DIGEST}}})", text, re.DOTALL)
    return (match[1], match[2]) if match else (text, "")


def _digest(path: str) -> str:
    file = expanded(Path(path))
    if not file.is_file():
        raise ValueError(f"There is no mask {path}. Give a picture or a video, white where the preview is kept.")
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:_DIGEST]


def _frames(path: str) -> Iterator[Tensor]:
    """``[1, 3, 1, h, w]`` each, in 0..1."""
    from av.error import FFmpegError

    with open_video(path) as container:
        try:
            for picture in Pictures(container):
                yield as_video(picture.pixels())[None, :, None]
        except FFmpegError as error:
            raise ValueError(f"The mask {path} is damaged ({error.strerror}). Make it again.") from error
