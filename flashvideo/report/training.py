"""Sections ``training``, ``sizes``, ``adaptation``: the same clips with other weights, and at twice the size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..runs.settings import Stage1Settings
from ..shapes.judge import judge_clip
from .bench import MIXED, Bench, captions_of, seeds_of
from .cost import SINGLE
from .fidelity import prompt_rows
from .models import Extra, VideoModels
from .refinement import compare_methods, plain_methods, refiner, refiner_of
from .results import Result, Row, Table

TRAINING, SIZES, ADAPTATION = "training", "sizes", "adaptation"
SHIPPED = "the models"
_SCALE = 2
_NOTHING = "No other weights were given (--extra NAME=PATH): nothing to compare."


def compared_in(section: str) -> Callable[[Extra], bool]:
    """Whether other weights belong into one of these sections; a single stage takes the place of both, see ``cost``."""
    stage = "stage1" if section == ADAPTATION else "stage2"
    return lambda extra: extra.stage == stage and extra.name != SINGLE and extra.only in (None, section)


def training_section(bench: Bench) -> Result:
    """Other weights of Stage II at equal NFE."""
    others = list(filter(compared_in(TRAINING), bench.extras))
    if not others:
        return Result(TRAINING, (), (_NOTHING,))
    clips, frames = bench.settings.ablation_clips, bench.settings.ablation_frames
    usual = replace(bench.settings.stage2, match_colors=0.0)
    methods = [refiner(SHIPPED, bench.models, usual), *(refiner_of(extra, usual) for extra in others)]
    comparison = compare_methods(bench, "Other weights of Stage II", methods, clips, frames=frames)
    table = Table(f"Stage II with other weights, NFE {usual.num_steps}, {frames} frames", comparison.rows())
    return Result(TRAINING, (table,), (), (comparison.picture(bench, "training.png"),))


def adaptation_section(bench: Bench) -> Result:
    """Other weights of Stage I at equal NFE, at twice the models' size: adapted to it, or not."""
    others = list(filter(compared_in(ADAPTATION), bench.extras))
    if not others:
        return Result(ADAPTATION, (), (_NOTHING,))
    candidates = [(SHIPPED, bench.models), *((extra.name, extra.models) for extra in others)]
    usual = bench.settings.stage1
    large = replace(usual, height=usual.height * _SCALE, width=usual.width * _SCALE)
    title = f"Stage I at {large.width}x{large.height}, NFE {large.num_steps}"
    return Result(ADAPTATION, (Table(title, tuple(_stage1_rows(bench, candidates, large))),))


def _stage1_rows(bench: Bench, candidates: Sequence[tuple[str, VideoModels]], settings: Stage1Settings) -> list[Row]:
    rows: list[Row] = []
    for name, models in candidates:
        verdicts = []
        scenes = bench.scenes(MIXED, bench.settings.ablation_clips)
        size = max(1, bench.settings.batch // _SCALE**2)
        for batch in bench.batches(scenes, size, f"Other weights of Stage I: {name}"):
            videos = models.generate_low(captions_of(batch), seeds_of(batch), settings)
            verdicts += [judge_clip(video, scene) for video, scene in zip(videos, batch, strict=True)]
        rows += prompt_rows(name, verdicts)
    return rows


def sizes_section(bench: Bench) -> Result:
    """Stage II at twice the trained size, from twice the low resolution."""
    usual = replace(bench.settings.stage2, match_colors=0.0)
    large = replace(usual, height=usual.height * _SCALE, width=usual.width * _SCALE)
    methods = [*plain_methods(bench, _SCALE), refiner(SHIPPED, bench.models, large)]
    methods += [refiner_of(extra, large) for extra in filter(compared_in(SIZES), bench.extras)]
    name, frames = f"{large.width}x{large.height}", bench.settings.ablation_frames
    comparison = compare_methods(bench, f"Stage II at {name}", methods, bench.settings.ablation_clips, _SCALE, frames)
    note = "The same scenes drawn twice as large: shapes and textures have twice as many pixels as in training."
    table = Table(f"Stage II at {name}, {frames} frames", comparison.rows())
    return Result(SIZES, (table,), (note,), (comparison.picture(bench, "sizes.png"),))
