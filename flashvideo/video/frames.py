"""The frames of a video file as they are shown at a constant rate, one after another, from any place on."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from .files import open_video
from .reading import Pictures, as_video
from .timing import Timing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shown:
    """A video file as it will be read.

    Attributes:
        path: of the file.
        height, width: of its frames as they are shown, in pixels.
        rate: frames a second.
        start: time of the first picture, in seconds on the file's clock.
        frames: how many there are, by what the file tells; fewer or more may come.
        repeats: how often a picture is shown, by its number; once if it is not there.
    """

    path: Path
    height: int
    width: int
    rate: Fraction
    start: Fraction
    frames: int
    repeats: dict[int, int]


def look_at(path: Path) -> Shown:
    """Find size, rate and number of a file's frames: one picture is decoded, of all others the times are read.

    Where the times are uneven, pictures are shown as often as the lowest usual rate needs that leaves none out, so
    that sound stays in step; the log says so.

    Raises:
        ValueError: a missing file, no video, damaged data.
    """
    from av.error import FFmpegError

    try:
        with open_video(path) as container:
            pictures = Pictures(container)
            if pictures.stream is None:
                raise ValueError(f"{path} has no video stream that can be decoded. Give one of a usual codec.")
            first = next(iter(pictures), None)
            if first is None:
                raise ValueError(f"{path} has no frames. Give a complete video.")
            height, width, _ = first.pixels().shape
            for remark in pictures.remarks:
                log.warning("%s: %s", path, remark)
        with open_video(path) as container:
            timing = _times(container, Pictures(container), first.time)
    except FFmpegError as error:
        raise ValueError(f"{path} is damaged ({error.strerror}). Copy or download it again.") from error
    rate, numbers = timing.steady(pictures.rates)
    counts = Counter(numbers)
    repeats = {number: counts[number] for number in range(len(timing)) if counts[number] != 1}
    if repeats:
        log.warning(
            "%s: Its frame rate varies; it is read at %g frames a second, some frames %s.",
            *(path, float(rate), "twice" if min(repeats.values()) else "not at all"),
        )
    return Shown(Path(path), height, width, rate, first.time, len(numbers), repeats)


def _times(container: object, pictures: Pictures, first: Fraction) -> Timing:
    """When pictures are shown, by their packets, from the first one on."""
    stream, times, end = pictures.stream, set[Fraction](), Fraction(0)
    tick = Fraction(stream.time_base)
    for packet in container.demux(stream):  # type: ignore[attr-defined]
        if packet.pts is None or packet.is_discard:
            continue
        time = packet.pts * tick - first
        if time >= 0:
            times.add(time)
            end = max(end, time + (packet.duration or 0) * tick)
    ordered = tuple(sorted(times)) or (Fraction(0),)
    interval = 1 / (pictures.rates[0] if pictures.rates else Fraction(25))
    return Timing(ordered, end if end > ordered[-1] else ordered[-1] + interval, tick)


def read_frames(shown: Shown, start: int = 0) -> Iterator[Tensor]:
    """Frames ``[1, 3, 1, H, W]`` fp32 in 0..1 from number ``start`` on; those before are decoded and let go.

    Raises:
        ValueError: damaged data, a size that changes on the way, a file that ends before it says.
    """
    from av.error import FFmpegError

    path, position, number = shown.path, 0, -1
    with open_video(path) as container:
        pictures = Pictures(container)
        try:
            for number, picture in enumerate(pictures):
                last = position + shown.repeats.get(number, 1)
                if last > max(start, position):
                    pixels = picture.pixels()
                    if pixels.shape[:2] != (shown.height, shown.width):
                        raise ValueError(f"The frame size of {path} changes on the way. Re-encode it to one size.")
                    frame = as_video(pixels)[None, :, None]
                    for _ in range(max(start, position), last):
                        yield frame
                position = last
        except FFmpegError as error:
            raise ValueError(
                f"{path} is damaged after {number + 1} frames ({error.strerror}). Copy or download it again."
            ) from error
        if pictures.is_cut_short:
            raise ValueError(
                f"{path} is cut short: {number + 1} of {pictures.stream.frames} frames can be read. Copy or download "
                "it again."
            )
