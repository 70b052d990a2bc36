"""Plain statistics of a series of numbers, one a frame."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from statistics import median

POINTS = 2000  # that a plot can show
_TO_DEVIATION = 1.4826  # of a normal distribution, from the median distance


def moving_mean(values: Sequence[float], length: int) -> list[float]:
    """Means of ``length`` neighbours, ``len(values) - length + 1`` of them."""
    sums = [0.0, *accumulate(values)]
    return [(high - low) / length for low, high in zip(sums, sums[length:], strict=False)]


def spread(values: Sequence[float]) -> float:
    """Standard deviation by the median distance from the median: single outliers do not count."""
    if not values:
        return 0.0
    centre = median(values)
    return _TO_DEVIATION * median(abs(value - centre) for value in values)


def binned(values: Sequence[float | None], points: int = POINTS) -> list[float | None]:
    """At most so many means of neighbours; None where none of them is known."""
    if len(values) <= points:
        return list(values)
    edges = [round(i * len(values) / points) for i in range(points + 1)]
    bins = [[v for v in values[low:high] if v is not None] for low, high in pairwise(edges)]
    return [sum(known) / len(known) if known else None for known in bins]
