"""Where models wait while others work: chosen from what is free, before anything is loaded.

A step of a run takes its model's weights and what it works in beside them: a sampler's is counted
(:mod:`flashvideo.models.estimate`), the VAE's is its own forecast. All models stay on the device if every step fits
beside them, and if the VAE need not send more to the host than it would alone: moving models costs seconds, moving
activations minutes. Else they take turns there and wait in host memory; and where that does not hold them, each is
loaded anew for its turn.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from ..loading.model_store import ModelStore
from ..loading.text import encoding_bytes
from ..models.estimate import sampling_bytes
from ..models.windows import AttentionWindows
from ..tensors.sizes import LATENT_CHANNELS, SPATIAL_FACTOR
from ..vae.codec import Estimate, estimate_decode, estimate_encode
from ..vae.limits import Limits, Size
from ..vae.tiling import memory
from .chain import sequential_guidance
from .jobs import this_process
from .memory import Load, gigabytes

Choice = Literal["none", "cpu", "disk"]
_PLENTY = 1e15  # bytes of host memory: what the VAE would keep there if it could


@dataclass(frozen=True)
class Part:
    """A model of a run.

    Attributes:
        module: its weights; on the meta device if it is not loaded yet.
        config: of a transformer or of the text encoder.
    """

    module: nn.Module
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> int:
        """Bytes of all weights."""
        return sum(p.numel() * p.element_size() for p in self.module.parameters())

    @property
    def itemsize(self) -> int:
        """Bytes of a number that it computes with."""
        return next(self.module.parameters()).element_size()

    def bytes_on(self, device: torch.device) -> int:
        """Of the weights that are there already."""
        return sum(p.numel() * p.element_size() for p in self.module.parameters() if p.device == device)


@dataclass(frozen=True)
class Step:
    """What a step of a run takes.

    Attributes:
        part: the model's name.
        name: what messages call the step.
        work: bytes on the device beside the weights, if the model has the device alone.
        beside: whether it runs as well with all models on the device.
        host: bytes of host memory meanwhile: videos, and what waits for the VAE.
        forecasts: the VAE's, alone on the device and beside all models.
    """

    part: str
    name: str
    work: int
    beside: bool
    host: int = 0
    forecasts: tuple[Estimate, Estimate] | None = None


@dataclass(frozen=True)
class Plan:
    """Where models wait.

    Attributes:
        offload: ``none`` (they stay), ``cpu`` or ``disk``.
        reason: in a line.
        shortage: what does not fit even so and what helps, in words; "" if everything does.
    """

    offload: Choice
    reason: str
    shortage: str = ""


def plan_offload(parts: Mapping[str, Part], load: Load, device: torch.device) -> Plan:
    """Choose where the models of a run wait.

    Args:
        parts: the models that the run uses, by name (``text``, ``stage1``, ``stage2``, ``vae``).
        load: what it works on.
        device: to compute on.
    """
    free = memory.free_on(device) + sum(part.bytes_on(device) for part in parts.values())
    host = memory.free_on_host() // _processes_here()
    host += sum(part.bytes_on(torch.device("cpu")) for part in parts.values())
    return plan_within(parts, load, device, free, host)


def plan_within(parts: Mapping[str, Part], load: Load, device: torch.device, free: int, host: int) -> Plan:
    """The same for a device, here or not, with ``free`` bytes for everything, and ``host`` bytes of host memory."""
    if device.type == "cpu":
        return Plan("none", "the models are computed where they wait")
    steps = list(steps_of(parts, load, device, free))
    total = sum(part.weights for part in parts.values())
    there = f"{gigabytes(free)} GB free on {device}"
    turns = f"the models ({gigabytes(total)} GB) take turns there"
    if all(step.beside for step in steps):
        return Plan("none", f"{there}: all models stay there")
    shortage = next(filter(None, (_shortage(step, parts[step.part], free) for step in steps)), "")
    shares = device.type == "mps"  # host memory is the device's
    if not shares and all(total - parts[step.part].weights + step.host <= host for step in steps):
        return Plan("cpu", f"{there}: {turns} and wait in host memory", shortage)
    return Plan("disk", f"{there}, {gigabytes(host)} GB of host memory: {turns}, each loaded anew", shortage)


def choose_offload(models: ModelStore, load: Load) -> str:
    """Set where the models of a store wait, and say it in a line; "" on a CPU, where there is nothing to choose.

    Raises:
        ValueError: a step that does not fit.
    """
    if models.device.type == "cpu":
        return ""
    parts = {name: Part(*models.meta(name)) for name in models.names}
    plan = plan_offload(parts, load, models.device)
    if plan.shortage:
        full = load.attention_windows and plan_offload(parts, replace(load, attention_windows=None), models.device)
        shortage = plan.shortage + ("; --attention full takes longer, and fits" if full and not full.shortage else "")
        raise ValueError(
            f"{load.name} do not fit on {models.device}: {shortage}; --offload {plan.offload} tries it all the same."
        )
    models.offload = plan.offload
    return f"{plan.reason} (--offload {plan.offload})"


def steps_of(parts: Mapping[str, Part], load: Load, device: torch.device, free: int) -> Iterator[Step]:
    """The steps of a run, in order; ``free`` are the bytes that the device has for all."""
    left = free - sum(part.weights for part in parts.values())

    def vae(name: str, size: Size, videos: int) -> Step:
        estimate = estimate_encode if name == "encoding" else estimate_decode

        def forecast(budget: int) -> Estimate:
            limits = Limits(tile=1, memory_budget=max(1, budget), host_budget=_PLENTY, device=device)
            least = estimate(parts["vae"].module, load.frames, *size, limits)
            if least.working_bytes > budget:
                return least
            return estimate(parts["vae"].module, load.frames, *size, replace(limits, tile=None))

        alone, beside = forecast(free - parts["vae"].weights), forecast(left)
        as_well = beside.device_bytes <= left and beside.host_bytes <= alone.host_bytes
        return Step("vae", name, alone.device_bytes, as_well, videos + alone.host_bytes, (alone, beside))

    if "text" in parts:
        work = encoding_bytes(parts["text"].config, parts["text"].itemsize)
        yield Step("text", "the text encoder", work, work <= left)
    if "stage1" in parts and load.preview is not None:
        work = _sampler(parts["stage1"], load.latent_frames, load.preview)
        yield Step("stage1", "Stage I", work, work <= left)
    if load.preview is not None:
        yield vae("decoding the preview", load.preview, load.preview_bytes)
    if load.refined is not None:
        if load.encodes:
            yield vae("encoding", load.refined, load.host_bytes)
        if "stage2" in parts:
            work = _sampler(parts["stage2"], load.frames_at_once, load.refined, load.attention_windows)
            yield Step("stage2", "Stage II", work, work <= left, load.preview_bytes)
        yield vae("decoding", load.refined, load.preview_bytes + load.refined_bytes(streamed=True))


def _sampler(part: Part, frames: int, size: Size, windows: AttentionWindows | None = None) -> int:
    shape = (1, LATENT_CHANNELS, frames, *(side // SPATIAL_FACTOR for side in size))
    sequential = sequential_guidance(shape)
    return sampling_bytes(part.config, shape, part.itemsize, sequential=sequential, windows=windows)


def _shortage(step: Step, part: Part, free: int) -> str:
    """What a step lacks, and what helps; "" if nothing."""
    weights, needed = part.weights, part.weights + step.work
    if needed <= free:
        return ""
    what = (
        f"{step.name} needs {gigabytes(needed)} GB ({gigabytes(weights)} GB of weights), {gigabytes(free)} GB are free"
    )
    if weights > free:
        return f"{what}. No size fits: compute in ComfyUI, which streams weights, or on the CPU"
    return f"{what}. Choose a smaller size or fewer frames"


def _processes_here() -> int:
    """Processes that share this machine's memory, as launchers tell."""
    told = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") or ""
    return int(told) if told.isdecimal() and int(told) else this_process()[1]
