"""Section ``judge``: the judge on true clips, and on the captions of other clips, where it must fall to chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..shapes.judge import FoundShape, Reading, Verdict, compare, read_clip, total
from ..shapes.scenes import Scene
from .bench import MORE, ONE, Bench, middle_frame, true_clips
from .results import Result, Row, Table, attribute_rows

SECTION = "judge"
ALL = "all"
HIGH, LOW = "high resolution", "low resolution"
SHUFFLED, CHANCE = "captions of other clips", "chance"
ATTRIBUTES = ("colour", "form", "motion", "size", "background", "texture")
_SHIFTS = 20
_SHOWN = 12


@dataclass(frozen=True)
class ReadScene:
    scene: Scene
    high: Reading
    low: Reading


def judge_section(bench: Bench) -> Result:
    """Read true held-out clips of both resolutions."""
    rows: list[Row] = []
    shuffled: list[Row] = []
    frames: list[Tensor] = []
    for group in (ONE, MORE):
        read = []
        for (scene,) in bench.batches(bench.scenes(group, bench.settings.clips), 1, f"Judge: {group}"):
            high, low = true_clips(scene, bench.settings)
            read.append(ReadScene(scene, read_clip(high), read_clip(low)))
            if len(frames) < _SHOWN and len(read) <= _SHOWN // 2:
                frames.append(middle_frame(high, high.shape[2], high.shape[3]))
        for name, readings in ((HIGH, [one.high for one in read]), (LOW, [one.low for one in read])):
            verdicts = [compare(reading, one.scene) for reading, one in zip(readings, read, strict=True)]
            rows += attribute_rows(f"{group}, {name}", verdicts, ATTRIBUTES, (ALL, ATTRIBUTES))
        shuffled += _shuffled_rows(group, read)
    return Result(
        SECTION,
        (
            Table("The judge on true clips", tuple(rows)),
            Table("The judge with captions of other clips", tuple(shuffled)),
        ),
        notes=(
            f"Captions of other clips: each clip is judged by up to {_SHIFTS} other clips' captions. Chance is what a "
            "judge that reads every clip without a fault gives with the same captions.",
        ),
        pictures=(bench.sheet("judge.png", f"Held-out clips: {ONE}, then {MORE}.", frames, _SHOWN // 3),),
    )


def _shuffled_rows(group: str, read: Sequence[ReadScene]) -> list[Row]:
    scenes = [one.scene for one in read]
    seen = _with_others([one.high for one in read], scenes)
    perfect = _with_others([perfect_reading(one.scene, one.high) for one in read], scenes)
    return [
        row
        for name, verdicts in ((SHUFFLED, seen), (CHANCE, perfect))
        for row in attribute_rows(f"{group}, {name}", verdicts, ATTRIBUTES, (ALL, ATTRIBUTES))
    ]


def _with_others(readings: Sequence[Reading], scenes: Sequence[Scene]) -> list[Verdict]:
    """For each reading, the sum of verdicts on the scenes that follow its own, in a circle."""
    count = len(scenes)
    shifts = range(1, min(_SHIFTS, count - 1) + 1)
    return [
        total(compare(reading, scenes[(index + shift) % count]) for shift in shifts)
        for index, reading in enumerate(readings)
    ]


def perfect_reading(scene: Scene, like: Reading) -> Reading:
    """What a faultless judge would read of a clip.

    Args:
        like: a reading of the same clip, for what can be seen at its size.
    """
    shapes = tuple(
        FoundShape(
            colour=shape.colour,
            form=shape.form,
            motion=shape.motion if like.shows_motion else None,
            size=shape.size,
            texture=shape.texture if like.shows_texture else None,
            x=shape.x,
            y=shape.y,
            area=shape.radius**2,
            fit=1.0,
        )
        for shape in scene.shapes
    )
    return Reading(scene.background, shapes, like.shows_motion, like.shows_texture)
