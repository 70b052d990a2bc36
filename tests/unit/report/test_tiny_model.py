"""The bundled FlashVideo-Tiny still does what its report says: a small sample, floors below the report's numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from flashvideo.cli import parse_options
from flashvideo.cli.options import stage1_settings, stage2_settings
from flashvideo.loading.model_store import ASSETS, BUNDLED, ModelStore, find_models
from flashvideo.report import LoadedModels, ReportSettings
from flashvideo.report.bench import MIXED, held_out_scenes, true_clips
from flashvideo.report.fidelity import PROMPT_ATTRIBUTES
from flashvideo.report.floors import FIDELITY_FLOORS
from flashvideo.report.upsampling import lanczos
from flashvideo.runs.settings import Stage2Settings
from flashvideo.shapes.judge import judge_clip, total
from flashvideo.shapes.metrics import low_passed_psnr, spectrum_error
from tests.unit.conftest import with_one_thread

SETTINGS = ReportSettings()
MEGABYTES = 20


@pytest.fixture(scope="module")
def tiny() -> Iterator[LoadedModels]:
    with with_one_thread():
        yield LoadedModels(ModelStore(find_models(BUNDLED, {}, ("stage1", "stage2", "vae", "text"))))


@pytest.fixture(scope="module")
def refined(tiny: LoadedModels) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Held-out clips in low resolution, refined, and as they are."""
    scenes = held_out_scenes(MIXED, 3, SETTINGS)
    drawn = [true_clips(scene, SETTINGS) for scene in scenes]
    low = torch.stack([pair[1] for pair in drawn])
    captions, seeds = [scene.caption for scene in scenes], [scene.seed for scene in scenes]
    high = tiny.refine(low, captions, seeds, SETTINGS.stage2)
    return [(small, video, true) for small, video, (true, _) in zip(low, high, drawn, strict=True)]


def test_it_is_small_enough_for_a_repository():
    assert sum(path.stat().st_size for path in (ASSETS / BUNDLED).rglob("*") if path.is_file()) <= MEGABYTES * 1e6


def test_its_settings_are_those_that_the_report_measures():
    options = parse_options(["generate", "a star", "--models", BUNDLED, "-o", "a.mp4"])
    assert stage1_settings(options) == SETTINGS.stage1
    assert stage2_settings(options, Stage2Settings()) == SETTINGS.stage2


@pytest.mark.parametrize(("group", "floor"), FIDELITY_FLOORS.items())
def test_stage1_shows_what_held_out_captions_say(tiny, group, floor):
    scenes = held_out_scenes(group, 10, SETTINGS)
    clips = tiny.generate_low([s.caption for s in scenes], [s.seed for s in scenes], SETTINGS.stage1)
    verdict = total(judge_clip(clip, scene) for clip, scene in zip(clips, scenes, strict=True))
    tallies = dict(verdict.tallies())
    right = sum(tallies[name].right for name in PROMPT_ATTRIBUTES)
    assert right / sum(tallies[name].total for name in PROMPT_ATTRIBUTES) >= floor
    assert all(tallies[name].right >= 0.7 * tallies[name].total for name in PROMPT_ATTRIBUTES), "each by itself"


def test_stage2_brings_textures_that_low_resolution_has_not(tiny, refined):
    scenes = held_out_scenes(MIXED, 3, SETTINGS)
    size = SETTINGS.stage2.height, SETTINGS.stage2.width
    ours = total(judge_clip(high, scene) for (_, high, _), scene in zip(refined, scenes, strict=True)).texture
    plain = total(judge_clip(lanczos(low[None], *size)[0], s) for (low, _, _), s in zip(refined, scenes, strict=True))
    assert ours.right >= 0.85 * ours.total
    assert ours.right > plain.texture.right


def test_stage2_keeps_the_low_resolution_and_adds_detail(refined):
    size, factor = (SETTINGS.stage2.height, SETTINGS.stage2.width), SETTINGS.factor
    for low, high, true in refined:
        plain = lanczos(low[None], *size)[0]
        assert low_passed_psnr(high, true, factor) > low_passed_psnr(plain, true, factor) - 1
        assert spectrum_error(high, true, factor) < spectrum_error(plain, true, factor)
