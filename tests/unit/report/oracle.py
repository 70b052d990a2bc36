"""Oracles in the models' place, right or wrong on purpose, and the settings of small reports."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import torch
from torch import Tensor

from flashvideo.report import NetworkSize, ReportSettings, Result, Row, Weights
from flashvideo.report.bench import MIXED, MORE, ONE, held_out_scenes
from flashvideo.shapes.render import low_resolution, render_clip
from flashvideo.shapes.scenes import Scene

USUAL = ReportSettings()
SETTINGS = replace(
    USUAL,
    clips=3,
    ablation_clips=2,
    stage1=replace(USUAL.stage1, num_frames=5, num_steps=2),
    stage2=replace(USUAL.stage2, guidance_scale=2.0, match_colors=0.0),
    nfe=(1, 2),
    cfg=(4.0,),
    noise_steps=(300,),
)
WEIGHTS = {part: Weights(part, part) for part in ("stage1", "stage2", "vae", "text")}


class Oracle:
    """Shows the scene of each seed; counts calls.

    Args:
        swap: shows the next scene of the same group instead.
        broken: raises when it should refine.
        tint: is added to what it refines.
    """

    def __init__(self, *, swap: bool = False, broken: bool = False, tint: float = 0.0) -> None:
        self.shown: dict[int, Scene] = {}
        self.broken, self.tint = broken, tint
        self.calls: dict[str, int] = defaultdict(int)
        for group in (ONE, MORE, MIXED):
            scenes = held_out_scenes(group, SETTINGS.clips, SETTINGS)
            others = scenes[1:] + scenes[:1] if swap else scenes
            self.shown.update({scene.seed: other for scene, other in zip(scenes, others, strict=True)})

    def _draw(self, seeds, height: int, width: int, frames: int) -> Tensor:
        return torch.stack([render_clip(self.shown[seed], height, width, frames) for seed in seeds])

    def generate_low(self, captions, seeds, settings):
        self.calls["generate_low"] += 1
        assert len(captions) == len(seeds)
        if settings.height > SETTINGS.stage1.height:
            return self._draw(seeds, settings.height, settings.width, settings.num_frames)
        large = self._draw(seeds, 4 * settings.height, 4 * settings.width, settings.num_frames)
        return torch.stack([low_resolution(clip, 4) for clip in large])

    def refine(self, videos, captions, seeds, settings):
        self.calls["refine"] += 1
        if self.broken:
            raise RuntimeError("Stage II broke")
        assert videos.shape[3] * 4 == settings.height
        return (self._draw(seeds, settings.height, settings.width, videos.shape[2]) + self.tint).clamp(0, 1)

    def round_trip(self, videos, seeds, settings):
        return (videos + 0.02).clamp(0, 1)

    def network(self, stage):
        return NetworkSize(layers=2, width=8, text_length=10)


def value(result: Result, name: str, measure: str) -> Row:
    row = result.row(name, measure)
    assert row is not None, (name, measure)
    return row
