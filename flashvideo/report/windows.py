"""Sections ``windows``, ``windows_wider``, ``windows_larger``: attention in windows of the frame against attention
between all tokens, at the size that Stage II was trained on, at twice its width, and at twice of both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..runs.settings import Stage2Settings
from ..tensors.sizes import SIZE_MULTIPLE
from .bench import Bench
from .refinement import PSNR, SCORES, SPECTRUM, Measured, compare_methods, refiner, score_rows
from .results import DECIBEL, Result, Row, Table, difference_row, present

TRAINED, WIDER, LARGER = "windows", "windows_wider", "windows_larger"
FULL = "full"
GUIDANCE = 4.0  # the less usual one; windows without pooling lose under it
_COMPARED = (("spectrum", SPECTRUM, DECIBEL), ("psnr", PSNR, DECIBEL))
_SEAM = "seam"
_UNDER_GUIDANCE = (FULL, "trained size", "half", "half+4")


def trained_section(bench: Bench) -> Result:
    """At the trained size."""
    return _section(bench, TRAINED)


def wider_section(bench: Bench) -> Result:
    """At twice the trained width."""
    return _section(bench, WIDER, columns=2)


def larger_section(bench: Bench) -> Result:
    """At twice the trained width and height."""
    return _section(bench, LARGER, columns=2, rows=2)


def _section(bench: Bench, section: str, *, columns: int = 1, rows: int = 1) -> Result:
    usual = bench.settings.stage2
    bench = _resized(bench, columns, rows)
    patterns = dict(_patterns(usual, larger=columns > 1))
    methods = {
        f"{name}, guidance {guidance:g}": replace(bench.settings.stage2, attention=attention, guidance_scale=guidance)
        for guidance in sorted({usual.guidance_scale, GUIDANCE})
        for name, attention in patterns.items()
        if guidance == usual.guidance_scale or name in _UNDER_GUIDANCE
    }
    comparison = compare_methods(
        bench,
        f"Stage II: {section.replace('_', ', ')}",
        [refiner(name, bench.models, settings) for name, settings in methods.items()],
        bench.settings.ablation_clips,
        scored=True,
    )
    measured, size = comparison.measured, f"{bench.settings.stage2.width}x{bench.settings.stage2.height}"
    differences = [row for name in measured for row in _differences(measured, name)]
    scores = [row for name, clips in measured.items() for row in score_rows(name, clips)]
    tables = (
        Table(f"Attention at {size}", comparison.rows()),
        Table("Less full attention, clip by clip", tuple(differences)),
        *((Table("Scores against the low-resolution clips", tuple(scores)),) if scores else ()),
    )
    names = "; ".join(f"{name}: `--attention {attention}`" for name, attention in patterns.items())
    note = f"{names}. Windows move by half in every other layer, but for *still* ones; +N: the frame in cells of N too."
    return Result(section, tables, (note,), (comparison.picture(bench, f"{section}.png"),))


def _resized(bench: Bench, columns: int, rows: int) -> Bench:
    settings = bench.settings
    stage1, stage2 = settings.stage1, settings.stage2
    stage1 = replace(stage1, width=columns * stage1.width, height=rows * stage1.height)
    stage2 = replace(stage2, width=columns * stage2.width, height=rows * stage2.height)
    return replace(bench, settings=replace(settings, stage1=stage1, stage2=stage2))


def _patterns(trained: Stage2Settings, *, larger: bool) -> Iterator[tuple[str, str]]:
    """Names and words of what attention sees."""
    yield FULL, "full"
    size, half, small = (_window(trained, part) for part in (1, 2, 4))
    if larger:
        yield "trained size", size
    yield "half", half
    if not larger:
        yield "half, still", f"{half},still"
    yield "half+4", f"{half}+4"
    if not larger:
        yield "quarter", small
    yield "quarter+4", f"{small}+4"


def _window(trained: Stage2Settings, part: int) -> str:
    """A window of a part of the trained frame's width and height."""
    width, height = (
        max(SIZE_MULTIPLE, side // part // SIZE_MULTIPLE * SIZE_MULTIPLE) for side in (trained.width, trained.height)
    )
    return f"{width}x{height}"


def _differences(measured: dict[str, list[Measured]], name: str) -> Iterator[Row]:
    """A pattern less full attention under the same guidance."""
    pattern, _, guidance = name.rpartition(", ")
    if pattern == FULL:
        return
    ours, theirs, label = measured[name], measured[f"{FULL}, {guidance}"], f"{name} - {FULL}"
    for field, measure, unit in _COMPARED:
        first, second = ([getattr(one, field) for one in clips] for clips in (ours, theirs))
        yield from present((difference_row(label, measure, first, second, unit),))
    if all(one.scores for one in (*ours, *theirs)):
        first, second = ([one.scores[_SEAM] for one in clips] for clips in (ours, theirs))
        yield from present((difference_row(label, _SEAM, first, second, SCORES[_SEAM]),))
