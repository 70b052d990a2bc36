"""A run's plan: seconds near those that were measured, memory as it is decided by, and what settings change."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flashvideo.method.windows import TimeWindows
from flashvideo.report import planning
from flashvideo.report.kernels.networks import Case, count
from flashvideo.report.kernels.rates import CARDS, predict
from flashvideo.report.planning import CARD_GB, RunPlan, Target, plan_run, published_parts, stretches_of
from flashvideo.runs.settings import SIZES, Stage1Settings, Stage2Settings

GB = 10**9
STAGE1, STAGE2 = Stage1Settings(), Stage2Settings()
H200 = Target("H200", torch.device("cuda", 0), 141 * GB, 128 * GB, CARDS["H200"])
MEASURED = {"Stage I": 51 * 0.31, "encoding": 2.4, "Stage II": 53, "decoding": 4.3}  # docs/benchmarks.md


def planned(stage2: Stage2Settings = STAGE2, target: Target = H200) -> RunPlan:
    return plan_run(STAGE1, stage2, target, lambda *_: None)


def seconds_of(plan: RunPlan) -> dict[str, float]:
    return {step.name: step.seconds or 0.0 for step in plan.steps}


@pytest.fixture(scope="module")
def published() -> RunPlan:
    return planned()


def test_seconds_are_near_what_was_measured(published):
    predicted = seconds_of(published)
    assert {name: predicted[name] for name in MEASURED} == pytest.approx(MEASURED, rel=0.3)
    assert published.seconds == pytest.approx(sum(predicted.values()))


@pytest.mark.parametrize(
    ("changes", "times"),
    [({"guidance_scale": 1.0}, 0.5), ({"guidance_every": 2, "solver": "heun"}, 1.5)],
)
def test_settings_change_the_seconds_of_stage2_alone(published, changes, times):
    before, after = (seconds_of(plan) for plan in (published, planned(replace(STAGE2, **changes))))
    assert after.pop("Stage II") == pytest.approx(times * before.pop("Stage II"))
    assert after == before


def test_windows_are_counted(published):
    windows = seconds_of(planned(replace(STAGE2, attention="windows")))
    assert windows["Stage II"] < 0.6 * seconds_of(published)["Stage II"]


@pytest.mark.parametrize(("frames", "stretches"), [(13, 1), (14, 2), (23, 2), (24, 3), (33, 3)])
def test_windows_in_time_cover_the_video(frames, stretches):
    assert stretches_of(TimeWindows(13, 3), frames) == stretches
    assert stretches_of(None, frames) == 1


def test_models_that_stay_are_all_counted_and_those_that_wait_are_on_the_host():
    weights = {name: part.weights for name, part in published_parts().items()}
    everything = sum(weights.values())
    large = planned(target=replace(H200, rates=None))
    assert (large.offload, large.seconds) == ("none", None)
    assert all(step.device_bytes > everything for step in large.steps)
    small = planned(target=replace(H200, free=24 * GB, rates=None))
    assert (small.offload, small.shortage) == ("cpu", "")
    text, first, *_ = small.steps
    assert first.host_bytes == everything - weights["stage1"]
    assert weights["text"] < text.device_bytes < everything
    assert all(step.device_bytes <= 24 * GB for step in small.steps)


def test_what_does_not_fit_is_said():
    height, width = SIZES["4k"]
    plan = planned(replace(STAGE2, height=height, width=width), replace(H200, free=6 * GB, rates=None))
    assert plan.shortage.startswith("the text encoder needs 9.6 GB")
    assert list(plan.lines())[-1] == f"It does not fit: {plan.shortage}."


def test_a_tile_stands_for_all(monkeypatch):
    """Counting one tile and multiplying is near to counting every tile; launches once a chunk make it more."""
    monkeypatch.setattr(planning, "HOST_COPIES", 1e30)
    bytes_on_card = 3 * GB
    first = Stage1Settings(num_frames=5)
    second = Stage2Settings(height=544, width=960)
    target = replace(H200, free=bytes_on_card + published_parts()["vae"].weights)
    plan = plan_run(first, second, target, lambda *_: None)
    step = next(step for step in plan.steps if step.name == "decoding")
    assert "tiles" in step.how
    whole = predict(count(Case("decode", (544, 960), 5, device_bytes=bytes_on_card)), CARDS["H200"])
    assert step.seconds == pytest.approx(whole.total, rel=0.2)


def test_every_card_has_its_memory():
    assert CARD_GB.keys() == CARDS.keys()
