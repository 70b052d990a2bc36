"""Judging a clip: how much of what its caption says can be seen in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import permutations

from torch import Tensor

from .reading import FoundShape, Reading, read_clip
from .scenes import Scene, Shape

__all__ = ["FoundShape", "Reading", "Tally", "Verdict", "compare", "judge_clip", "read_clip", "total"]


@dataclass(frozen=True)
class Tally:
    """``right`` of ``total`` attributes."""

    right: int = 0
    total: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.right + other.right, self.total + other.total)


@dataclass(frozen=True)
class Verdict:
    """Attributes right, of those asked for, in one clip or (added up) in many.

    Attributes:
        colour, form, motion, size, texture: one for every shape of the caption; texture and motion only where the
            clip can show them.
        background: one a clip.
        missing: shapes of the caption that were not found; all their attributes count as wrong.
        extra: shapes found beyond those of the caption; no attribute is wrong for it.
    """

    colour: Tally = Tally()
    form: Tally = Tally()
    motion: Tally = Tally()
    size: Tally = Tally()
    texture: Tally = Tally()
    background: Tally = Tally()
    missing: int = 0
    extra: int = 0

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))

    def tallies(self) -> list[tuple[str, Tally]]:
        """Name and tally of each attribute."""
        values = [(item.name, getattr(self, item.name)) for item in fields(self)]
        return [(name, value) for name, value in values if isinstance(value, Tally)]


def total(verdicts: Iterable[Verdict]) -> Verdict:
    """All verdicts added up."""
    return sum(verdicts, Verdict())


def judge_clip(video: Tensor, scene: Scene) -> Verdict:
    """Read a clip and compare it with what its caption says.

    Args:
        video: ``[3, F, H, W]`` in 0..1; see ``read_clip``.
        scene: of the caption. Where its shapes are and how far they go is not asked: the caption does not say it.

    Raises:
        ValueError: as ``read_clip``.
    """
    return compare(read_clip(video), scene)


def compare(reading: Reading, scene: Scene) -> Verdict:
    """Match what was found with the shapes of the caption, one to one, so that most attributes are right.

    Of equally good matchings the one with more colours right is taken. The best matching lifts chance a little when
    there are several shapes; shuffled captions show how much.
    """
    pairs = _best_matching(reading, scene)
    names = _judged(reading)
    verdict = {name: Tally(sum(_right(pair, name) for pair in pairs), len(pairs)) for name in names}
    return Verdict(
        **verdict,
        background=Tally(int(reading.background == scene.background), 1),
        missing=sum(seen is None for _, seen in pairs),
        extra=max(len(reading.shapes) - len(scene.shapes), 0),
    )


_Pair = tuple[Shape, FoundShape | None]


def _judged(reading: Reading) -> list[str]:
    optional = {"motion": reading.shows_motion, "texture": reading.shows_texture}
    return [name for name in ("colour", "form", "motion", "size", "texture") if optional.get(name, True)]


def _right(pair: _Pair, name: str) -> bool:
    asked, seen = pair
    return seen is not None and getattr(asked, name) == getattr(seen, name)


def _best_matching(reading: Reading, scene: Scene) -> list[_Pair]:
    asked, names = scene.shapes, _judged(reading)
    seen = [*reading.shapes, *[None] * len(asked)]

    def worth(pairs: list[_Pair]) -> tuple[int, int]:
        rights = sum(_right(pair, name) for pair in pairs for name in names)
        return rights, sum(_right(pair, "colour") for pair in pairs)

    choices = [list(zip(asked, choice, strict=True)) for choice in permutations(seen, len(asked))]
    return max(choices, key=worth)
