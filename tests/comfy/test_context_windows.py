"""Core's Context Windows on Stage II: the library's windows in time, in our refiner and in core's sampler."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flashvideo import TimeWindows, degrade_latents, refine_latents
from tests.comfy.conftest import Bench, saved
from tests.comfy.golden_models import STAGE2
from tests.conftest import assert_within

CORE = {
    "context_schedule": "standard_static",
    "fuse_method": "pyramid",
    "dim": 2,
    "freenoise": False,
    "causal_window_fix": False,
}


@pytest.fixture
def context(golden: Any) -> torch.Tensor:
    embeds: torch.Tensor = golden("sampler_stage2")["context"]
    return embeds


def windowed(bench: Bench, length: int, overlap: int, **more: Any) -> tuple[list[Any], list[Any]]:
    """A Stage II MODEL without windows, and with core's."""
    model = bench.add("FlashVideoLoadStage2", model_name=STAGE2)
    shape = {"context_length": length, "context_overlap": overlap}
    return model, bench.add("ContextWindowsManual", model=model, **{**CORE, **shape, **more})


@pytest.mark.parametrize(
    ("length", "overlap", "frames"), [(4, 2, 8), (5, 1, 13), (3, 0, 6)], ids=["blended", "long", "cut"]
)
def test_cores_windows_are_the_librarys(
    bench: Bench, latents: Any, context: torch.Tensor, tiny_stage2: Any, length: int, overlap: int, frames: int
) -> None:
    """Where the last one needs no moving, and without the causal fix."""
    given, settings = latents(1, 16, frames, 4, 6), {"steps": 3, "cfg": 5.0, "solver": "heun"}
    _, model = windowed(bench, length, overlap)
    positive, latent = bench.tensor("ProbeConditioning", context), bench.latent(given, flashvideo_noise_step=675)
    node = bench.add("FlashVideoStage2Refiner", model=model, positive=positive, latent=latent, **settings)
    path = bench.save(node)
    bench.run()
    options = {"num_steps": 3, "guidance_scale": 5.0, "solver": "heun"}
    windows = TimeWindows(length, overlap)
    expected = refine_latents(tiny_stage2, given, context, **options, time_windows=windows)
    assert_within(saved(path), expected, 2e-4)
    assert (expected - refine_latents(tiny_stage2, given, context, **options)).abs().max() > 1e-2, "no windows"


def test_cores_sampler_follows_them_too(bench: Bench, latents: Any, context: torch.Tensor, tiny_stage2: Any) -> None:
    given = latents(1, 16, 8, 4, 6)
    _, model = windowed(bench, 4, 2)
    positive = bench.tensor("ProbeConditioning", context)
    negative = bench.tensor("ProbeConditioning", torch.zeros_like(context))
    out = bench.add(
        "SamplerCustomAdvanced",
        noise=bench.add("RandomNoise", noise_seed=42),
        guider=bench.add("CFGGuider", model=model, positive=positive, negative=negative, cfg=5.0),
        sampler=bench.add("KSamplerSelect", sampler_name="euler"),
        sigmas=bench.add("FlashVideoStage2Sigmas", steps=3),
        latent_image=bench.latent(given),
    )
    path = bench.save(out)
    bench.run()
    start = degrade_latents(given, 675, generator=torch.Generator().manual_seed(42))
    options = {"num_steps": 3, "guidance_scale": 5.0, "time_windows": TimeWindows(4, 2)}
    assert_within(saved(path), refine_latents(tiny_stage2, start, context, **options), 2e-4)


def test_windows_that_cover_everything_change_nothing(bench: Bench, latents: Any, context: torch.Tensor) -> None:
    positive, latent = bench.tensor("ProbeConditioning", context), bench.latent(latents(), flashvideo_noise_step=675)
    shared = {"positive": positive, "latent": latent, "steps": 2}
    paths = [
        bench.save(bench.add("FlashVideoStage2Refiner", model=model, **shared))
        for model in windowed(bench, 13, 3, causal_window_fix=True)
    ]
    bench.run()
    plain, covered = (saved(path) for path in paths)
    assert torch.equal(plain, covered)


def test_the_causal_fix_shows_later_windows_one_latent_more(
    bench: Bench, latents: Any, context: torch.Tensor, tiny_stage2: Any
) -> None:
    """The latent before a window, whose prediction is thrown away; written out, since the library's windows are of one
    size, lead and all."""
    given = latents(1, 16, 6, 4, 6)
    _, model = windowed(bench, 3, 0, causal_window_fix=True)
    positive, latent = bench.tensor("ProbeConditioning", context), bench.latent(given, flashvideo_noise_step=675)
    path = bench.save(
        bench.add("FlashVideoStage2Refiner", model=model, positive=positive, latent=latent, steps=3, cfg=1.0)
    )
    bench.run()

    def fixed(x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        first = tiny_stage2(x[:, :, :3], *arguments, **options)
        return torch.cat((first, tiny_stage2(x[:, :, 2:], *arguments, **options)[:, :, 1:]), dim=2)

    assert_within(saved(path), refine_latents(fixed, given, context, num_steps=3, guidance_scale=1.0), 2e-4)
