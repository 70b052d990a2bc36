"""What a section of the report found: tables of numbers with intervals, notes, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..shapes.judge import Tally, Verdict
from ..shapes.metrics import Interval, interval95, proportion_interval, ratio_interval

SHARE, DECIBEL = "share", "dB"


@dataclass(frozen=True)
class Row:
    """One number.

    Attributes:
        name: whose it is: a method, a setting.
        measure: of what.
        mean, low, high: with its 95 % interval; shares are 0..1.
        n: clips behind it.
        unit: ``share``, ``dB``, ``s`` ...
    """

    name: str
    measure: str
    mean: float
    low: float
    high: float
    n: int
    unit: str = ""


@dataclass(frozen=True)
class Table:
    title: str
    rows: tuple[Row, ...]

    def row(self, name: str, measure: str) -> Row | None:
        return next((row for row in self.rows if (row.name, row.measure) == (name, measure)), None)


@dataclass(frozen=True)
class Picture:
    """A file beside the report."""

    file: str
    caption: str


@dataclass(frozen=True)
class Result:
    """A section of the report."""

    section: str
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    seconds: float = 0.0

    def row(self, name: str, measure: str) -> Row | None:
        """The first row of that name and measure in any table."""
        rows = (table.row(name, measure) for table in self.tables)
        return next((row for row in rows if row is not None), None)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Result:
        tables = tuple(Table(t["title"], tuple(Row(**row) for row in t["rows"])) for t in values["tables"])
        pictures = tuple(Picture(**picture) for picture in values["pictures"])
        return cls(values["section"], tables, tuple(values["notes"]), pictures, values["seconds"])


def mean_row(name: str, measure: str, values: Sequence[float], unit: str = "") -> Row:
    """Mean of one value a clip."""
    return _row(name, measure, interval95(values), len(values), unit)


def share_row(name: str, measure: str, tallies: Sequence[Tally]) -> Row | None:
    """Share of what was right, one tally a clip; None where nothing was judged.

    One attribute a clip gets Wilson's interval. Several fail together, so their clips are drawn again; where every clip
    has the same share, which no drawing can tell apart from certainty, Wilson's interval of as many clips is given.
    """
    judged = [tally for tally in tallies if tally.total]
    if not judged:
        return None
    right, asked = sum(tally.right for tally in judged), sum(tally.total for tally in judged)
    if len({tally.right / tally.total for tally in judged}) == 1 or asked == len(judged):
        wilson = proportion_interval(round(len(judged) * right / asked), len(judged))
        interval = Interval(right / asked, wilson.low, wilson.high)
    else:
        interval = ratio_interval([tally.right for tally in judged], [tally.total for tally in judged])
    return _row(name, measure, interval, len(judged), SHARE)


def difference_row(name: str, measure: str, ours: Sequence[float], theirs: Sequence[float], unit: str = "") -> Row:
    """Mean of ``ours - theirs`` of the same clips."""
    return mean_row(name, measure, [a - b for a, b in zip(ours, theirs, strict=True)], unit)


def share_difference_row(name: str, measure: str, ours: Sequence[Tally], theirs: Sequence[Tally]) -> Row | None:
    """Difference of two shares of the same attributes of the same clips; None where nothing was judged."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.total]
    if len(pairs) < 2:
        return None
    interval = ratio_interval([a.right - b.right for a, b in pairs], [a.total for a, _ in pairs])
    return _row(name, measure, interval, len(pairs), SHARE)


def attribute_rows(
    name: str, verdicts: Sequence[Verdict], attributes: Iterable[str], together: tuple[str, Iterable[str]] | None = None
) -> list[Row]:
    """A row for each attribute that was judged.

    Args:
        verdicts: one a clip.
        attributes: fields of :class:`~flashvideo.shapes.judge.Verdict`.
        together: name and attributes of one more row, for all of them together.
    """
    columns = {attribute: [getattr(verdict, attribute) for verdict in verdicts] for attribute in attributes}
    if together is not None:
        label, parts = together
        columns[label] = [sum((getattr(verdict, part) for part in parts), Tally()) for verdict in verdicts]
    rows = [share_row(name, label, tallies) for label, tallies in columns.items()]
    return [row for row in rows if row is not None]


def present(rows: Iterable[Row | None]) -> tuple[Row, ...]:
    """Those that there are."""
    return tuple(row for row in rows if row is not None)


def _row(name: str, measure: str, interval: Interval, n: int, unit: str) -> Row:
    return Row(name, measure, interval.mean, interval.low, interval.high, n, unit)
