"""All learned measures of one video."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from ..frames import Frame
from .alone import left_alone
from .kinds import KINDS
from .loading import Learned, told

T = TypeVar("T")


class LearnedMeasure:
    """What fails is left out from then on, and the others go on.

    Attributes:
        remarks: what was left out and why, in sentences.
    """

    def __init__(self, learned: Learned, expected: int = 0) -> None:
        self._meters = {name: make(expected) for name, make in learned.meters.items()}
        self._names = tuple(self._meters)
        self.remarks = list(learned.remarks)

    def add(self, frame: Frame) -> None:
        for name, meter in list(self._meters.items()):
            self._tried(name, partial(meter.add, frame))

    def result(self) -> dict[str, float | None]:
        """By their ids; None of what failed or gave no number."""
        numbers: dict[str, float | None] = {}
        for name in self._names:
            found = self._tried(name, self._meters[name].result) if name in self._meters else None
            for number in KINDS[name].ids or (name,):
                value = (found or {}).get(number)
                numbers[number] = value if value is not None and math.isfinite(value) else None
        return numbers

    def _tried(self, name: str, work: Callable[[], T]) -> T | None:
        try:
            with left_alone(), torch.no_grad():
                return work()
        except Exception as error:
            del self._meters[name]
            self.remarks.append(f"{KINDS[name].label} was left out: {told(error)}.")
            return None
