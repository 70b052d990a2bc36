"""What the report's numbers must reach."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from . import fidelity, judging, refinement
from .bench import MORE, ONE
from .results import SHARE, Result

JUDGE_FLOOR, CHANCE_MARGIN = 0.99, 0.03
FIDELITY_FLOORS = {ONE: 0.90, MORE: 0.75}
LOW_PSNR_MARGIN = 1.0  # dB


@dataclass(frozen=True)
class Floor:
    """One demand.

    Attributes:
        section: whose number it is.
        text: what was asked for and what was found.
        met: whether it is; a number that was not measured meets nothing.
    """

    section: str
    text: str
    met: bool


def check_floors(results: Mapping[str, Result]) -> list[str]:
    """The floors that were missed, in words; sections that were not run are not asked for.

    Args:
        results: by section.
    """
    return [floor.text for floor in floors_of(results) if not floor.met]


def floors_of(results: Mapping[str, Result]) -> list[Floor]:
    """All floors of the sections that were run, met and missed."""
    demands = {
        judging.SECTION: _judge_floors,
        fidelity.SECTION: _fidelity_floors,
        refinement.SECTION: _refinement_floors,
    }
    return [floor for name, demand in demands.items() if name in results for floor in demand(results[name])]


def _judge_floors(result: Result) -> Iterator[Floor]:
    for group in (ONE, MORE):
        for resolution in (judging.HIGH, judging.LOW):
            yield _at_least(result, f"{group}, {resolution}", judging.ALL, JUDGE_FLOOR)
        names = f"{group}, {judging.SHUFFLED}", f"{group}, {judging.CHANCE}"
        shuffled, chance = (_mean(result, name, judging.ALL) for name in names)
        demand = f"expected within {CHANCE_MARGIN:.0%} of it"
        text = f"judge, {names[0]}: {_shown(shuffled)}, chance is {_shown(chance)}; {demand}"
        yield Floor(result.section, text, abs(shuffled - chance) <= CHANCE_MARGIN)


def _fidelity_floors(result: Result) -> Iterator[Floor]:
    for group, floor in FIDELITY_FLOORS.items():
        yield _at_least(result, f"{group}, {fidelity.STAGE1}", fidelity.PROMPT, floor)
        yield _at_least(result, f"{group}, {fidelity.STAGE2}", fidelity.TEXTURE, floor)


def _refinement_floors(result: Result) -> Iterator[Floor]:
    for measure, unit, sign in ((refinement.SPECTRUM, " dB", -1), (refinement.TEXTURE, SHARE, 1)):
        for other in (refinement.BILINEAR, refinement.LANCZOS):
            ours, theirs = (_mean(result, name, measure) for name in (refinement.REFINED, other))
            shown = f"{_shown(ours, unit)}, {other} {_shown(theirs, unit)}; expected {'more' if sign > 0 else 'less'}"
            yield Floor(result.section, f"refinement, {measure}: {shown}", sign * (ours - theirs) > 0)
    ours, lanczos = (_mean(result, name, refinement.LOW_PSNR) for name in (refinement.REFINED, refinement.LANCZOS))
    shown = (
        f"{_shown(ours, ' dB')}, {refinement.LANCZOS} {_shown(lanczos, ' dB')}; expected within {LOW_PSNR_MARGIN:g} dB"
    )
    yield Floor(result.section, f"refinement, {refinement.LOW_PSNR}: {shown}", ours >= lanczos - LOW_PSNR_MARGIN)


def _at_least(result: Result, name: str, measure: str, floor: float) -> Floor:
    mean = _mean(result, name, measure)
    text = f"{result.section}, {name}, {measure}: {_shown(mean)}; expected at least {floor:.0%}"
    return Floor(result.section, text, mean >= floor)


def _mean(result: Result, name: str, measure: str) -> float:
    """nan, which no comparison is true for, where there is no such number."""
    row = result.row(name, measure)
    return math.nan if row is None else row.mean


def _shown(value: float, unit: str = SHARE) -> str:
    if math.isnan(value):
        return "not measured"
    return f"{value:.1%}" if unit == SHARE else f"{value:.2f}{unit}"
