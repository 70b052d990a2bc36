"""Sections ``nfe``, ``cfg``, ``noise_step``: Stage II's settings one at a time (the paper's tables 8 to 10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .bench import Bench
from .refinement import compare_methods, refiner
from .results import Result, Table

NFE, CFG, NOISE_STEP = "nfe", "cfg", "noise_step"
_LABELS = {NFE: "NFE", CFG: "CFG", NOISE_STEP: "noise step"}
_FIELDS = {NFE: "num_steps", CFG: "guidance_scale", NOISE_STEP: "noise_step"}


def nfe_section(bench: Bench) -> Result:
    """Steps of the flow."""
    return _ablation(bench, NFE, bench.settings.nfe)


def cfg_section(bench: Bench) -> Result:
    """Guidance scale."""
    return _ablation(bench, CFG, bench.settings.cfg)


def noise_step_section(bench: Bench) -> Result:
    """Strength of the latent degradation."""
    return _ablation(bench, NOISE_STEP, bench.settings.noise_steps)


def _ablation(bench: Bench, section: str, values: Sequence[float]) -> Result:
    label, settings = _LABELS[section], bench.settings
    usual, frames = replace(settings.stage2, match_colors=0.0), settings.ablation_frames
    if section == NOISE_STEP:
        frames = settings.stage1.num_frames
    changed: list[dict[str, Any]] = [{_FIELDS[section]: value} for value in values]
    methods = [
        refiner(f"{label} {value:g}", bench.models, replace(usual, **change))
        for value, change in zip(values, changed, strict=True)
    ]
    comparison = compare_methods(bench, f"Stage II: {label}", methods, settings.ablation_clips, frames=frames)
    kept = {"NFE": usual.num_steps, "CFG": usual.guidance_scale, "noise step": usual.noise_step}
    others = ", ".join(f"{name} {value:g}" for name, value in kept.items() if name != label)
    return Result(
        section,
        (Table(f"Stage II by {label}, {frames} frames", comparison.rows()),),
        (f"All else as in the refinement: {others}; colours as Stage II painted them.",),
        (comparison.picture(bench, f"{section}.png"),),
    )
