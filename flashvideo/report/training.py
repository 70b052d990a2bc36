"""Sections ``training`` and ``sizes``: the same clips with other weights, and at twice the trained size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..shapes.judge import judge_clip
from .bench import MIXED, Bench, captions_of, seeds_of
from .cost import SINGLE
from .fidelity import prompt_rows
from .models import VideoModels
from .refinement import compare_methods, plain_methods, refiner, refiner_of
from .results import Picture, Result, Row, Table

TRAINING, SIZES = "training", "sizes"
SHIPPED = "the models"
_SCALE = 2


def training_section(bench: Bench) -> Result:
    """Other weights of either stage at equal NFE."""
    tables: list[Table] = []
    pictures: list[Picture] = []
    clips, frames = bench.settings.ablation_clips, bench.settings.ablation_frames
    second = [extra for extra in bench.extras if extra.stage == "stage2"]
    if second:
        usual = replace(bench.settings.stage2, match_colors=0.0)
        methods = [refiner(SHIPPED, bench.models, usual), *(refiner_of(extra, usual) for extra in second)]
        found = compare_methods(bench, "Other weights of Stage II", methods, clips, frames=frames)
        what = f"Stage II with other weights, NFE {usual.num_steps}, {frames} frames"
        tables.append(Table(what, found.rows()))
        pictures.append(found.picture(bench, "training.png"))
    first = [extra for extra in bench.extras if extra.stage == "stage1" and extra.name != SINGLE]
    if first:
        candidates = [(SHIPPED, bench.models), *((extra.name, extra.models) for extra in first)]
        steps = bench.settings.stage1.num_steps
        tables.append(Table(f"Stage I with other weights, NFE {steps}", tuple(_stage1_rows(bench, candidates))))
    notes = () if tables else ("No other weights were given (--extra NAME=PATH): nothing to compare.",)
    return Result(TRAINING, tuple(tables), notes, tuple(pictures))


def _stage1_rows(bench: Bench, candidates: Sequence[tuple[str, VideoModels]]) -> list[Row]:
    rows: list[Row] = []
    for name, models in candidates:
        verdicts = []
        scenes = bench.scenes(MIXED, bench.settings.ablation_clips)
        for batch in bench.batches(scenes, bench.settings.batch, f"Other weights of Stage I: {name}"):
            videos = models.generate_low(captions_of(batch), seeds_of(batch), bench.settings.stage1)
            verdicts += [judge_clip(video, scene) for video, scene in zip(videos, batch, strict=True)]
        rows += prompt_rows(name, verdicts)
    return rows


def sizes_section(bench: Bench) -> Result:
    """Stage II at twice the trained size, from twice the low resolution."""
    usual = replace(bench.settings.stage2, match_colors=0.0)
    large = replace(usual, height=usual.height * _SCALE, width=usual.width * _SCALE)
    methods = [*plain_methods(bench, _SCALE), refiner(SHIPPED, bench.models, large)]
    methods += [refiner_of(extra, large) for extra in bench.extras if extra.stage == "stage2"]
    name, frames = f"{large.width}x{large.height}", bench.settings.ablation_frames
    found = compare_methods(bench, f"Stage II at {name}", methods, bench.settings.ablation_clips, _SCALE, frames)
    note = "The same scenes drawn twice as large: shapes and textures have twice as many pixels as in training."
    table = Table(f"Stage II at {name}, {frames} frames", found.rows())
    return Result(SIZES, (table,), (note,), (found.picture(bench, "sizes.png"),))
