"""Standing steps along whole rows and columns: the borders of tiles, windows and patches."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .frames import Frame

_SHARES = 16  # pieces of a row or column that are looked at one by one
_PIECES = 0.25  # of them may lack a step: the others have it at least so high
_REACH = 9  # neighbours that say how high steps are anyhow
_NEAR = 2  # that belong to the step
_LEAST = 0.15  # levels
_TAIL, _CERTAIN = 0.98, 3.0  # a single step is so many times as high as this share of the other places has
_PLACES, _BESIDE = 200, 3  # for each so many, one step is left out of that, with places around it
_FOLDED = 14.0  # deviations, of steps that recur
_OF_A_PERIOD = 0.4  # of the highest step, which those of a period have that it is one of
_ALIKE = 0.5  # of a step's height, which the source has to have
_RIM = 8  # pixels at the picture's own edges, where cameras and croppers leave steps
_SINGLE, _EDGE = 2.5, 32.0  # levels: without a source, single steps below and above are taken for what is shown
_MANY, _FEW = 8, 1.0  # borders that are surely none of what is shown; levels that fewer need without a source
_BLACK = 24.0  # levels: darker flat places are bars
_TO_DEVIATION = 1.4826  # of a normal distribution, from the median of distances
_SCALES = (1, 2, 4)  # pixels a sample: steps may be blended over some
_FINE = 2  # the coarsest at which a single step can be told from what is shown
_FEWEST = 3  # borders that make a period


@dataclass(frozen=True)
class Border:
    """A step that stands.

    Attributes:
        levels: its height, of 255.
        axis: ``x`` of a vertical border, ``y`` of a horizontal one.
        place: of the first one, in pixels from the left or the top.
        period: to the next one in pixels; 0 for a single one.
    """

    levels: float
    axis: str
    place: int
    period: int


class BorderMeasure:
    """Means of pieces of rows and columns, so that a step that is not along all of them is none."""

    def __init__(self) -> None:
        self._steps = {(axis, scale): _Steps(scale) for axis in "xy" for scale in _SCALES}
        self._sources = {key: _Steps(key[1]) for key in self._steps}
        self._size, self._source_size = (0, 0), (0, 0)

    def add(self, frame: Frame) -> None:
        self._size = (frame.video.shape[1], frame.video.shape[2])
        self._take(self._steps, frame.luma)
        if frame.source_luma is not None:
            self._source_size = (frame.source_luma.shape[0], frame.source_luma.shape[1])
            self._take(self._sources, frame.source_luma)

    @staticmethod
    def _take(steps: dict[tuple[str, int], _Steps], luma: Tensor) -> None:
        for axis in "xy":
            pieces = F.adaptive_avg_pool2d((luma if axis == "x" else luma.T)[None], (_SHARES, None))[0]
            for scale in _SCALES:
                steps[axis, scale].add(F.avg_pool1d(pieces[None], scale)[0] if scale > 1 else pieces)

    def result(self) -> Border | None:
        """The highest step, None where no step stands out."""
        found = []
        for (axis, scale), steps in self._steps.items():
            side, source_side = ((size[1] if axis == "x" else size[0]) for size in (self._size, self._source_size))
            profile = steps.profile()
            if profile is None:
                continue
            for coarse in _SCALES if source_side else ():  # scaling may have spread the source's over some pixels
                shown = self._sources[axis, coarse].profile()
                if shown is not None:
                    ratio = scale * source_side / (side * coarse)
                    profile = profile * ~_in_source(shown, profile, ratio)
            for height, place, period in _standing(profile, scale, with_source=bool(source_side)):
                found.append(Border(height, axis, (place + 2) * scale, period * scale))
        highest = max(found, key=lambda border: border.levels, default=None)
        recurring = [b for b in found if b.period and highest is not None and b.levels >= _OF_A_PERIOD * highest.levels]
        if highest is None or not recurring:
            return highest
        return replace(max(recurring, key=lambda border: border.levels), levels=highest.levels)


class _Steps:
    """Steps between neighbouring samples, beyond those on both sides, of pieces of the lines across: over frames."""

    def __init__(self, scale: int) -> None:
        self.scale = scale
        self._signed: Tensor | None = None
        self._size: Tensor | None = None
        self._least: Tensor | None = None
        self._most: Tensor | None = None
        self._count = 0

    def add(self, pieces: Tensor) -> None:
        """``[pieces, samples]`` means of luma."""
        if pieces.shape[1] < 4 * _REACH:
            return
        step = pieces.diff(dim=1)
        step = step[:, 1:-1] - (step[:, :-2] + step[:, 2:]) / 2
        if self._signed is None or self._size is None or self._least is None or self._most is None:
            self._signed, self._size = torch.zeros_like(step), torch.zeros_like(step)
            self._least, self._most = pieces.clone(), pieces.clone()
        self._signed += step
        self._size += step.abs()
        self._least = torch.minimum(self._least, pieces)
        self._most = torch.maximum(self._most, pieces)
        self._count += 1

    def profile(self) -> Tensor | None:
        """``[samples - 3]`` heights of the steps that stand in most pieces, beyond what their neighbours have."""
        if self._signed is None or self._size is None or self._least is None or self._most is None:
            return None
        heights = []
        for sums in (self._signed.abs(), self._size):
            least = (sums / self._count).quantile(_PIECES, dim=0)
            heights.append(least - _around(least))
        profile = torch.maximum(*heights)
        profile[self._beside_bars()] = 0
        rim = max(1, _RIM // self.scale)
        profile[:rim] = profile[-rim:] = 0
        return profile

    def _beside_bars(self) -> Tensor:
        """Which steps have a black and lifeless sample on one side: bars around the picture."""
        assert self._least is not None
        assert self._most is not None
        dead = ((self._most - self._least < 2) & (self._most < _BLACK)).all(dim=0)
        near = F.max_pool1d(dead.float()[None, None], 2 * _NEAR + 1, stride=1, padding=_NEAR)[0, 0] > 0
        return near[1:-2] | near[2:-1]


def _around(values: Tensor) -> Tensor:
    """Median of the neighbours on both sides, without the nearest, which a step changes too."""
    padded = F.pad(values[None, None], (_REACH, _REACH), mode="reflect")[0, 0]
    neighbours = padded.unfold(0, 2 * _REACH + 1, 1)
    others = [k for k in range(2 * _REACH + 1) if abs(k - _REACH) > _NEAR]
    return neighbours[:, others].median(dim=1).values


def _in_source(shown: Tensor, profile: Tensor, ratio: float) -> Tensor:
    """At which of the video's samples the source, of ``ratio`` times as many, has such a step too, or beside it."""
    wide = F.max_pool1d(shown[None, None], 3, stride=1, padding=1)[0, 0]
    places = ((torch.arange(len(profile)) + 2) * ratio - 2).round().long().clamp(0, len(wide) - 1)
    return wide[places] > torch.clamp(_ALIKE * profile, min=max(_LEAST, _usual(shown.double())))


