"""The published networks on the meta device, as a device would run them: one evaluation, one decode, one encode.

Equal layers and equal chunks of the VAE are counted once and multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ...models.attention import in_pieces
from ...models.network import FlashVideoNetwork
from ...models.windows import AttentionWindows
from ...tensors.sizes import SPATIAL_FACTOR, latent_frames
from ...vae.limits import Limits
from ...vae.tiling.estimate import Estimate, Job
from ...vae.tiling.mover import Mover
from ...vae.tiling.plan import decode_chunks, encode_chunks
from ...vae.tiling.session import decode_job, encode_job, plan_run
from ...vae.tiling.store import LENT, DryStore, Plane
from ...vae.tiling.walker import Tiler, Walker
from .counter import Count, counting
from .live import LiveBytes

META = torch.device("meta")
DEVICE = torch.device("cuda", 0)  # whose branches are taken; none is needed
FULL_SIZE: dict[str, dict[str, Any]] = {  # the published transformers
    "stage1": {"num_attention_heads": 48, "num_layers": 42},
    "stage2": {
        "num_attention_heads": 30,
        "num_layers": 30,
        "use_noise_step_embedding": True,
        "use_frame_count_embedding": True,
    },
}
HOST_MEMORY = 10**12
PROMPT = (226, 4096)
_NOISE_STEP = 675.0
_PAIR = 2  # layers, an even and an odd one


@dataclass(frozen=True)
class Case:
    """What is counted.

    Attributes:
        part: ``stage1``, ``stage2``, ``decode`` or ``encode``.
        size: rows and columns in pixels.
        frames: of the video.
        batch: samples at once; guidance makes two of one.
        windows: of the transformer's attention.
        device_bytes: that the VAE may take on the device.
    """

    part: str
    size: tuple[int, int]
    frames: int = 49
    batch: int = 1
    windows: AttentionWindows | None = None
    device_bytes: int = 80 * 10**9

    @property
    def name(self) -> str:
        """In tables."""
        words = [self.part, f"{self.size[1]}x{self.size[0]}x{self.frames}"]
        words += [f"batch {self.batch}"] if self.batch > 1 else []
        if self.windows is not None:
            rows, columns = SPATIAL_FACTOR * self.windows.height, SPATIAL_FACTOR * self.windows.width
            words.append(f"windows {columns}x{rows}" + (f"+{self.windows.pooled}" if self.windows.pooled else ""))
        return " ".join(words)


PUBLISHED = (
    Case("stage1", (256, 480)),
    Case("stage2", (1072, 1920)),
    Case("decode", (1072, 1920)),
    Case("encode", (1072, 1920)),
)


def count(case: Case, *, fused: bool = True, layers: int | None = None, dtype: torch.dtype = torch.bfloat16) -> Count:
    """What a case asks of a device.

    Args:
        fused: with kernels of our own, as where Triton is; else torch's operations alone.
        layers: of the transformer; all of them if ``None``.

    Raises:
        ValueError: an unknown part, or a size that the network does not take.
    """
    if case.part in FULL_SIZE:
        return _count_evaluation(case, fused, layers or FULL_SIZE[case.part]["num_layers"], dtype)
    if case.part not in ("decode", "encode"):
        raise ValueError(f"part is {case.part!r}; expected stage1, stage2, decode or encode.")
    return _count_vae(case, fused, dtype)


def _count_evaluation(case: Case, fused: bool, layers: int, dtype: torch.dtype) -> Count:
    few = min(layers, _PAIR)
    if (layers - few) % _PAIR:
        return _evaluate(case, fused, layers, dtype)
    whole = _evaluate(case, fused, few, dtype)
    if layers == few:
        return whole
    more = _evaluate(case, fused, few + _PAIR, dtype)
    return more.extended(whole, (layers - few) // _PAIR - 1)


def _evaluate(case: Case, fused: bool, layers: int, dtype: torch.dtype) -> Count:
    network = transformer(case.part, layers, dtype)
    rows, columns = (side // SPATIAL_FACTOR for side in case.size)
    x = torch.empty(case.batch, 16, latent_frames(case.frames), rows, columns, device=META, dtype=dtype)
    text = torch.empty(case.batch, *PROMPT, device=META, dtype=dtype)
    prepared = network.prepare(text, x.shape)
    noise_step = torch.empty(1, device=META) if case.part == "stage2" else None
    step = torch.empty(1, device=META)
    with counting(network, fused=fused) as counter:
        network(x, step, None, noise_step=noise_step, prepared=prepared, inplace=True, attention_windows=case.windows)
    return counter.count()


@cache
def transformer(stage: str, layers: int, dtype: torch.dtype = torch.bfloat16) -> FlashVideoNetwork:
    """A published transformer's first layers on the meta device, with a device's attention."""
    config = FULL_SIZE[stage] | {"num_layers": layers}
    return FlashVideoNetwork(**config, attention=_attention, device=META, dtype=dtype)


def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
    """One fused kernel, as devices have it; torch's function holds all scores on the meta device."""

    def attend(q: Tensor, k: Tensor, v: Tensor, _: int) -> Tensor:
        mixed: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
        return mixed.transpose(1, 2).flatten(2)

    return in_pieces(attend, q, k, v, heads)


