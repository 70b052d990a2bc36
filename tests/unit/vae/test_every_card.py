"""The plans of every card, run through the published VAE's own modules on the meta device: shapes, calls and peaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from flashvideo.report.kernels.live import LiveBytes
from flashvideo.report.kernels.networks import CountedStore, MetaMover
from flashvideo.vae.codec import estimate_decode, estimate_encode
from flashvideo.vae.limits import Limits
from flashvideo.vae.tiling import layers as op
from flashvideo.vae.tiling import walker as walking
from flashvideo.vae.tiling.estimate import Estimate, Job, working_bytes
from flashvideo.vae.tiling.plan import Region, decode_chunks, encode_chunks
from flashvideo.vae.tiling.session import decode_job, encode_job
from flashvideo.vae.tiling.statistics import Statistics
from flashvideo.vae.tiling.store import LENT, Plane
from flashvideo.vae.tiling.walker import Tiler, Walker

GB = 10**9
META = torch.device("meta")
CARDS = (6, 8, 12, 16, 24, 32, 48, 80, 96, 141, 192)
SIZES = {"270p": (256, 480), "540p": (544, 960), "1080p": (1072, 1920), "2k": (1440, 2560), "4k": (2160, 3840)}
FRAMES = 49
LARGEST_CALL = 2**31 - 1


@cache
def full_vae() -> Any:
    from diffusers import AutoencoderKLCogVideoX

    with META:
        return AutoencoderKLCogVideoX().to(torch.bfloat16)


class Counted(LiveBytes):
    """Live bytes on the meta device, and the most elements that any convolution read or wrote."""

    counts_meta = True

    def __init__(self) -> None:
        super().__init__()
        self.largest_call = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten.convolution.default:
            return super().__torch_dispatch__(func, types, args, kwargs)
        # As on a GPU, channels-last in gives channels-last out; the meta device does not know that.
        plain = func(*args, **(kwargs or {}))
        self.largest_call = max(self.largest_call, args[0].numel(), plain.numel())
        layout = torch.channels_last if plain.ndim == 4 else torch.channels_last_3d
        options = {"dtype": plain.dtype, "device": META, "memory_format": layout}
        return super().__torch_dispatch__(torch.ops.aten.empty.memory_format, types, (list(plain.shape),), options)


class LargestTile(Tiler):
    """Goes over one tile only, the one with the largest halo."""

    def regions(self) -> list[Region]:
        return [max(super().regions(), key=lambda tile: (tile.area, tile.grown(*self.size).area))]


def no_statistics(values: Tensor, weight: int = 1) -> Statistics:
    """What ``measure`` gives, without reading the values."""
    statistics = Statistics()
    statistics._counts = [weight * values[..., 0].numel()]
    statistics._means = [torch.empty(values.shape[-1], dtype=torch.float64, device=META)]
    statistics._squares = list(statistics._means)
    return statistics


@pytest.fixture
def fewer_operations(monkeypatch):
    """Frames are normalised one like the other, so two of them show what all of them take."""
    apply = op.Modulation.apply
    monkeypatch.setattr(op.Modulation, "apply", lambda norm, source, target: apply(norm, source[:2], target[:2]))
    monkeypatch.setattr(walking, "measure", no_statistics)


def run_plan(job: Job, estimate: Estimate, counted: Counted) -> Iterator[tuple[int, ...]]:
    """Run the first and the last chunk of ``job``, and give the shape of what came out of each."""
    store = CountedStore(counted, job, estimate)
    walker = Walker(job.layers, store, LargestTile(job.size, estimate.tile), mover=MetaMover(META))
    walker.device = META
    first, last = job.layers[0], job.chunks[-1]
    lent = 0 if job.encode else job.chunks[0] * job.size[0] * job.size[1] * first.channels[0] * job.dtype.itemsize
    for frames, ends in ((job.chunks[0], False), (last, True)):
        with torch.no_grad(), counted:
            if job.encode:
                rows, columns = (side * first.grid for side in job.size)
                source, latents = store.allocate(frames, (rows, columns), first.channels[0]), None
            else:
                with counted.storing():
                    latents = torch.empty((frames, *job.size, first.channels[0]), dtype=job.dtype, device=META)
                source = Plane(latents, LENT)
            result = walker.run(source, latents=latents, first=not ends, last=ends)
        yield tuple(result.shape)
    walker.close()
    assert store.peak["device"] <= estimate.room.device
    waiting = estimate.device_bytes - estimate.working_bytes + estimate.host_bytes + estimate.file_bytes
    assert counted.peak["stored"] <= waiting + lent


def check_plan(job: Job, estimate: Estimate) -> None:
    counted = Counted()
    shapes = list(run_plan(job, estimate, counted))
    rows, columns = job.size
    if job.encode:
        assert shapes == [(5, rows, columns, 32), (4, rows, columns, 32)]
    else:
        assert shapes == [(9, 8 * rows, 8 * columns, 3), (8, 8 * rows, 8 * columns, 3)]
    assert counted.largest_call <= LARGEST_CALL
    # Without the forecast's allowance for cuDNN's scratch memory, which nobody counts here.
    copies = estimate.host_bytes + estimate.file_bytes > 0
    computed = working_bytes(replace(job, device=torch.device("mps")), estimate.tile, copies=copies)
    least = 0.3 * (computed - 12 * op.SLICE_ELSEWHERE)  # what is normalised at a time may be less than a slice
    assert least <= counted.peak["computing"] <= computed <= estimate.working_bytes


def job_of(direction: str, height: int, width: int) -> Job:
    size = (height // 8, width // 8)
    if direction == "decode":
        return decode_job(full_vae(), decode_chunks((FRAMES - 1) // 4 + 1), size, 1, "cuda:0")
    return encode_job(full_vae(), encode_chunks(FRAMES), size, 1, "cuda:0")


@pytest.mark.usefixtures("fewer_operations")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("direction", ["decode", "encode"])
def test_the_plan_of_every_card_runs(direction, size):
    height, width = SIZES[size]
    weights = sum(parameter.numel() * parameter.element_size() for parameter in full_vae().parameters())
    estimate = estimate_decode if direction == "decode" else estimate_encode
    plans: dict[object, Estimate] = {}
    for card in CARDS:
        budget = card * GB - weights
        plan = estimate(
            full_vae(),
            FRAMES,
            height,
            width,
            Limits(memory_budget=budget, host_budget=64 * GB, device="cuda:0"),
        )
        assert plan.device_bytes <= budget
        plans.setdefault(plan.tile, plan)
    job = job_of(direction, height, width)
    for plan in plans.values():
        check_plan(job, plan)


@pytest.mark.usefixtures("fewer_operations")
@pytest.mark.parametrize("direction", ["decode", "encode"])
@pytest.mark.parametrize("size", ["1080p", "4k"])
def test_one_tile_runs_whatever_its_size(direction, size):
    estimate = estimate_decode if direction == "decode" else estimate_encode
    limits = Limits(tile=False, memory_budget=2000 * GB, device="cuda:0")
    plan = estimate(full_vae(), FRAMES, *SIZES[size], limits)
    job = job_of(direction, *SIZES[size])
    assert plan.tile == job.size
    check_plan(job, plan)