def _usual(values: Tensor) -> float:
    """How high steps are at other places than the highest ones."""
    rest = values.abs()
    for _ in range(max(1, len(values) // _PLACES)):
        peak = int(rest.argmax())
        rest = torch.cat([rest[: max(0, peak - _BESIDE)], rest[peak + _BESIDE + 1 :]])
    return float(rest.quantile(_TAIL))


def _standing(profile: Tensor, scale: int, *, with_source: bool) -> list[tuple[float, int, int]]:
    """(levels, place, period) of the highest single step and of the clearest period.

    Without a source, what is shown has edges that stand as well: only what is clearer counts.
    """
    values = profile.double()
    noise = max(_TO_DEVIATION * float((values - values.median()).abs().median()), 1e-3)
    usual, found = _usual(values), []
    if not with_source and scale > 1:
        return []
    height, place = float(values.max()), int(values.argmax())
    allowed = scale == 1 or (scale <= _FINE and len(values) >= _PLACES)
    allowed = allowed and (with_source or _SINGLE < height < _EDGE)
    if allowed and height > max(_LEAST, _CERTAIN * usual):
        found.append((height, place, 0))
    best = (0.0, 0.0, 0, 0)
    places = torch.arange(len(values))
    for period in range(4, len(values) // _FEWEST + 1):
        rows = len(values) // period
        if rows < _MANY and scale > 1:
            continue
        folded = values[: rows * period].view(rows, period).sort(dim=0).values
        lower = folded[(rows - 1) // 2]  # the lower median: more than half of the borders are at least so high
        phase = int(lower.argmax())
        height, certainty = float(lower[phase]), float(lower[phase]) / noise * math.sqrt(rows)
        if height < _LEAST or certainty < max(_FOLDED, best[0] * 1.05):
            continue
        if rows < _MANY:
            beside = (places - phase + _NEAR) % period > 2 * _NEAR
            if height < max(_LEAST if with_source else _FEW, 1.5 * float(values[beside].abs().quantile(_TAIL))):
                continue
        best = (certainty, height, phase, period)
    if best[3]:
        found.append(best[1:])
    return found
