"""The small views of a video that DOVER and FAST-VQA look at, taken frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..frames import Frame

SIDE = 224  # pixels of a view
_CELLS, _PATCH = 7, 32  # a view's patches along a side, their pixels
_MEAN, _DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet's levels


class View:
    """Frames of a video, each made into a picture of 224x224 pixels.

    Args:
        frames: their numbers; one may come again.
        taken: the picture ``[3, 224, 224]`` of a frame ``[3, H, W]`` that comes as the n-th.
    """

    def __init__(self, frames: Sequence[int], taken: Callable[[Tensor, int], Tensor]) -> None:
        self._places: dict[int, list[int]] = {}
        for place, index in enumerate(frames):
            self._places.setdefault(index, []).append(place)
        self._taken = taken
        self._pixels = torch.zeros(3, len(frames), SIDE, SIDE, dtype=torch.uint8)

    def add(self, frame: Frame) -> None:
        for place in self._places.pop(frame.index, ()):
            self._pixels[:, place] = self._taken(frame.video, place)

    def clips(self, count: int) -> Tensor:
        """``[count, 3, frames / count, 224, 224]`` as networks take it.

        Raises:
            ValueError: the video ended before it was complete.
        """
        if self._places:
            raise ValueError(f"the video ends before its frame {max(self._places)}")
        pixels = self._pixels.float()
        mean, deviation = (torch.tensor(values)[:, None, None, None] for values in (_MEAN, _DEVIATION))
        return ((pixels - mean) / deviation).unflatten(1, (count, -1)).transpose(0, 1)


def spread(total: int, parts: int, length: int, step: int, chance: torch.Generator) -> list[int]:
    """Numbers of frames: a run of ``length`` frames, ``step`` apart, somewhere in each of so many parts of a video.
    Where a part is too short for it, the run begins with the part; behind the video's end comes its beginning.
    """
    part = total // parts
    room = part - length * step
    starts = [
        part * index + (int(torch.randint(room, (1,), generator=chance)) if room > 0 else 0) for index in range(parts)
    ]
    return [(start + step * index) % total for start in starts for index in range(length)]


class Fragments:
    """Patches of a frame in its own pixels, one from each cell of a grid, as one picture. For ``still`` frames on end
    they stay where they are; then others are drawn.
    """

    def __init__(self, frames: int, still: int, chance: torch.Generator) -> None:
        self._still = still
        self._drawn = torch.rand(frames // still, 2, _CELLS, _CELLS, generator=chance)

    def __call__(self, pixels: Tensor, place: int) -> Tensor:
        cells = [side // _CELLS for side in pixels.shape[1:]]
        drawn = self._drawn[place // self._still]
        picture = pixels.new_empty(3, SIDE, SIDE)
        for row in range(_CELLS):
            for column in range(_CELLS):
                top, left = (
                    cell * index + int(drawn[axis, row, column] * (cell - _PATCH))
                    for axis, (cell, index) in enumerate(zip(cells, (row, column), strict=True))
                )
                patch = pixels[:, top : top + _PATCH, left : left + _PATCH]
                picture[:, row * _PATCH : (row + 1) * _PATCH, column * _PATCH : (column + 1) * _PATCH] = patch
        return picture


def thumbnail(pixels: Tensor, _: int = 0) -> Tensor:
    """The whole frame, squeezed; without antialiasing, as the library did with which DOVER was published."""
    return F.interpolate(pixels[None].float(), (SIDE, SIDE), mode="bilinear")[0].round().to(torch.uint8)
