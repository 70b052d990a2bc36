"""Whether a video keeps what its source shows: its low band, and its colours over time."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from .frames import Frame
from .series import moving_mean, spread

CAP = 100.0  # dB, of what is equal
_CELL = 8  # pixels
_FITS = 3
_SMOOTHED = 12  # frames over which colours are averaged, at most
_STRETCHES, _SURE = 6, 5.0  # parts of a video, and the deviations of their mean that chance may bring
_CUT = 24.0  # median change of a picture, in levels, from which on it is another scene


@dataclass(frozen=True)
class Likeness:
    """Of a video to its source.

    Attributes:
        likeness: PSNR in dB of what both show at the source's size; None without a source.
        colour_shift: mean red, green and blue, less the source's, over the whole video, in levels; None without.
        drift: how far the mean colour departs from what it was in the beginning, in levels of 255: the source's own
            changes left out; without a source, what most of the picture does, which content may do as well.
    """

    likeness: float | None
    colour_shift: tuple[float, float, float] | None
    drift: float


class LikenessMeasure:
    def __init__(self) -> None:
        self._error, self._count = 0.0, 0
        self._colours = [array("f") for _ in range(3)]  # of the difference; without a source, steps of the median
        self._before: Tensor | None = None
        self._has_source = False

    def add(self, frame: Frame) -> tuple[float | None, float]:
        """Take a frame; gives its likeness in dB and its colours' mean departure from the source's, or step."""
        self._count += 1
        if frame.low_pair is None:
            return None, self._step(frame)
        self._has_source = True
        difference = frame.low_pair[0] - frame.low_pair[1]
        error = float(difference.square().mean())
        self._error += error
        means = difference.mean(dim=(1, 2)).tolist()
        for colours, mean in zip(self._colours, means, strict=True):
            colours.append(mean)
        return decibel(error), sum(means) / 3

    def _step(self, frame: Frame) -> float:
        """Of every colour since the frame before, in most of the picture; none over a cut."""
        small = F.avg_pool2d(frame.video.float(), _CELL)
        before, self._before = self._before, small
        if before is None:
            return 0.0
        steps = stepped(before, small)
        if float((small - before).abs().median()) > _CUT:
            steps = torch.zeros(3)
        for colours, step in zip(self._colours, steps.tolist(), strict=True):
            colours.append(step)
        return float(steps.mean())

    def result(self) -> Likeness:
        if not self._has_source:
            return Likeness(None, None, max(walked(list(colours)) for colours in self._colours))
        shift = tuple(sum(colours) / len(colours) for colours in self._colours)
        drift = max(departed(list(colours)) for colours in self._colours)
        return Likeness(decibel(self._error / self._count), (shift[0], shift[1], shift[2]), drift)


def stepped(before: Tensor, after: Tensor) -> Tensor:
    """How much brighter each colour became between pictures ``[3, h, w]`` beside the brightness that moved along.

    ``after - before = step - u d/dx - v d/dy``, by least squares, twice: what does not fit is then left out.
    """
    middle = (before + after) / 2
    across, down = (F.pad(middle, (1, 1, 1, 1), mode="replicate").diff(n=1, dim=dim) for dim in (2, 1))
    across = (across[:, 1:-1, 1:] + across[:, 1:-1, :-1]).flatten(1) / 2
    down = (down[:, 1:, 1:-1] + down[:, :-1, 1:-1]).flatten(1) / 2
    change = (after - before).flatten(1)
    terms = torch.stack([torch.ones_like(across), across, down], dim=2)
    weights = torch.ones_like(change)
    for _ in range(_FITS):
        weighted = terms * weights[..., None]
        normal = weighted.mT @ terms + 1e-3 * torch.eye(3)
        fitted = torch.linalg.solve(normal, weighted.mT @ change[..., None])
        rest = (change - (terms @ fitted)[..., 0]).abs()
        weights = (rest <= 3 * rest.median(dim=1, keepdim=True).values).float()
    return fitted[:, 0, 0]


def decibel(error: float) -> float:
    """PSNR of a mean squared error in levels of 255, capped."""
    return min(CAP, 10 * math.log10(255**2 / error)) if error else CAP


def departed(values: list[float]) -> float:
    """The largest distance of a smoothed series from its beginning, less what its noise alone would do."""
    length = max(1, min(_SMOOTHED, len(values) // 3))
    smooth = moving_mean(values, length)
    if len(smooth) < 2:
        return 0.0
    middle = (length - 1) // 2
    noise = spread([values[middle + i] - smooth[i] for i in range(len(smooth))]) if length > 1 else 0.0
    return max(0.0, max(abs(value - smooth[0]) for value in smooth) - 3 * noise * math.sqrt(2 / length))


def walked(steps: list[float]) -> float:
    """How far steps lead that go the same way all along, in stretches of the video: what comes and goes is content."""
    if len(steps) < _STRETCHES:
        return 0.0
    edges = [round(i * len(steps) / _STRETCHES) for i in range(_STRETCHES + 1)]
    parts = [sum(steps[low:high]) for low, high in pairwise(edges)]
    mean = sum(parts) / len(parts)
    deviation = math.sqrt(sum((part - mean) ** 2 for part in parts) / (len(parts) - 1))
    return max(0.0, abs(mean) - _SURE * deviation / math.sqrt(len(parts))) * len(parts)
