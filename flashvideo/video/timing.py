"""When the pictures of a video are shown, and which of them at a given time."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

_COARSEST_TICK = Fraction(2, 1000)  # half of a frame at 240 a second
_USUAL_RATES = (
    *(Fraction(rate) for rate in (10, 12, 15)),
    *(Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30)),
    *(Fraction(48), Fraction(50), Fraction(60000, 1001), Fraction(60), Fraction(100), Fraction(120)),
)
_RATE_OF_MANY = Fraction(60)


@dataclass(frozen=True)
class Timing:
    """When pictures are shown.

    Attributes:
        times: of the pictures, in seconds from the first one on, ascending.
        end: when the last one goes.
        tick: what the file rounds times to.
    """

    times: tuple[Fraction, ...]
    end: Fraction
    tick: Fraction = Fraction(0)

    def __len__(self) -> int:
        return len(self.times)

    @property
    def rate(self) -> Fraction:
        """Pictures a second, on average."""
        return len(self.times) / self.end

    def average(self, announced: Iterable[Fraction] = ()) -> Fraction:
        """Pictures a second: the first announced rate that keeps step with the times, else what they amount to."""
        return next((rate for rate in announced if self.is_even(rate)), self.rate)

    @property
    def _rounding(self) -> Fraction:
        return min(self.tick, _COARSEST_TICK)

    def shown_at(self, seconds: Fraction) -> int:
        """Number of the picture that is on the screen."""
        return max(0, bisect_right(self.times, seconds + self._rounding) - 1)

    def lasts(self, seconds: Fraction) -> bool:
        """Whether there still is a picture at a time."""
        return seconds < self.end - self._rounding

    def is_even(self, rate: Fraction) -> bool:
        """Whether pictures shown ``rate`` times a second are never half a picture early or late."""
        slack = 1 / (2 * rate)
        return all(abs(time - number / rate) < slack for number, time in enumerate(self.times))

    def at_rate(self, rate: Fraction) -> list[int]:
        """Numbers of the pictures that are shown ``rate`` times a second: some twice, or some not at all."""
        count = max(1, math.ceil((self.end - self._rounding) * rate))
        return [self.shown_at(number / rate) for number in range(count)]

    def steady(self, announced: Iterable[Fraction] = ()) -> tuple[Fraction, list[int]]:
        """A constant rate that keeps step with the times, and the numbers of the pictures to show at it.

        Each once where they come evenly; else the lowest usual rate that leaves none out, if there is one.

        Args:
            announced: rates to be tried first.
        """
        rates = [rate for rate in announced if rate > 0]
        for rate in (*rates, self.rate):
            if self.is_even(rate):
                return rate, list(range(len(self)))
        for rate in (*(rate for rate in rates if rate <= _USUAL_RATES[-1]), *_USUAL_RATES):
            if len(set(numbers := self.at_rate(rate))) == len(self):
                return rate, numbers
        return _RATE_OF_MANY, self.at_rate(_RATE_OF_MANY)
