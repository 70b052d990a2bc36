"""Setting up a run: which layers, on which device, in which tiles, within which limits."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..limits import Device, Limits, Size
from . import memory
from .estimate import Estimate, Job, choose, stretch
from .modules import Layer, decoder_layers, encoder_layers, offloading_hook
from .store import Room, Store
from .walker import Tiler, Walker, passes

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


def device_and_dtype(vae: nn.Module, layers: tuple[Layer, ...], device: Device) -> tuple[torch.device, torch.dtype]:
    """Where and in what precision the VAE computes."""
    weight = layers[0].conv.weight
    if device is None:
        device = getattr(offloading_hook(layers[0].conv), "execution_device", None)
    device = torch.device(device) if device is not None else weight.device
    if device.type == "meta":
        raise ValueError("the VAE has no weights (it is on the meta device). Load it with load_vae.")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    if not weight.dtype.is_floating_point or weight.dtype.itemsize < 2:
        raise ValueError(f"the VAE's weights are {weight.dtype}; expected float32, bfloat16 or float16. Convert them.")
    return device, weight.dtype


class Counter:
    """Adds up what is done of ``jobs`` and reports it; work is counted in latents passed over, whatever the tiles."""

    def __init__(self, jobs: list[Job], report: Progress | None) -> None:
        self._report, self._done = report, 0
        self._total = sum(passes(job.layers) * job.size[0] * job.size[1] * len(job.chunks) * job.batch for job in jobs)

    def __call__(self, area: int) -> None:
        self._done += area
        if self._report is not None:
            self._report(self._done, self._total)


class Session:
    """One decode or encode: its forecast, its store and a walker per video."""

    def __init__(self, job: Job, limits: Limits, advance: Callable[[int], None]) -> None:
        self.job = job
        self.estimate = plan_run(job, limits)
        self.store = Store(job.device, job.dtype, self.estimate.room)
        self.tiler = Tiler(job.size, self.estimate.tile)
        self.walkers = [Walker(job.layers, self.store, self.tiler, advance) for _ in range(job.batch)]

    def close(self) -> None:
        """Free everything."""
        for walker in self.walkers:
            walker.close()
        self.store.close()


def plan_run(job: Job, limits: Limits) -> Estimate:
    """Tiles, places and the forecast of a run."""
    budget, host = (None if size is None else int(size) for size in (limits.memory_budget, limits.host_budget))
    on_cpu = job.device.type == "cpu"
    free = memory.free_on_host()
    if budget is None:
        # On a CPU the working set shares the memory with what waits, which needs most of it.
        budget = free // 4 if on_cpu else memory.free_on(job.device)
    if host is None:
        host = free * 3 // 4 if on_cpu else free
    short = Job(job.layers, stretch(job.chunks), job.size, job.batch, job.device, job.dtype, job.encode)
    estimate = choose(short, limits.tile_size, budget, Room(host=host, scratch=limits.scratch))
    if estimate.device_bytes > budget and limits.tile is None:
        log.warning(
            "the budget of %d bytes is less than the %d that the smallest tile takes",
            budget,
            estimate.device_bytes,
        )
    log.debug("tiles of %s latents: %s", estimate.tile, estimate)
    return estimate


def decode_job(vae: nn.Module, chunks: list[int], size: Size, batch: int, device: Device = None) -> Job:
    """A decode of ``chunks`` latent frames of ``size`` latents."""
    layers = decoder_layers(vae)
    return Job(layers, tuple(chunks), size, batch, *device_and_dtype(vae, layers, device), encode=False)


def encode_job(vae: nn.Module, chunks: list[int], size: Size, batch: int, device: Device = None) -> Job:
    """An encode of ``chunks`` frames into ``size`` latents."""
    layers = encoder_layers(vae)
    return Job(layers, tuple(chunks), size, batch, *device_and_dtype(vae, layers, device), encode=True)


@contextlib.contextmanager
def computing(device: torch.device) -> Iterator[None]:
    """No gradients and no autocast: a VAE computes in the precision of its weights."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def place_offloaded(vae: Any) -> None:
    """Let accelerate's offloading, where it is on, bring the weights to their device: no ``forward`` is called."""
    hook = getattr(vae, "_hf_hook", None)
    if hook is not None and hasattr(hook, "pre_forward"):
        hook.pre_forward(vae)


def channels_last(video: Tensor, store: Store, device: torch.device) -> Tensor:
    """``[C, T, H, W]`` as contiguous ``[T, H, W, C]`` on ``device`` in the store's precision."""
    return video.to(device, store.dtype).permute(1, 2, 3, 0).contiguous()
