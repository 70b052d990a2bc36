"""A video, the source that it came from and the true one that it should equal, picture by picture and side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints.paths import expanded
from ..video.ffmpeg import open_input
from ..video.files import open_video
from ..video.reading import Pictures
from ..video.resize import stretching
from ..video.whole import is_cut_short

File = str | Path | BinaryIO

_LUMA = (0.2126, 0.7152, 0.0722)  # BT.709
_STRETCHED = 1.05  # shapes that differ by more are told
_LOW = 4  # by which the low band is smaller than a video whose source is as large as itself
MIN_SIDE = 32


@dataclass(frozen=True)
class Frame:
    """One picture of a video, and what it is held against.

    Attributes:
        index: of the picture in its video.
        seconds: since the video's first.
        video: ``[3, H, W]`` uint8.
        source: ``[3, h, w]`` uint8, the picture that the source shows at that time; None without one.
        true: ``[3, H, W]`` uint8, of the true video; None without one.
    """

    index: int
    seconds: float
    video: Tensor
    source: Tensor | None = None
    true: Tensor | None = None

    @cached_property
    def luma(self) -> Tensor:
        """``[H, W]`` fp32, 0..255."""
        return _luma(self.video)

    @cached_property
    def source_luma(self) -> Tensor | None:
        return None if self.source is None else _luma(self.source)

    @cached_property
    def true_luma(self) -> Tensor | None:
        return None if self.true is None else _luma(self.true)

    @cached_property
    def low_pair(self) -> tuple[Tensor, Tensor] | None:
        """Video and source at the size at which both show the same: ``[3, h, w]`` fp32, 0..255 each. That is the
        source's own where it is smaller, and a quarter of the video's where it is not.
        """
        if self.source is None:
            return None
        size = low_size(self.video.shape[1:], self.source.shape[1:])
        return _reduced(self.video, size), _reduced(self.source, size)

    @cached_property
    def coarse(self) -> Tensor:
        """``[H/4, W/4]`` luma, means of 4x4 pixels."""
        return F.avg_pool2d(self.luma[None], 4)[0]


def low_size(video: torch.Size | tuple[int, ...], source: torch.Size | tuple[int, ...]) -> tuple[int, int]:
    """(height, width) of the low band of a video with that source."""
    height, width = (min(s, v) if s < v else max(1, v // _LOW) for v, s in zip(video, source, strict=True))
    return height, width


def _luma(pixels: Tensor) -> Tensor:
    red, green, blue = (plane.float() for plane in pixels)
    return red.mul_(_LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def _reduced(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(pixels.shape[1:]) == size:
        return pixels.float()
    height, width = pixels.shape[1:]
    if height % size[0] == 0 and width % size[1] == 0:
        return F.avg_pool2d(pixels.float(), (height // size[0], width // size[1]))
    return F.interpolate(pixels[None].float(), size=size, mode="bilinear", antialias=True)[0]


class _Shown:
    """A file's pictures as a player shows them, from the first one's time on."""

    def __init__(self, container: Any, name: str) -> None:
        self.name, self.pictures = name, Pictures(container)
        if self.pictures.stream is None:
            raise ValueError(f"{name} has no video stream that can be decoded. Give a video.")
        self.size: tuple[int, int] = (0, 0)
        self._rest = self._read()
        self._now: tuple[Fraction, Tensor] | None = None
        self._next = self.take()
        if self._next is None:
            raise ValueError(f"{name} has no frames. Give a complete video.")
        height, width = self.size
        if min(height, width) < MIN_SIDE:
            raise ValueError(f"{name} is {width}x{height}; expected {MIN_SIDE} pixels a side or more.")

    @property
    def frames(self) -> int:
        """As the file announces them; 0 if it does not."""
        return int(self.pictures.stream.frames)

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
        if self._now is None or (self._next is None and seconds >= self._now[0] + self._interval):
            return None
        return self._now[1]

    @property
    def _interval(self) -> Fraction:
        rates = self.pictures.rates
        return 1 / rates[0] if rates else Fraction(1, 25)

    @property
    def _tolerance(self) -> Fraction:
        return self._interval / 4  # of clocks that round differently

    def _read(self) -> Iterator[tuple[Fraction, Tensor]]:
        from av.error import FFmpegError

        count = 0
        try:
            for picture in self.pictures:
                pixels = torch.from_numpy(picture.pixels()).permute(2, 0, 1)
                size = (pixels.shape[1], pixels.shape[2])
                self.size = self.size if count else size
                if size != self.size:
                    raise ValueError(f"The frame size of {self.name} changes on the way. Re-encode it to one size.")
                yield picture.time - self.pictures.first, pixels
                count += 1
        except FFmpegError as error:
            raise ValueError(
                f"{self.name} is damaged after {count} frames ({error.strerror}). Copy or download it again."
            ) from error
        if self.pictures.is_cut_short:
            raise ValueError(
                f"{self.name} is cut short: {count} of {self.frames} frames can be read. Copy or download it again."
            )


class Frames:
    """The frames of a video beside those of its source and of the true video; iterate once, inside ``with``.

    Args:
        video: a file.
        against: the source: of any size and rate, shown by its times.
        true: what the video should equal: of its size; frame by frame.

    Attributes:
        remarks: what was aligned, in sentences; complete after the last frame.

    Raises:
        ValueError: what is no video or damaged; sizes that cannot be held against each other.
    """

    def __init__(self, video: File, against: File | None = None, true: File | None = None) -> None:
        self._files = {"video": video, "against": against, "true": true}
        self.remarks: list[str] = []

    def __enter__(self) -> Frames:
        with ExitStack() as stack:
            opened = {
                name: _Shown(stack.enter_context(_open(file)), _name(file, name))
                for name, file in self._files.items()
                if file is not None
            }
            self._stack = stack.pop_all()
        self.video, self.against, self.true = opened["video"], opened.get("against"), opened.get("true")
        self.size = self.video.size
        try:
            self._check_sizes()
        except ValueError:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def total(self) -> int:
        """Frames of the video as its file announces them; 0 if it does not."""
        return self.video.frames

    def _check_sizes(self) -> None:
        height, width = self.size
        if self.true is not None and self.true.size != self.size:
            h, w = self.true.size
            raise ValueError(
                f"{self.true.name} is {w}x{h} and {self.video.name} {width}x{height}: the true video has the same "
                "size, pixel by pixel. Give the source with --against instead."
            )
        if self.against is not None and stretching(*self.against.size, height, width) > _STRETCHED:
            h, w = self.against.size
            self.remarks.append(
                f"{self.against.name} is {w}x{h}, of another shape than {width}x{height}: it is held against the video "
                "as if stretched."
            )

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        while (taken := self.video.first()) is not None:
            seconds, pixels = taken
            source = true = None
            if self.against is not None and (source := self.against.at(seconds)) is None:
                self._ended(self.against, index)
                return
            if self.true is not None:
                if (pair := self.true.first()) is None:
                    self._ended(self.true, index)
                    return
                true = pair[1]
            yield Frame(index, float(seconds), pixels, source, true)
            index += 1
        self.remarks += [
            f"{shown.name}: {remark}"
            for shown in (self.video, self.against, self.true)
            if shown is not None
            for remark in shown.pictures.remarks
        ]

    def _ended(self, other: _Shown, count: int) -> None:
        self.remarks.append(f"{other.name} ends earlier: the first {count} frames of {self.video.name} count.")


def _name(file: File, what: str) -> str:
    return str(file) if isinstance(file, (str, Path)) else f"the {what} video"


@contextmanager
def _open(file: File) -> Iterator[Any]:
    if isinstance(file, (str, Path)):
        with open_video(file) as container:
            if is_cut_short(expanded(file)):  # before any work, not when its end is reached
                raise ValueError(f"{file} is cut short: it ends before it should. Copy or download it again.")
            yield container
        return
    from av.error import FFmpegError

    try:
        container = open_input(file)
    except (FFmpegError, OSError) as error:
        raise ValueError(f"The given bytes cannot be read as a video ({error.strerror or error}).") from error
    with container:
        yield container
