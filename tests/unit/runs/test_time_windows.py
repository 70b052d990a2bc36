"""Windows in time as words, and that a run is made with them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flashvideo import TimeWindows
from flashvideo.loading.model_store import ModelStore, find_models
from flashvideo.method.windows import frames_at_once
from flashvideo.runs import chain
from flashvideo.runs import memory as runs_memory
from flashvideo.runs.memory import Load, check_memory
from flashvideo.runs.offloading import steps_of
from flashvideo.runs.record import Record
from flashvideo.runs.settings import SIZES, Stage2Settings
from flashvideo.runs.time_windows import time_windows
from tests.conftest import TINY
from tests.meta_device import full_parts


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


def test_a_run_is_made_with_them():
    models = ModelStore(find_models(str(TINY), {}, ("stage2",)))
    latents, embeds = torch.randn(1, 16, 5, 4, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 226, 32)
    settings = Stage2Settings(num_steps=1, guidance_scale=1.0)
    results = {
        text: chain.refine(models, latents, embeds, replace(settings, time_windows=text)) for text in ("0", "5", "3,1")
    }
    assert torch.equal(results["0"], results["5"])
    assert not torch.allclose(results["0"], results["3,1"], atol=1e-3)


@pytest.mark.parametrize(
    ("windows", "frames", "seen"), [(None, 20, 20), (TimeWindows(), 20, 13), (TimeWindows(), 7, 7)]
)
def test_what_the_network_sees_at_once(windows, frames, seen):
    assert frames_at_once(windows, frames) == seen


def test_stage2_is_expected_to_take_what_its_windows_take():
    """Of 401 frames as much as of 49, and the latents of the others."""

    def work(frames: int, windows: TimeWindows | None) -> int:
        load = Load(frames, refined=SIZES["1080p"], time_windows=windows)
        steps = steps_of(full_parts(), load, torch.device("cuda", 0), 141 * 10**9)
        return next(step.work for step in steps if step.part == "stage2")

    one_window, latent = work(49, None), 4 * 16 * 134 * 240
    assert work(49, TimeWindows(13, 3)) == one_window
    assert work(401, TimeWindows(13, 3)) == one_window + 6 * (101 - 13) * latent
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