@cache
def _vae(dtype: torch.dtype) -> nn.Module:
    from diffusers import AutoencoderKLCogVideoX

    with META:
        return nn.Module.to(AutoencoderKLCogVideoX(), dtype)


def _count_vae(case: Case, fused: bool, dtype: torch.dtype) -> Count:
    vae, size = _vae(dtype), (case.size[0] // SPATIAL_FACTOR, case.size[1] // SPATIAL_FACTOR)
    if case.part == "decode":
        job = decode_job(vae, decode_chunks(latent_frames(case.frames)), size, case.batch, DEVICE)
    else:
        job = encode_job(vae, encode_chunks(case.frames), size, case.batch, DEVICE)
    estimate = plan_run(job, Limits(memory_budget=case.device_bytes, host_budget=HOST_MEMORY))
    chunks = job.chunks
    alike = len(chunks) - 2  # between the first and the last
    if alike < 2 or len(set(chunks[1:])) > 1:
        return _walk(vae, job, estimate, chunks, fused)
    fewer, more = (_walk(vae, job, estimate, (*chunks[:few], chunks[-1]), fused) for few in (2, 3))
    return more.extended(fewer, alike - 2)


def _walk(vae: nn.Module, job: Job, estimate: Estimate, chunks: tuple[int, ...], fused: bool) -> Count:
    with counting(vae, fused=fused) as counter:
        store = CountedStore(counter, job, estimate)
        tiler = Tiler(job.size, estimate.tile)
        for _ in range(job.batch):
            walker = Walker(job.layers, store, tiler, mover=MetaMover(META))
            walker.device = META
            for index, frames in enumerate(chunks):
                _run_chunk(walker, store, job, frames, first=index == 0, last=index == len(chunks) - 1)
            walker.close()
    return counter.count()


def _run_chunk(walker: Walker, store: DryStore, job: Job, frames: int, *, first: bool, last: bool) -> None:
    layer = job.layers[0]
    if job.encode:
        size = layer.grid * job.size[0], layer.grid * job.size[1]
        walker.run(store.allocate(frames, size, layer.channels[0]), latents=None, first=first, last=last)
        return
    latents = torch.empty((frames, *job.size, layer.channels[0]), dtype=job.dtype, device=META)
    walker.run(Plane(latents, LENT), latents=latents, first=first, last=last)


class CountedStore(DryStore):
    """Planes on the meta device, counted apart from what is computed."""

    def __init__(self, counter: LiveBytes, job: Job, estimate: Estimate) -> None:
        super().__init__(job.device, job.dtype, estimate.room)
        self._counter = counter

    def _new(self, place: str, shape: tuple[int, ...]) -> Tensor:
        with self._counter.storing():
            return super()._new(place, shape)


class MetaMover(Mover):
    """Copies what it reads of planes that do not wait on the device."""

    def read(self, plane: Plane, region: Any) -> Tensor:
        part = super().read(plane, region)
        return part if plane.place in ("device", LENT) else part.clone()
