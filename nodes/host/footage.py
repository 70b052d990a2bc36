"""VIDEOs and IMAGEs as the library reads them: picture by picture, a file from its file, a lazy one as it is made."""

from __future__ import annotations

import io
from collections.abc import Generator
from fractions import Fraction
from typing import Any

from comfy_api.input_impl import VideoFromComponents
from torch import Tensor

from ...flashvideo.scores.shown import Given, Part, eight_bits
from .lazy_video import LazyVideo
from .source import trimmed_to


def footage_of(video: Any, name: str) -> Given | Part:
    """A VIDEO, in the part that it is trimmed to; ``name`` is what messages call it."""
    if isinstance(video, LazyVideo):
        return Given(lambda: _eight_bits(video.frames()), video.get_frame_rate(), video.get_frame_count(), name)
    if isinstance(video, VideoFromComponents):
        parts = video.get_components()
        return footage_of_image(parts.images, Fraction(parts.frame_rate), name)
    file = video.get_stream_source()
    if isinstance(file, io.BytesIO):
        file = io.BytesIO(
            file.getvalue()
        )  # the same bytes, with a place of its own: the object may be read twice at once
    return Part(file, *trimmed_to(video), name)


def footage_of_image(image: Tensor, rate: Fraction, name: str) -> Given:
    """An IMAGE ``[F, H, W, C]`` at so many frames a second; alpha is left out."""
    return Given(lambda: _eight_bits(frame for frame in image), rate, len(image), name)


def _eight_bits(frames: Generator[Tensor, None, None]) -> Generator[Tensor, None, None]:
    """``[H, W, C]`` in 0..1 -> ``[3, H, W]`` uint8."""
    try:
        for frame in frames:
            yield eight_bits(frame[..., :3].movedim(-1, 0))
    finally:
        frames.close()
