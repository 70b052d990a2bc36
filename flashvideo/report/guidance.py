"""Section ``guidance``: the branch without a prompt evaluated now and then, beside fewer steps and no guidance."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from torch import Tensor

from ..runs.settings import Stage1Settings, Stage2Settings
from ..shapes.judge import judge_clip
from ..shapes.scenes import Scene
from .bench import MIXED, Bench, captions_of, seeds_of
from .fidelity import PROMPT, prompt_rows
from .refinement import Method, compare_methods, refiner
from .results import Result, Row, Table, mean_row

SECTION = "guidance"
GUIDANCE = 4.0  # of both stages; that at which prompts show, on the report's models
EVERY = "guidance in every step"
_STAGE1_EVERY, _STAGE2_EVERY = (2, 3, 5), (2, 4)
_SHOWN = (PROMPT, "missing shapes a clip", "extra shapes a clip")
_Settings = TypeVar("_Settings", Stage1Settings, Stage2Settings)


def guidance_section(bench: Bench) -> Result:
    """Both stages, on the same clips with the same noise."""
    clips, frames = bench.settings.ablation_clips, bench.settings.ablation_frames
    first = ways(replace(bench.settings.stage1, guidance_scale=GUIDANCE), _STAGE1_EVERY)
    second = ways(replace(bench.settings.stage2, guidance_scale=GUIDANCE, match_colors=0.0), _STAGE2_EVERY)
    seconds: dict[str, list[float]] = {name: [] for name in second}
    methods = [_timed(refiner(name, bench.models, settings), seconds[name]) for name, settings in second.items()]
    comparison = compare_methods(bench, "Stage II: guidance", methods, clips, frames=frames)
    rows = [row for name, settings in second.items() for row in _costs(name, settings, seconds[name])]
    return Result(
        SECTION,
        (
            Table(f"Stage I, {clips} clips of one to three shapes", tuple(_stage1_rows(bench, first))),
            Table(f"Stage II, {frames} frames", (*comparison.rows(), *rows)),
        ),
        (
            f"Guidance {GUIDANCE:g}. Evaluations are those of one branch; seconds are those of a clip and include the "
            "VAE's decoding.",
        ),
        (comparison.picture(bench, f"{SECTION}.png"),),
    )


def ways(usual: _Settings, every: Sequence[int]) -> dict[str, _Settings]:
    """What is compared: less and less guidance, as many evaluations in fewer steps, none; names -> settings."""
    sparse = {f"in one of {number} steps": replace(usual, guidance_every=number) for number in every}
    fewer = {}
    for settings in sparse.values():
        steps = max(1, round(evaluations(settings) / 2))
        fewer[f"{steps} steps instead of {usual.num_steps}"] = replace(usual, num_steps=steps)
    return {EVERY: usual, **sparse, **fewer, "no guidance": replace(usual, guidance_scale=1.0)}


def evaluations(settings: Stage1Settings | Stage2Settings) -> int:
    """Of the transformer for a clip, both branches counted."""
    steps = settings.num_steps
    return steps if settings.guidance_scale == 1 else steps + -(-steps // settings.guidance_every)


def _stage1_rows(bench: Bench, compared: dict[str, Stage1Settings]) -> list[Row]:
    rows: list[Row] = []
    scenes = bench.scenes(MIXED, bench.settings.ablation_clips)
    for name, settings in compared.items():
        seconds: list[float] = []
        make = _timed_call(partial(_generated, bench, settings), seconds)
        verdicts = [
            judge_clip(clip, scene)
            for batch in bench.batches(scenes, bench.settings.batch, f"Stage I: {name}")
            for scene, clip in zip(batch, make(batch), strict=True)
        ]
        rows += [row for row in prompt_rows(name, verdicts) if row.measure in _SHOWN]
        rows += _costs(name, settings, seconds)
    return rows


def _generated(bench: Bench, settings: Stage1Settings, scenes: Sequence[Scene]) -> Tensor:
    return bench.models.generate_low(captions_of(scenes), seeds_of(scenes), settings)


def _costs(name: str, settings: Stage1Settings | Stage2Settings, seconds: Sequence[float]) -> list[Row]:
    number = float(evaluations(settings))
    return [
        Row(name, "evaluations", number, number, number, len(seconds)),
        mean_row(name, "seconds", seconds, "s"),
    ]


def _timed(method: Method, seconds: list[float]) -> Method:
    """The method, which adds the seconds of each clip."""

    def enlarge(low: Tensor, scenes: Sequence[Scene]) -> Tensor:
        return _timed_call(partial(method.enlarge, low), seconds)(scenes)

    return Method(method.name, enlarge)


def _timed_call(make: Callable[[Sequence[Scene]], Tensor], seconds: list[float]) -> Callable[[Sequence[Scene]], Tensor]:
    def timed(scenes: Sequence[Scene]) -> Tensor:
        start = time.perf_counter()
        made = make(scenes)  # on the CPU: the device is done
        seconds.extend([(time.perf_counter() - start) / len(scenes)] * len(scenes))
        return made

    return timed
