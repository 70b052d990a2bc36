"""What can be scored: files, parts of files, pictures that no file holds; all shown by their times."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

from ..checkpoints.paths import expanded
from ..video.ffmpeg import open_input
from ..video.files import open_video
from ..video.reading import Pictures
from ..video.whole import is_cut_short

File = str | Path | BinaryIO
_USUAL_RATE = Fraction(25)  # of files that tell none


@dataclass(frozen=True)
class Part:
    """The part of a file from ``start`` to before ``stop``, in seconds on the file's clock; None is its end.

    ``name`` is what it is called in messages.
    """

    file: File
    start: Fraction = Fraction(0)
    stop: Fraction | None = None
    name: str = ""


@dataclass(frozen=True)
class Given:
    """Pictures that no file holds.

    Attributes:
        pictures: gives them anew, from the first on, when called: ``[3, H, W]`` uint8 each.
        rate: pictures a second.
        count: how many they are.
        name: in messages.
    """

    pictures: Callable[[], Generator[Tensor, None, None]]
    rate: Fraction
    count: int
    name: str = "the video"


Footage = File | Part | Given


def given(video: Tensor, rate: float | Fraction, name: str = "the video") -> Given:
    """A clip ``[3, F, H, W]`` in 0..1 that is in memory."""
    return Given(lambda: (eight_bits(frame) for frame in video.unbind(1)), Fraction(rate), video.shape[1], name)


def eight_bits(picture: Tensor) -> Tensor:
    """Of any shape, 0..1 -> the same as uint8 on the CPU; values outside are clipped."""
    return picture.detach().float().cpu().clamp(0, 1).mul(255).round().byte()


class _Pictures(Protocol):
    """Pictures in the order of their times, read once."""

    name: str
    remarks: list[str]

    @property
    def total(self) -> int:
        """Of the pictures, as is known beforehand; 0 if it is not."""

    @property
    def interval(self) -> Fraction:
        """Seconds from one to the next, about."""

    def __iter__(self) -> Iterator[tuple[Fraction, Tensor]]:
        """Seconds since the first one, and ``[3, H, W]`` uint8."""


class _OfFile:
    def __init__(self, container: Any, part: Part) -> None:
        self.name, self.part = part.name, part
        self.pictures = Pictures(container, part.start or None, part.stop)
        self.remarks = self.pictures.remarks
        if self.pictures.stream is None:
            raise ValueError(f"{self.name} has no video stream that can be decoded. Give a video.")

    @property
    def total(self) -> int:
        stream, part = self.pictures.stream, self.part
        if not stream.frames or not (part.start or part.stop):
            return int(stream.frames)
        if not stream.duration:
            return 0
        end = stream.duration * Fraction(stream.time_base)
        return max(1, round(stream.frames * (min(part.stop or end, end) - part.start) / end))

    @property
    def interval(self) -> Fraction:
        return 1 / (self.pictures.rates[0] if self.pictures.rates else _USUAL_RATE)

    def __iter__(self) -> Iterator[tuple[Fraction, Tensor]]:
        from av.error import FFmpegError

        count = 0
        try:
            for picture in self.pictures:
                yield picture.time - self.pictures.first, torch.from_numpy(picture.pixels()).permute(2, 0, 1)
                count += 1
        except FFmpegError as error:
            raise ValueError(
                f"{self.name} is damaged after {count} frames ({error.strerror}). Copy or download it again."
            ) from error
        if self.part.stop is None and self.pictures.is_cut_short:
            raise ValueError(
                f"{self.name} is cut short: {count} of {self.pictures.stream.frames} frames can be read. Copy or "
                "download it again."
            )


class _OfGiven:
    def __init__(self, given: Given, pictures: Iterator[Tensor]) -> None:
        self.name, self.total, self.interval = given.name, given.count, 1 / given.rate
        self.remarks: list[str] = []
        self._pictures = pictures

    def __iter__(self) -> Iterator[tuple[Fraction, Tensor]]:
        for index, picture in enumerate(self._pictures):
            yield index * self.interval, picture


class Shown:
    """Pictures as a player shows them, from the first one's time on.

    Attributes:
        size: (height, width).
        name: in messages.
        remarks: what the pictures do not show, in sentences.
    """

    def __init__(self, pictures: _Pictures, min_side: int) -> None:
        self._pictures = pictures
        self.name, self.remarks = pictures.name, pictures.remarks
        self.size = (0, 0)
        self._rest = self._read()
        self._now: tuple[Fraction, Tensor] | None = None
        self._next = self.take()
        if self._next is None:
            raise ValueError(f"{self.name} has no frames. Give a complete video.")
        height, width = self.size
        if min(height, width) < min_side:
            raise ValueError(f"{self.name} is {width}x{height}; expected {min_side} pixels a side or more.")

    @property
    def total(self) -> int:
        """Number of pictures, as is known beforehand; 0 if it is not."""
        return self._pictures.total

    def take(self) -> tuple[Fraction, Tensor] | None:
        """The next picture and its time; None after the last."""
        return next(self._rest, None)

    def first(self) -> tuple[Fraction, Tensor] | None:
        """The picture that was read to begin with, and from then on the others, one by one."""
        given, self._next = self._next, None
        return given if given is not None else self.take()

    def at(self, seconds: Fraction) -> Tensor | None:
        """The picture that is shown at that time, which does not go back; None after the end."""
        while self._next is not None and self._next[0] <= seconds + self._tolerance:
            self._now, self._next = self._next, self.take()
        if self._now is None or (self._next is None and seconds >= self._now[0] + self._pictures.interval):
            return None
        return self._now[1]

    def goes_on(self, seconds: Fraction) -> bool:
        """Whether there are pictures from that time on that :meth:`at` was not asked for."""
        return self._next is not None and self._next[0] >= seconds - self._tolerance

    @property
    def interval(self) -> Fraction:
        return self._pictures.interval

    @property
    def _tolerance(self) -> Fraction:
        return self._pictures.interval / 4  # of clocks that round differently

    def _read(self) -> Iterator[tuple[Fraction, Tensor]]:
        for time, pixels in self._pictures:
            size = (pixels.shape[1], pixels.shape[2])
            if self.size == (0, 0):
                self.size = size
            if size != self.size:
                raise ValueError(f"The frame size of {self.name} changes on the way. Re-encode it to one size.")
            yield time, pixels


@contextmanager
def opened(footage: Footage, what: str, min_side: int = 1) -> Iterator[Shown]:
    """What is to be scored, opened; ``what`` names it where it has no name."""
    if isinstance(footage, Given):
        with closing(footage.pictures()) as pictures:
            yield Shown(_OfGiven(footage, pictures), min_side)
        return
    part = footage if isinstance(footage, Part) else Part(footage)
    if not part.name:
        name = str(part.file) if isinstance(part.file, (str, Path)) else f"the {what} video"
        part = Part(part.file, part.start, part.stop, name)
    with _container(part) as container:
        yield Shown(_OfFile(container, part), min_side)


@contextmanager
def _container(part: Part) -> Iterator[Any]:
    if isinstance(part.file, (str, Path)):
        with open_video(part.file) as container:
            if is_cut_short(expanded(part.file)):  # before any work, not when its end is reached
                raise ValueError(f"{part.file} is cut short: it ends before it should. Copy or download it again.")
            yield container
        return
    from av.error import FFmpegError

    try:
        container = open_input(part.file)
    except (FFmpegError, OSError) as error:
        raise ValueError(f"The given bytes cannot be read as a video ({error.strerror or error}).") from error
    with container:
        yield container
