"""Bringing files to the size, length and rate that training needs, a frame at a time, so that long videos fit."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from torch import Tensor

from ..video.ffmpeg import open_input, to_rgb24
from ..video.resize import resize_video

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MEDIA_SUFFIXES = (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)


class BadClipError(ValueError):
    """A file that cannot be trained on; its text is the reason. It is reported and left out."""


@dataclass(frozen=True)
class Framing:
    """Which part of a video is taken.

    Attributes:
        height, width: of the clip in pixels.
        frames: of the clip.
        fps: its frames per second, by leaving frames out; None takes every frame.
        fit: ``crop`` scales to cover the size and cuts the overhang, ``patch`` cuts without scaling (the paper trains
            on 540x960 patches of 2048x2048 images).
        position: of what is cut out. A patch is always at a random place.
        start: of the clip in a longer video.
    """

    height: int
    width: int
    frames: int
    fps: float | None = None
    fit: Literal["crop", "patch"] = "crop"
    position: Literal["centre", "random"] = "centre"
    start: Literal["first", "random"] = "first"


@dataclass(frozen=True)
class _Cut:
    """Size that a frame is scaled to, and the place of the clip in it."""

    scaled: tuple[int, int]
    top: int
    left: int


def read_clip(file: Path | BinaryIO, framing: Framing, generator: torch.Generator) -> Tensor:
    """Read part of a video or an image.

    Args:
        file: anything that FFmpeg reads.
        framing: which part.
        generator: where random places and starts come from.

    Returns:
        ``[3, F, H, W]`` fp32 in 0..1.

    Raises:
        BadClipError: not readable, too short, too slow or too small.
    """
    from av.error import FFmpegError

    shares = [float(share) for share in torch.rand(3, generator=generator, dtype=torch.float64)]
    try:
        with open_input(file) as container:
            if not container.streams.video:
                raise BadClipError("it has no video stream")
            wanted = _wanted_frames(container, framing, shares[0])
            return _read_frames(container, wanted, framing, shares[1:])
    except (FFmpegError, OSError) as error:
        raise BadClipError(f"it cannot be read ({error.strerror or error})") from error


def _wanted_frames(container: Any, framing: Framing, share: float) -> list[int]:
    """Numbers of the frames that make the clip."""
    stride = Fraction(1)
    if framing.fps is not None and framing.frames > 1:
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate
        if rate is None:
            raise BadClipError("its frame rate is unknown")
        stride = Fraction(rate) / Fraction(framing.fps).limit_denominator(1001)
        if stride < Fraction(99, 100):
            raise BadClipError(f"it has {float(rate):.4g} frames a second; {framing.fps:.4g} are wanted")
    span = int((framing.frames - 1) * stride) + 1
    first = 0
    if framing.start == "random":
        first = _place(_count_frames(container) - span, share)
    return [first + int(number * stride) for number in range(framing.frames)]


def _count_frames(container: Any) -> int:
    """Frames of the first video stream, by its packets where the container does not say."""
    stream = container.streams.video[0]
    if stream.frames:
        return int(stream.frames)
    count = sum(packet.size > 0 for packet in container.demux(stream))
    container.seek(0)
    return count


def _place(room: int, share: float) -> int:
    """A whole number from 0 to ``room``; 0 where there is no room."""
    return min(max(room, 0), int(share * (max(room, 0) + 1)))


def _read_frames(container: Any, wanted: list[int], framing: Framing, shares: list[float]) -> Tensor:
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    clip: Tensor | None = None
    size, filled, number = torch.Size(), 0, -1
    for number, picture in enumerate(container.decode(stream)):
        if number != wanted[filled]:
            continue
        pixels = torch.from_numpy(to_rgb24(picture, stream.codec_context.name).to_ndarray())
        if clip is None:
            size = pixels.shape[:2]
            cut = _cut_of(size, framing, shares)
            clip = torch.empty(3, framing.frames, framing.height, framing.width)
        if pixels.shape[:2] != size:
            raise BadClipError("its frame size changes on the way")
        clip[:, filled] = _cut_out(pixels.permute(2, 0, 1).float().div_(255), cut, framing)
        filled += 1
        if filled == len(wanted):
            return clip
    raise BadClipError(f"it has {number + 1} frames; {wanted[-1] + 1} are needed for {framing.frames}")


def _cut_of(size: torch.Size, framing: Framing, shares: list[float]) -> _Cut:
    height, width = tuple(size)
    if height < framing.height or width < framing.width:
        raise BadClipError(f"it is {height}x{width} pixels; at least {framing.height}x{framing.width} are needed")
    if framing.fit == "crop":
        scale = max(framing.height / height, framing.width / width)
        height, width = max(framing.height, round(height * scale)), max(framing.width, round(width * scale))
    rows, columns = height - framing.height, width - framing.width
    if framing.fit == "crop" and framing.position == "centre":
        return _Cut((height, width), rows // 2, columns // 2)
    return _Cut((height, width), _place(rows, shares[0]), _place(columns, shares[1]))


def _cut_out(frame: Tensor, cut: _Cut, framing: Framing) -> Tensor:
    """``[3, h, w]`` -> ``[3, H, W]``."""
    if frame.shape[1:] != cut.scaled:
        frame = resize_video(frame[None, :, None], *cut.scaled)[0, :, 0].clamp_(0, 1)
    return frame[:, cut.top : cut.top + framing.height, cut.left : cut.left + framing.width]
