"""Periodic change in time: the VAE's groups of frames, the hops of windows."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass

import torch
from torch import Tensor

from .frames import Frame

MAX_PERIOD = 64  # frames
_CERTAIN = 6.0  # deviations
_HALVES = 0.8  # correlation of what the first and the second half of a video do within a period
_LEAST = {"brightness": 0.001, "detail": 0.05, "change": 0.1}  # of the mean: codecs spread detail over frames unevenly
_OUTLIERS, _MOST = 3.0, 0.8  # times what this share does not exceed: cuts and flashes are no pulse
_STILL = 1.0  # levels that are added to changes, which may be none


@dataclass(frozen=True)
class Pulse:
    """The strongest one of a video.

    Attributes:
        share: how much the series differs within a period, from highest to lowest, as a share of its mean.
        period: in frames.
        of: ``brightness``, ``detail`` or ``change``.
    """

    share: float
    period: int
    of: str


class PulseMeasure:
    """Brightness, amplitude of detail, and change from frame to frame, relative to the source's where there is one."""

    def __init__(self) -> None:
        self._series = {name: array("d") for name in ("brightness", "detail", "change")}
        self._before: list[Tensor | None] = [None, None]

    def add(self, frame: Frame) -> float:
        """Take a frame; gives its change since the one before, in levels."""
        values = {"brightness": float(frame.coarse.mean()), "detail": _gradient(frame.luma)}
        values["change"] = changed = self._changed(0, frame.coarse)
        shown = dict.fromkeys(values, 1.0)
        if frame.source_luma is not None:
            shown = {"brightness": float(frame.source_luma.mean()), "detail": _gradient(frame.source_luma)}
            shown["change"] = self._changed(1, frame.source_luma)
        for name, series in self._series.items():
            least = _STILL if name == "change" else 0.5
            above = least if frame.source_luma is not None else 0.0
            series.append(math.log((values[name] + least) / (shown[name] + above)))
        return changed

    def _changed(self, which: int, picture: Tensor) -> float:
        before, self._before[which] = self._before[which], picture
        return 0.0 if before is None else float((picture - before).abs().mean())

    def result(self) -> Pulse | None:
        """None where nothing recurs."""
        found = []
        for name, series in self._series.items():
            values = torch.tensor(series[1 if name == "change" else 0 :], dtype=torch.float64)
            if (pulse := recurring(values)) is not None and pulse[0] > _LEAST[name]:
                found.append(Pulse(pulse[0], pulse[1], name))
        return max(found, key=lambda pulse: pulse.share, default=None)


def _gradient(luma: Tensor) -> float:
    """Mean difference between neighbouring pixels, of the whole picture: patches would see what passes through them."""
    return float(luma.diff(dim=1).abs().mean())


def recurring(values: Tensor) -> tuple[float, int] | None:
    """(size from highest to lowest, period) of what recurs most clearly in a series; None where nothing does.

    Looked at are steps from one frame to the next: trends are one and the same step, and a cut is one of many.
    """
    steps = values.diff()
    best: tuple[float, float, int] = (_CERTAIN, 0.0, 0)
    for period in range(2, min(MAX_PERIOD, len(values) // 3) + 1):
        places = torch.arange(len(steps)) % period
        certainty, usual = _explained(steps, places, period)
        if certainty <= best[0]:
            continue
        half = len(steps) // 2
        halves = [_usual(steps[part], places[part], period) for part in (slice(half), slice(half, None))]
        if float(torch.corrcoef(torch.stack(halves))[0, 1]) < _HALVES:
            continue
        course = (usual - usual.mean()).cumsum(0)
        best = (certainty, float(course.max() - course.min()), period)
    return (best[1], best[2]) if best[2] else None


def _usual(values: Tensor, places: Tensor, period: int) -> Tensor:
    """Median at each place of a period: cuts and flashes do not count."""
    return torch.stack([values[places == place].quantile(0.5) for place in range(period)])


def _explained(values: Tensor, places: Tensor, period: int) -> tuple[float, Tensor]:
    """How surely the places of a period differ, in deviations (Wilson and Hilferty's of the F test), and what is usual
    at each.
    """
    usual = _usual(values, places, period)
    counts = torch.bincount(places, minlength=period)
    rest = values - usual[places]
    reach = _OUTLIERS * float(rest.abs().quantile(_MOST)) + 1e-9
    rest = rest.clamp(-reach, reach)
    between = float((counts * (usual - usual.mean()).square()).sum()) / (period - 1)
    free = len(values) - period
    within = float(rest.square().sum()) / free
    if between <= 1e-14:
        return 0.0, usual
    ratio = between / max(within, 1e-12)
    a, b = 2 / (9 * (period - 1)), 2 / (9 * free)
    root = ratio ** (1 / 3)
    return ((1 - b) * root - (1 - a)) / math.sqrt(b * root**2 + a), usual
