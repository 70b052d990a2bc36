"""Bringing files to the size, length and rate that training needs, a frame at a time, so that long videos fit."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Literal

import torch
from torch import Tensor

from ..video.ffmpeg import open_input
from ..video.reading import Pictures, as_video
from ..video.resize import resize_video

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MEDIA_SUFFIXES = (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)
_SLOWEST = Fraction(99, 100)  # of the rate that is wanted


class BadClipError(ValueError):
    """A file that cannot be trained on; its text is the reason. It is reported and left out."""


@dataclass(frozen=True)
class Framing:
    """Which part of a video is taken.

    Attributes:
        height, width: of the clip in pixels.
        frames: of the clip.
        fps: its frames per second, taken by their times; None takes every frame.
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
    """Read part of a video or an image, as a player shows it (:mod:`flashvideo.video.reading`).

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
        wanted = _wanted_frames(file, framing, shares[0])
        with open_input(file) as container:
            pictures = Pictures(container)
            clip = _read_frames(pictures, wanted, framing, shares[1:])
    except (FFmpegError, OSError) as error:
        raise BadClipError(f"it cannot be read ({error.strerror or error})") from error
    for remark in pictures.remarks:
        log.warning("%s: %s", file if isinstance(file, Path) else "a clip", remark)
    return clip


def _wanted_frames(file: Path | BinaryIO, framing: Framing, share: float) -> list[int]:
    """Numbers of the frames that make the clip, ascending. Reads the file as far as that takes."""
    fps = framing.fps if framing.frames > 1 else None
    random = framing.start == "random"
    if fps is None and not random:
        return list(range(framing.frames))
    step = Fraction(0) if fps is None else 1 / Fraction(fps).limit_denominator(1001)
    span = (framing.frames - 1) * step
    with open_input(file) as container:
        pictures = Pictures(container)
        for picture in pictures:
            if not random and picture.time - pictures.first > span:
                break
    timing = pictures.timing()
    if fps is None or not timing:  # what is wrong with a file without pictures is said when they are read
        first = _place(len(timing) - framing.frames, share)
        return list(range(first, first + framing.frames))
    rate = timing.average(pictures.rates)
    if rate * step < _SLOWEST:
        raise BadClipError(f"it has {float(rate):.4g} frames a second; {fps:.4g} are wanted")
    starts = [time for time in timing.times if timing.lasts(time + span)]
    if not starts:
        needed = max(len(timing), int(span * rate)) + 1
        raise BadClipError(f"it has {len(timing)} frames; {needed} are needed for {framing.frames}")
    start = starts[_place(len(starts) - 1, share) if random else 0]
    return [timing.shown_at(start + number * step) for number in range(framing.frames)]


def _place(room: int, share: float) -> int:
    """A whole number from 0 to ``room``; 0 where there is no room."""
    return min(max(room, 0), int(share * (max(room, 0) + 1)))


def _read_frames(pictures: Pictures, wanted: list[int], framing: Framing, shares: list[float]) -> Tensor:
    clip: Tensor | None = None
    size, filled, number = torch.Size(), 0, -1
    for number, picture in enumerate(pictures):
        if number != wanted[filled]:
            continue
        pixels = as_video(picture.pixels())
        if clip is None:
            size = pixels.shape[1:]
            cut = _cut_of(size, framing, shares)
            clip = torch.empty(3, framing.frames, framing.height, framing.width)
        if pixels.shape[1:] != size:
            raise BadClipError("its frame size changes on the way")
        frame = _cut_out(pixels, cut, framing)
        while filled < len(wanted) and wanted[filled] == number:  # as often as it is shown
            clip[:, filled] = frame
            filled += 1
        if filled == len(wanted):
            return clip
    if pictures.stream is None:
        raise BadClipError("it has no video stream that can be decoded")
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
