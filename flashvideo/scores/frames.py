"""A video, the source that it came from and the true one that it should equal, picture by picture and side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..video.resize import stretching
from .shown import Footage, Shown, opened

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


class Frames:
    """The frames of a video beside those of its source and of the true video; iterate once, inside ``with``.

    Args:
        video: a file, a part of one, or pictures.
        against: the source: of any size and rate, shown by its times.
        true: what the video should equal: of its size; frame by frame.
        min_side: pixels that the sides of all have at least.

    Attributes:
        size: (height, width) of the video.
        remarks: what was aligned, in sentences; complete after the last frame.

    Raises:
        ValueError: what is no video or damaged; sizes that cannot be held against each other.
    """

    def __init__(
        self,
        video: Footage,
        against: Footage | None = None,
        true: Footage | None = None,
        *,
        min_side: int = MIN_SIDE,
    ) -> None:
        self._footage = {"video": video, "against": against, "true": true}
        self._min_side = min_side
        self.remarks: list[str] = []

    def __enter__(self) -> Frames:
        with ExitStack() as stack:
            shown = {
                what: stack.enter_context(opened(footage, what, self._min_side))
                for what, footage in self._footage.items()
                if footage is not None
            }
            self.video, self.against, self.true = shown["video"], shown.get("against"), shown.get("true")
            self.size = self.video.size
            self._check_sizes()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def total(self) -> int:
        """Frames of the video, as is known beforehand; 0 if it is not."""
        return self.video.total

    def _check_sizes(self) -> None:
        height, width = self.size
        if self.true is not None and self.true.size != self.size:
            h, w = self.true.size
            raise ValueError(
                f"{self.true.name} is {w}x{h} and {self.video.name} {width}x{height}: the true video has the same "
                "size, pixel by pixel. Give what it was made from as its source instead (--against)."
            )
        if self.against is not None and stretching(*self.against.size, height, width) > _STRETCHED:
            h, w = self.against.size
            self.remarks.append(
                f"{self.against.name} is {w}x{h}, of another shape than {width}x{height}: it is held against the video "
                "as if stretched."
            )

    def __iter__(self) -> Iterator[Frame]:
        yield from self._laid()
        self.remarks += [
            f"{shown.name}: {remark}"
            for shown in (self.video, self.against, self.true)
            if shown is not None
            for remark in shown.remarks
        ]

    def _laid(self) -> Iterator[Frame]:
        index, end = 0, Fraction(0)
        while (taken := self.video.first()) is not None:
            seconds, pixels = taken
            source = true = None
            if self.against is not None and (source := self.against.at(seconds)) is None:
                return self._ended(self.against, index)
            if self.true is not None:
                if (pair := self.true.first()) is None:
                    return self._ended(self.true, index)
                true = pair[1]
            yield Frame(index, float(seconds), pixels, source, true)
            index, end = index + 1, seconds + self.video.interval
        if self.against is not None and self.against.goes_on(end):
            self.remarks.append(f"{self.against.name} goes on after {float(end):.2f} s, where {self.video.name} ends.")

    def _ended(self, other: Shown, count: int) -> None:
        self.remarks.append(f"{other.name} ends earlier: the first {count} frames of {self.video.name} count.")
