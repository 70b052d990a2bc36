"""Running the report: section after section, each saved as it finishes, finished ones skipped."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoints.outputs import check_writable, make_folder, write_text
from . import ablations, cost, fidelity, guidance, judging, markdown, refinement, training, windows
from .bench import Bench
from .floors import floors_of
from .models import Extra
from .pages import write_refinement_page
from .record import (
    FILE,
    Mark,
    Report,
    Section,
    Weights,
    fingerprint,
    read_report,
    versions,
    write_report,
)
from .results import Result
from .settings import ReportSettings
from .sources import Sources

log = logging.getLogger(__name__)


_PACKAGE = __name__.removesuffix(".report.run")
_MODELS_CODE = ("report.models", "report.extras", "loading.model_store")  # what loads and runs the models


@dataclass(frozen=True)
class SectionPlan:
    """How a section is measured.

    Attributes:
        parts: of the models that it needs.
        settings: of the report that it reads, beside the seed and those of the stages that it runs.
        extras: whether it looks at certain other weights.
    """

    run: Callable[[Bench], Result]
    parts: tuple[str, ...] = ()
    settings: tuple[str, ...] = ("clips",)
    extras: Callable[[Extra], bool] = lambda _extra: False

    @property
    def modules(self) -> tuple[str, ...]:
        """Where the code begins that decides the numbers."""
        own = self.run.__module__.removeprefix(f"{_PACKAGE}.")
        return (own, *_MODELS_CODE) if self.parts else (own,)


_REFINE = ("stage2", "vae", "text")
_ALL = ("stage1", *_REFINE)
_SHAPE = ("height", "width", "num_frames")  # of clips, drawn ones included
_SHORT = ("ablation_clips", "ablation_frames")
SECTIONS: dict[str, SectionPlan] = {
    judging.SECTION: SectionPlan(judging.judge_section),
    fidelity.SECTION: SectionPlan(fidelity.fidelity_section, _ALL),
    refinement.SECTION: SectionPlan(refinement.refinement_section, _REFINE),
    ablations.NFE: SectionPlan(ablations.nfe_section, _REFINE, (*_SHORT, "nfe")),
    ablations.CFG: SectionPlan(ablations.cfg_section, _REFINE, (*_SHORT, "cfg")),
    guidance.SECTION: SectionPlan(guidance.guidance_section, _ALL, _SHORT),
    ablations.NOISE_STEP: SectionPlan(ablations.noise_step_section, _REFINE, ("ablation_clips", "noise_steps")),
    windows.TRAINED: SectionPlan(windows.trained_section, _REFINE, ("ablation_clips",)),
    windows.WIDER: SectionPlan(windows.wider_section, _REFINE, ("ablation_clips",)),
    windows.LARGER: SectionPlan(windows.larger_section, _REFINE, ("ablation_clips",)),
    training.TRAINING: SectionPlan(training.training_section, _REFINE, _SHORT, training.compared_in(training.TRAINING)),
    training.SIZES: SectionPlan(training.sizes_section, _REFINE, _SHORT, training.compared_in(training.SIZES)),
    training.ADAPTATION: SectionPlan(
        training.adaptation_section,
        ("stage1", "vae", "text"),
        ("ablation_clips",),
        training.compared_in(training.ADAPTATION),
    ),
    cost.SECTION: SectionPlan(cost.cost_section, _ALL, ("ablation_clips",), cost.compared),
}


def parse_sections(text: str | None) -> tuple[str, ...]:
    """``"judge,fidelity"`` as names, in the report's order; all if nothing is given.

    Raises:
        ValueError: a name that no section has.
    """
    if text is None:
        return tuple(SECTIONS)
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or (unknown := [name for name in names if name not in SECTIONS]):
        asked = ", ".join(unknown) if names else "nothing"
        raise ValueError(f"sections: {asked}; expected some of {', '.join(SECTIONS)}.")
    return tuple(name for name in SECTIONS if name in names)


def parts_of(sections: Sequence[str]) -> tuple[str, ...]:
    """The parts of the models that these sections need."""
    return tuple(part for part in _ALL if any(part in SECTIONS[name].parts for name in sections))


def run_report(
    bench: Bench,
    weights: Mapping[str, Weights],
    *,
    sections: Sequence[str] = tuple(SECTIONS),
    place: Mapping[str, str] | None = None,
    again: bool = False,
) -> dict[str, Result]:
    """Measure, and write ``report.json``, ``report.md``, pictures and a page of clips into the bench's folder.

    Args:
        bench: models, settings, other weights.
        weights: of every part that the sections need (``stage1`` ...), and of the extras (``extra NAME``).
        sections: names, of :data:`SECTIONS`.
        place: device and dtype, for the record; with other ones everything is measured again.
        again: measure finished sections once more. Those that were measured with other code always are.

    Returns:
        All results of these weights and settings by section, earlier runs' included.

    Raises:
        ValueError: settings, names or an output that cannot be, before anything is measured.
    """
    bench.settings.check()
    _check_extras(bench)
    parse_sections(",".join(sections))
    _check_weights(bench, sections, weights)
    make_folder(bench.folder)
    for file in (FILE, markdown.FILE):
        check_writable(bench.folder / file, overwrite=True)
    report = read_report(bench.folder)
    place, codes = dict(place or {}), code_of_sections()
    settings = {name: _settings_of(plan, bench.settings) for name, plan in SECTIONS.items()}
    used = {name: _weights_of(plan, bench, weights) for name, plan in SECTIONS.items()}
    marks = {name: Mark(fingerprint(name, used[name], settings[name], place), code) for name, code in codes.items()}
    for name in sections:
        stale = report.stale(marks)
        if name in stale:
            log.warning("%s was measured with other code (%s): it is measured anew", name, _origin(report, name))
        elif name in report.results(marks) and not again:
            log.info("%s is there already", name)
            continue
        start = time.perf_counter()
        result = SECTIONS[name].run(bench)
        result = replace(result, seconds=round(time.perf_counter() - start, 1))
        origin = (used[name], settings[name], place, versions(), codes[name])
        section = Section(result, marks[name].fingerprint, *origin)
        report = read_report(bench.folder).with_section(name, section)  # others may measure beside this
        _write(bench.folder, report, marks)
        if name == refinement.SECTION:
            log.info("%s shows its first clips in step", write_refinement_page(bench))
    for name in report.stale(marks):
        log.warning("%s is stale: it was measured with other code (%s)", name, _origin(report, name))
    _write(bench.folder, report, marks)
    return report.results(marks)


def code_of_sections() -> dict[str, str]:
    """Hash of the code that decides each section's numbers, see :mod:`~flashvideo.report.sources`."""
    sources = Sources()
    return {name: sources.digest(*plan.modules) for name, plan in SECTIONS.items()}


