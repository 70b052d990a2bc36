"""Which frames a measure sees that is too slow for all of them."""

from __future__ import annotations


class Evenly:
    """Chooses evenly spaced frames, from the first on: in the end more than half of ``most``, and not more than it; all
    of a video that has no more. The distance is that of the expected length; if more frames come, every other value is
    forgotten and the distance doubles.

    Args:
        most: frames that count in the end.
        expected: frames of the video; 0 if nobody knows.
    """

    def __init__(self, most: int, expected: int = 0) -> None:
        self._most, self._distance = most, max(1, -(-expected // most))
        self.values: list[float | None] = []

    def wants(self, index: int) -> bool:
        """Whether the frame of that number, from 0, should be measured: its value is then to be added."""
        return index % self._distance == 0

    def add(self, value: float | None) -> None:
        """The value of the frame that was wanted; None if it has none."""
        self.values.append(value)
        if len(self.values) > self._most:
            self.values = self.values[::2]
            self._distance *= 2

    def mean(self) -> float | None:
        """Of the frames that count; None if none has a value."""
        known = [value for value in self.values if value is not None]
        return sum(known) / len(known) if known else None
