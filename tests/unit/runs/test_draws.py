"""Every draw of a run is the one of its seed and its purpose: files of today are made again by any later version."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from flashvideo.method.seeds import mixed_seed
from flashvideo.runs import chain
from flashvideo.runs.seeds import frame_noise, generator_for
from flashvideo.runs.settings import Stage1Settings, Stage2Settings

SEED = 11
STAGE1 = Stage1Settings(height=32, width=32, num_frames=5, num_steps=3)
STAGE2 = Stage2Settings(height=64, width=64)


class NoModels:
    """Whatever is asked for, a part that does nothing."""

    @contextmanager
    def use(self, name):
        yield SimpleNamespace(device=torch.device("cpu"))

    def latent_scale(self, name):
        return None


@pytest.fixture
def given(monkeypatch):
    """``given(name)``: the chain's function of this name is not called; gives its arguments, once there are some."""

    def watch(name, result=None):
        calls, result = [], torch.zeros(1) if result is None else result
        monkeypatch.setattr(chain, name, lambda *args, **more: calls.append((args, more)) or result)
        return calls

    return watch


def is_fresh(generators, purpose):
    """Whether these are one generator, of the seed and the purpose, from which nothing has been drawn."""
    (generator,) = generators
    return torch.equal(generator.get_state(), generator_for(SEED, purpose).get_state())


def test_stage1_draws_its_start_and_its_solvers_noise(given):
    calls = given("sample_stage1")
    chain.sample_previews(NoModels(), torch.zeros(1), STAGE1, [SEED])
    (_, noise, _), more = calls[0]
    assert torch.equal(noise, torch.randn(1, 16, 2, 4, 4, generator=generator_for(SEED, "stage1 start")))
    assert is_fresh(more["generator"], "stage1 solver")


def test_stage2_draws_from_the_posterior_and_degrades(given):
    encodings, degradations = given("encode_video"), given("degrade_latents")
    chain.encode_upscaled(NoModels(), torch.zeros(1, 3, 5, 32, 32), STAGE2, [SEED])
    chain.degrade(NoModels(), torch.zeros(1, 16, 2, 8, 8), STAGE2, [SEED])
    assert is_fresh(encodings[0][1]["generator"], "posterior")
    assert is_fresh(degradations[0][1]["generator"], "degradation")


@pytest.mark.parametrize(
    ("frames", "side", "windows", "sequential"),
    [(1, 32, "0", False), (1, 512, "0", True), (16, 128, "0", True), (16, 128, "4,2", False), (16, 512, "4,2", True)],
)
def test_large_latents_are_guided_one_branch_after_the_other(given, frames, side, windows, sequential):
    name, latents = "refine_latents" if windows == "0" else "refine_stream", torch.zeros(1, 1, frames, side, side)
    calls = given(name, [latents] if name == "refine_stream" else latents)
    chain.refine(NoModels(), latents, torch.zeros(1), replace(STAGE2, time_windows=windows))
    assert calls[0][1]["sequential_guidance"] is sequential


def test_a_latent_frames_noise_is_that_of_its_place():
    shape = (1, 16, 1, 8, 8)
    noise = frame_noise(SEED, "degradation", 3, shape)
    assert torch.equal(
        noise, torch.randn(shape, generator=torch.Generator().manual_seed(mixed_seed(SEED, "degradation", 3)))
    )
    others = [(SEED + 1, "degradation", 3), (SEED, "posterior", 3), (SEED, "degradation", 4)]
    drawn = torch.stack([noise, *(frame_noise(*place, shape) for place in others)]).flatten(1)
    alike = torch.corrcoef(drawn) - torch.eye(len(drawn))
    assert alike.abs().max() < 0.15, "five standard deviations of what independent draws have"
