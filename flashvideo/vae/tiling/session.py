"""Setting up a run: which layers, on which device, in which tiles, within which limits."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import memory
from .estimate import Estimate, Job, Size, choose, stretch
from .modules import Layer, decoder_layers, encoder_layers
from .store import Limits, Store
from .walker import Tiler, Walker, passes

log = logging.getLogger(__name__)

Tile = int | tuple[int, int] | bool | None
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Resources:
    """What a run may use.

    Attributes:
        tile: latents, an int or (rows, columns); False is untiled, None chooses from the budget.
        memory_budget: bytes on the computing device beside the weights; None is what is free there, less a margin.
        host_budget: bytes of host memory for what waits; None is what is free, less a margin. More goes to a file.
        scratch: folder for that file; None is the system's temporary folder.
        device: where to compute; None is where the weights are.
    """

    tile: Tile = None
    memory_budget: float | None = None
    host_budget: float | None = None
    scratch: Path | None = None
    device: torch.device | None = None

    def checked_tile(self) -> Size | bool | None:
        """`tile` as (rows, columns), False or None. Raises ValueError for anything else."""
        tile = self.tile
        if tile is None or tile is False:
            return tile
        pair = (tile, tile) if isinstance(tile, int) and tile is not True else tile
        if not isinstance(pair, tuple | list) or len(pair) != 2 or any(type(side) is not int for side in pair):
            raise ValueError(f"tile is {tile!r}; expected latents as an int or (rows, columns), False or None")
        if min(pair) < 1:
            raise ValueError(f"tile is {tile!r}; a tile has at least one latent each way")
        return int(pair[0]), int(pair[1])

    def checked_budget(self, name: str) -> int | None:
        """A budget in bytes or None. Raises ValueError for anything else."""
        value = getattr(self, name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ValueError(f"{name} is {value!r}; expected bytes, a positive number such as 6e9, or None")
        return int(value)


def device_and_dtype(vae: nn.Module, layers: tuple[Layer, ...], device: torch.device | None) -> tuple[Any, Any]:
    """Where and in what precision the VAE computes."""
    weight = layers[0].conv.weight
    device = torch.device(device) if device is not None else weight.device
    if device.type == "meta":
        raise ValueError("the VAE has no weights (it is on the meta device): load it with load_vae")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    if not weight.dtype.is_floating_point or weight.dtype.itemsize < 2:
        raise ValueError(f"the VAE's weights are {weight.dtype}; expected float32, bfloat16 or float16: convert them")
    return device, weight.dtype


class Counter:
    """Adds up what is done of `jobs` and reports it; work is counted in latents passed over, so tiles do not matter."""

    def __init__(self, jobs: list[Job], report: Progress | None) -> None:
        self._report, self._done = report, 0
        self._total = sum(passes(job.layers) * job.size[0] * job.size[1] * len(job.chunks) * job.batch for job in jobs)

    def __call__(self, area: int) -> None:
        self._done += area
        if self._report is not None:
            self._report(self._done, self._total)


class Session:
    """One decode or encode: its forecast, its store and a walker per video."""

    def __init__(self, job: Job, resources: Resources, advance: Callable[[int], None]) -> None:
        self.job = job
        self.estimate = plan_run(job, resources)
        self.store = Store(job.device, job.dtype, self.estimate.limits)
        self.tiler = Tiler(job.size, self.estimate.tile)
        self.walkers = [Walker(job.layers, self.store, self.tiler, advance) for _ in range(job.batch)]

    def close(self) -> None:
        """Free everything."""
        for walker in self.walkers:
            walker.close()
        self.store.close()


def plan_run(job: Job, resources: Resources) -> Estimate:
    """Tiles, places and the forecast of a run. Raises ValueError for resources that make no sense."""
    tile = resources.checked_tile()
    budget, host = resources.checked_budget("memory_budget"), resources.checked_budget("host_budget")
    on_cpu = job.device.type == "cpu"
    free = memory.free_on_host()
    if budget is None:
        # On a CPU the working set shares the memory with what waits, which needs most of it.
        budget = free // 4 if on_cpu else memory.free_on(job.device)
    if host is None:
        host = free * 3 // 4 if on_cpu else free
    short = Job(job.layers, stretch(job.chunks), job.size, job.batch, job.device, job.dtype, job.encode)
    estimate = choose(short, tile, budget, Limits(host=host, scratch=resources.scratch))
    if estimate.device_bytes > budget and tile is None:
        log.warning(
            "the budget of %d bytes is less than the %d that the smallest tile takes",
            budget,
            estimate.device_bytes,
        )
    log.debug("tiles of %s latents: %s", estimate.tile, estimate)
    return estimate


def decode_job(vae: nn.Module, chunks: list[int], size: Size, batch: int, device: torch.device | None = None) -> Job:
    """A decode of `chunks` latent frames of `size` latents."""
    layers = decoder_layers(vae)
    return Job(layers, tuple(chunks), size, batch, *device_and_dtype(vae, layers, device), encode=False)


def encode_job(vae: nn.Module, chunks: list[int], size: Size, batch: int, device: torch.device | None = None) -> Job:
    """An encode of `chunks` frames into `size` latents."""
    layers = encoder_layers(vae)
    return Job(layers, tuple(chunks), size, batch, *device_and_dtype(vae, layers, device), encode=True)


@contextlib.contextmanager
def computing(device: torch.device) -> Iterator[None]:
    """No gradients and no autocast: a VAE computes in the precision of its weights."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def place_offloaded(vae: Any) -> None:
    """Let accelerate's offloading, where it is on, bring the weights to their device: no `forward` of ours does it."""
    hook = getattr(vae, "_hf_hook", None)
    if hook is not None and hasattr(hook, "pre_forward"):
        hook.pre_forward(vae)


def channels_last(video: Tensor, store: Store, device: torch.device) -> Tensor:
    """`[C, T, H, W]` as contiguous `[T, H, W, C]` on `device` in the store's precision."""
    return video.to(device, store.dtype).permute(1, 2, 3, 0).contiguous()
