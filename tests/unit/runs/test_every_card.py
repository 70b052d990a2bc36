"""Both samplers of every card and size, through the published networks on the meta device: peaks, plans and indices.

The VAE's part is in ``tests/unit/vae/test_every_card.py``.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch

from flashvideo.method.stage1 import sample_stage1
from flashvideo.method.stage2 import refine_latents
from flashvideo.models import attention
from flashvideo.report.planning import published_parts
from flashvideo.runs.chain import sequential_guidance
from flashvideo.runs.memory import Load
from flashvideo.runs.offloading import plan_offload
from flashvideo.vae.tiling import memory
from tests.meta_device import (
    META,
    Counted,
    full_transformer,
    fused_attention,
    values_are_finite,
)

GB = 10**9
CARDS = (6, 8, 12, 16, 24, 32, 48, 80, 96, 141, 192)
SIZES = {"270p": (256, 480), "540p": (544, 960), "1080p": (1072, 1920), "2k": (1440, 2560), "4k": (2160, 3840)}
PREVIEW = SIZES["270p"]
FRAMES = 49
LARGEST_INDEX = 2**31 - 1
# Only these see more elements than an index of 32 bits counts, and only of large batches: they go by 64 bits, or cut
# themselves, on CUDA and ROCm. Views take no kernel.
ANY_SIZE = {"cat", "copy_", "empty.memory_format", "new_empty", "fill_.Scalar"}


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    fused_attention(monkeypatch)
    values_are_finite(monkeypatch)


@cache
def count_sampler(stage: str, size: tuple[int, int], batch: int = 1) -> Counted:
    """A run of one step with guidance, as the command line makes it. One layer holds as much as all."""
    transformer = full_transformer(stage, 1)
    latents = torch.empty(batch, 16, (FRAMES - 1) // 4 + 1, size[0] // 8, size[1] // 8, device=META)
    prompt = torch.empty(batch, 226, 4096, dtype=torch.bfloat16, device=META)
    one_by_one = sequential_guidance(latents.shape)
    with Counted() as counted:
        if stage == "stage1":
            result = sample_stage1(transformer, latents, prompt, num_steps=1, sequential_guidance=one_by_one)
        else:
            scale = 1 if one_by_one else 13  # a second branch after the first takes no more
            result = refine_latents(transformer, latents, prompt, num_steps=1, guidance_scale=scale)
    assert result.shape == latents.shape
    return counted


def check_indices(counted: Counted) -> None:
    too_large = {
        name: size
        for name, size in counted.largest.items()
        if size > LARGEST_INDEX and name.partition(".")[0] not in {kind.partition(".")[0] for kind in ANY_SIZE}
    }
    assert not {name for name in too_large if not is_view(name)}, too_large


def is_view(name: str) -> bool:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default").is_view


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("size", SIZES)
def test_every_card(size, monkeypatch):
    """What a plan says to fit, fits; what it says to lack room, lacks it; nobody is left without a word."""
    parts, load = published_parts(), Load(FRAMES, PREVIEW, SIZES[size], encodes=True)
    counted = {"stage1": count_sampler("stage1", PREVIEW), "stage2": count_sampler("stage2", SIZES[size])}
    needed = {name: parts[name].weights + one.peak["computing"] for name, one in counted.items()}
    total = sum(part.weights for part in parts.values())
    monkeypatch.setattr(memory, "free_on_host", lambda: 64 * GB)
    for card in CARDS:
        free = card * GB - memory.MARGIN
        monkeypatch.setattr(memory, "free_on", lambda _, free=free: free)
        plan = plan_offload(parts, load, torch.device("cuda", 0))
        if plan.offload == "none":
            assert max(total + one.peak["computing"] for one in counted.values()) <= free
        if plan.shortage:
            assert max(*needed.values(), parts["text"].weights) > 0.97 * free
            assert "GB are free" in plan.shortage
        else:
            assert max(needed.values()) <= free
    for one in counted.values():
        check_indices(one)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("cut", [True, False], ids=["in pieces", "not cut"])
def test_batches_beyond_an_index(monkeypatch, cut):
    """Three videos of 4K have more than 2^31 elements in q, k and v each. Were attention not cut, it would be seen."""
    if not cut:
        monkeypatch.setattr(attention, "LARGEST_BYTES", 1 << 60)
    counted = count_sampler.__wrapped__("stage2", SIZES["4k"], 3)
    assert counted.largest["new_empty"] > LARGEST_INDEX
    if cut:
        check_indices(counted)
    else:
        with pytest.raises(AssertionError, match="attention"):
            check_indices(counted)
