"""Windows in time as words, and that a run is made with them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from flashvideo import TimeWindows, refine_latents
from flashvideo.loading.model_store import ModelStore, find_models
from flashvideo.method.windows import frames_at_once
from flashvideo.report.planning import published_parts
from flashvideo.runs import chain
from flashvideo.runs import memory as runs_memory
from flashvideo.runs.memory import Load, check_memory
from flashvideo.runs.offloading import steps_of
from flashvideo.runs.record import Record
from flashvideo.runs.settings import SIZES, Stage2Settings
from flashvideo.runs.time_windows import time_windows
from tests.conftest import TINY


@pytest.mark.parametrize(
    ("text", "windows"),
    [
        ("0", None),
        ("13", TimeWindows(13, 3)),
        ("13,0", TimeWindows(13, 0)),
        ("9,4", TimeWindows(9, 4)),
        ("3", TimeWindows(3, 2)),
        ("1", TimeWindows(1, 0)),
    ],
)
def test_words_are_windows(text, windows):
    assert time_windows(text) == windows
    settings = Stage2Settings(time_windows=text)
    settings.check()
    assert settings.windows_in_time == windows
    assert Stage2Settings.from_dict(settings.to_dict()) == settings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("long", r"time windows are 'long'; expected 0 \(off\) or LENGTH or LENGTH,OVERLAP in latent frames \(13,3\)"),
        ("13,", "time windows are '13,'"),
        ("-1", "time windows are '-1'"),
        ("13,3,1", "time windows are '13,3,1'"),
        ("", "time windows are ''"),
        ("5,5", "windows of 5 latents that overlap by 5; expected an overlap from 0 to 4"),
        ("0,0", "time windows of 0 latents; expected 1 or more"),
    ],
)
def test_other_words_are_refused(text, said):
    with pytest.raises(ValueError, match=said):
        Stage2Settings(time_windows=text).check()


def test_more_evaluations_than_a_stream_has_are_refused():
    settings = Stage2Settings(num_steps=65, time_windows="13")
    with pytest.raises(ValueError, match=r"65 steps of euler are 65 evaluations; .* at most 64"):
        settings.check()
    replace(settings, time_windows="0").check()


def test_a_run_is_made_with_them():
    models = ModelStore(find_models(str(TINY), {}, ("stage2",)))
    latents, embeds = torch.randn(1, 16, 5, 4, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 226, 32)
    settings = Stage2Settings(num_steps=2, guidance_scale=1.0)

    def note(seen: list[tuple[str, int, int]], *told: Any) -> None:
        seen.append(told)

    told: dict[str, list[tuple[str, int, int]]] = {"0": [], "5": [], "3,1": []}
    results = {
        text: chain.refine(models, latents, embeds, replace(settings, time_windows=text), partial(note, seen))
        for text, seen in told.items()
    }
    assert torch.equal(results["0"], results["5"])
    with models.use("stage2") as transformer:
        options = {"num_steps": 2, "guidance_scale": 1.0, "latent_scale": chain.stage2_scale(models)}
        expected = refine_latents(transformer, latents, embeds, **options, time_windows=TimeWindows(3, 1))
    assert torch.equal(results["3,1"], expected)
    assert not torch.allclose(results["0"], results["3,1"], atol=1e-3)
    assert told["0"] == [("Stage II", step, 2) for step in (1, 2)]
    assert told["3,1"] == [("Stage II", done, 10) for done in range(1, 11)], "each latent's steps"


@pytest.mark.parametrize(
    ("windows", "frames", "seen"), [(None, 20, 20), (TimeWindows(), 20, 13), (TimeWindows(), 7, 7)]
)
def test_what_the_network_sees_at_once(windows, frames, seen):
    assert frames_at_once(windows, frames) == seen


def test_stage2_is_expected_to_take_what_its_windows_take():
    """Of 401 frames as much as of 49."""

    def work(frames: int, windows: TimeWindows | None) -> int:
        load = Load(frames, refined=SIZES["1080p"], time_windows=windows)
        steps = steps_of(published_parts(), load, torch.device("cuda", 0), 141 * 10**9)
        return next(step.work for step in steps if step.part == "stage2")

    one_window = work(49, None)
    assert work(49, TimeWindows(13, 3)) == work(401, TimeWindows(13, 3)) == one_window
    assert work(401, None) > 5 * one_window


def test_a_long_video_is_not_refused_for_what_its_windows_do_not_take(monkeypatch):
    models = ModelStore(find_models(str(TINY), {}, ("stage2", "vae")))
    loads = [Load(4001, refined=SIZES["1080p"], time_windows=windows) for windows in (TimeWindows(13, 3), None)]
    monkeypatch.setattr(runs_memory, "_free_on_host", lambda: 1 << 30)
    check_memory(models, loads[0])
    with pytest.raises(ValueError, match="GB of host memory"):
        check_memory(models, loads[1])


def test_what_is_refined_is_loaded_with_its_windows():
    settings = Stage2Settings(time_windows="13,3")
    record = Record(torch.zeros(1, 16, 20, 4, 4), "a ball", torch.zeros(1), torch.zeros(1), stage2=settings)
    assert Load.of_refining(record, settings).frames_at_once == 13
