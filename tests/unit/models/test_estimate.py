"""What an evaluation is said to take is what is counted of the published networks, without their memory."""

from __future__ import annotations

import pytest
import torch

from flashvideo.method.stage1 import sample_stage1
from flashvideo.method.stage2 import refine_latents
from flashvideo.models.estimate import evaluation_bytes, sampling_bytes
from flashvideo.models.windows import AttentionWindows
from tests.meta_device import META, Counted, full_transformer, fused_attention, values_are_finite

SIZES = {"270p": (256, 480), "540p": (544, 960), "720p": (720, 1280), "1080p": (1072, 1920), "4k": (2160, 3840)}


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch):
    fused_attention(monkeypatch)
    values_are_finite(monkeypatch)


def latents(size, batch=1, frames=13, dtype=torch.float32):
    height, width = SIZES[size]
    return torch.empty(batch, 16, frames, height // 8, width // 8, dtype=dtype, device=META)


def count_evaluation(stage, size, batch, dtype, layers=1, frames=13, windows=None):
    network, x = full_transformer(stage, layers, dtype), latents(size, batch, frames, dtype)
    text = torch.empty(batch, 226, 4096, dtype=dtype, device=META)
    step = torch.empty(batch, device=META)
    with torch.no_grad(), Counted() as counted:
        noise_step = step if stage == "stage2" else None
        network(x, step, text, noise_step=noise_step, inplace=True, attention_windows=windows)
    return counted.peak["computing"], evaluation_bytes(network.config, x.shape, dtype.itemsize, windows)


@pytest.mark.parametrize("size", ["270p", "540p", "720p", "1080p"])
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
@pytest.mark.parametrize("batch", [1, 2])
def test_an_evaluation(stage, size, batch):
    counted, said = count_evaluation(stage, size, batch, torch.bfloat16)
    assert counted <= said <= 1.16 * counted


@pytest.mark.parametrize(("frames", "dtype"), [(1, torch.bfloat16), (31, torch.bfloat16), (13, torch.float32)])
def test_other_lengths_and_precisions(frames, dtype):
    counted, said = count_evaluation("stage2", "540p", 1, dtype, frames=frames)
    assert counted <= said <= 1.16 * counted


@pytest.mark.parametrize("size", ["540p", "1080p", "4k"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("window", [(68, 120, 0), (68, 120, 4), (32, 60, 4), (16, 16, 0)])
def test_attention_in_windows(size, batch, window):
    windows = AttentionWindows(*window[:2], pooled=window[2])
    counted, said = count_evaluation("stage2", size, batch, torch.bfloat16, layers=2, windows=windows)
    assert counted <= said <= 1.2 * counted


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_every_layer_holds_as_much(stage):
    one, two, all_of_them = (count_evaluation(stage, "270p", 1, torch.bfloat16, n)[0] for n in (1, 2, None))
    assert one <= two == all_of_them <= 1.001 * one


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("size", ["270p", "540p"])
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_run_of_a_sampler(stage, size, sequential):
    network, x = full_transformer(stage, 1), latents(size)
    prompt = torch.empty(1, 226, 4096, dtype=torch.bfloat16, device=META)
    with Counted() as counted:
        if stage == "stage1":
            noise = [torch.empty_like(x)] * 2
            sample_stage1(network, x, prompt, num_steps=3, step_noise=noise, sequential_guidance=sequential)
        else:
            refine_latents(network, x, prompt, num_steps=2, solver="heun", sequential_guidance=sequential)
    said = sampling_bytes(network.config, x.shape, 2, sequential=sequential)
    assert counted.peak["computing"] <= said <= 1.2 * counted.peak["computing"]