def _origin(report: Report, name: str) -> str:
    section = report.sections[name]
    return f"version {section.versions.get('flashvideo', 'unknown')}, code {section.code[:12]}"


def _settings_of(plan: SectionPlan, settings: ReportSettings) -> dict[str, Any]:
    """What decides a section's numbers, so that a change elsewhere leaves it as it is."""
    values: dict[str, Any] = json.loads(json.dumps(settings.to_dict()))
    for stage in ("stage1", "stage2"):
        if stage not in plan.parts:
            values[stage] = {name: value for name, value in values[stage].items() if name in _SHAPE}
    return {name: values[name] for name in ("seed", *plan.settings, "stage1", "stage2")}


def _weights_of(plan: SectionPlan, bench: Bench, weights: Mapping[str, Weights]) -> dict[str, Weights]:
    """Those that a section uses; unknown ones, of sections that are not asked for, count as none."""
    extras = [f"extra {extra.name}" for extra in bench.extras if plan.extras(extra)]
    return {name: weights[name] for name in (*plan.parts, *extras) if name in weights}


def _check_weights(bench: Bench, sections: Sequence[str], weights: Mapping[str, Weights]) -> None:
    wanted = [*parts_of(sections), *(f"extra {extra.name}" for extra in bench.extras)]
    if missing := [name for name in wanted if name not in weights]:
        raise ValueError(f"the hashes of {', '.join(missing)} are missing; expected those of all weights in use.")


def _check_extras(bench: Bench) -> None:
    names = [extra.name for extra in bench.extras]
    taken = {training.SHIPPED, refinement.BILINEAR, refinement.LANCZOS}
    if len(set(names)) != len(names) or taken & set(names):
        raise ValueError(f"the extras are called {', '.join(names)}; expected names of their own, each once.")
    if any(extra.name == cost.SINGLE and extra.stage != "stage1" for extra in bench.extras):
        raise ValueError(f"the extra {cost.SINGLE!r} is a Stage II; expected a transformer of Stage I's kind.")
    cost.brief_pair(bench.extras)  # which raises


def _write(folder: Path, report: Report, marks: Mapping[str, Mark]) -> None:
    floors: list[dict[str, Any]] = [asdict(floor) for floor in floors_of(report.results(marks))]
    write_report(folder, report, floors)
    write_text(folder / markdown.FILE, markdown.render(report, marks))
