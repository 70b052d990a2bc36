"""What a run of the published models will take on a device, here or elsewhere, before anything is loaded.

Memory is what :mod:`flashvideo.runs.offloading` decides by. Seconds are predicted from what the networks ask of a
device (:mod:`flashvideo.report.kernels`) and its rates. Loading models, and moving them, is not in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any

import torch

from ..method.stage2 import get_solver
from ..method.windows import TimeWindows
from ..models.network import FlashVideoNetwork
from ..runs.chain import sequential_guidance
from ..runs.memory import Load, gigabytes
from ..runs.offloading import Part, Step, plan_within, steps_of
from ..runs.settings import Stage1Settings, Stage2Settings
from ..tensors.sizes import LATENT_CHANNELS, SPATIAL_FACTOR, latent_frames, video_frames
from ..vae.limits import Size
from ..vae.tiling.estimate import Estimate, dry_run
from ..vae.tiling.plan import decode_chunks, encode_chunks
from ..vae.tiling.session import decode_job, encode_job
from .kernels.networks import FULL_SIZE, META, Case, count
from .kernels.page import table
from .kernels.rates import Prediction, Rates, predict

Progress = Callable[[str, int, int], None]

CARD_GB = {  # of memory, by the names in kernels.rates.CARDS
    **{"H200": 141, "H100": 80, "A100 80 GB": 80, "L40S": 48},
    **{"RTX 5090": 32, "RTX 4090": 24, "RTX 3090": 24},
}
HOST_COPIES = 13e9  # bytes a second between card and host; 259 GB of a decode took an H200 20 seconds
_WIDTHS = {"attention_head_dim": 64, "text_embed_dim": 4096}
_T5 = {"d_model": 4096, "d_ff": 10240, "num_heads": 64, "d_kv": 64, "num_layers": 24, "vocab_size": 32128}
_PROMPT = 226  # tokens
_PLENTY = 10**15  # bytes


@cache
def published_parts(dtype: torch.dtype = torch.bfloat16) -> dict[str, Part]:
    """The published models on the meta device."""
    from diffusers import AutoencoderKLCogVideoX
    from transformers import T5Config, T5EncoderModel

    config = T5Config(**_T5, feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False)
    with META:
        text, vae = T5EncoderModel(config), AutoencoderKLCogVideoX()
    text.set_input_embeddings(text.shared)
    for module in (text, vae):
        for parameter in module.parameters():
            parameter.data = parameter.data.to(dtype)
    stages = {name: _WIDTHS | config for name, config in FULL_SIZE.items()}
    return {
        "text": Part(text, _T5),
        **{
            name: Part(FlashVideoNetwork(**config, device=META, dtype=dtype), config) for name, config in stages.items()
        },
        "vae": Part(vae),
    }


@dataclass(frozen=True)
class Target:
    """Where a run is planned.

    Attributes:
        name: what tables call it.
        device: need not be here.
        free: bytes of it that models and work may take.
        host: bytes of host memory.
        rates: ``None`` if they are not known.
    """

    name: str
    device: torch.device
    free: int
    host: int
    rates: Rates | None = None


@dataclass(frozen=True)
class PlannedStep:
    """A step of a planned run.

    Attributes:
        name: of the step.
        evaluations: of a transformer; of CFG's two branches one.
        seconds: predicted; ``None`` without rates.
        device_bytes: weights of the step's model and what it works in; of all models, where they stay there.
        host_bytes: of videos, of the VAE's planes, and of models that wait.
        how: how it is done, in words.
    """

    name: str
    evaluations: int
    seconds: float | None
    device_bytes: int
    host_bytes: int
    how: str


@dataclass(frozen=True)
class RunPlan:
    """A planned run."""

    target: str
    load: str
    offload: str
    reason: str
    shortage: str
    steps: tuple[PlannedStep, ...]

    @property
    def seconds(self) -> float | None:
        """Of all steps; ``None`` without rates."""
        known = [step.seconds for step in self.steps if step.seconds is not None]
        return sum(known) if len(known) == len(self.steps) else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "seconds": self.seconds}

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.load} on {self.target}, bf16"
        yield f"{self.reason} (--offload {self.offload})"
        yield ""
        rows: list[tuple[str, ...]] = [
            (
                step.name,
                str(step.evaluations or ""),
                _shown(step.seconds),
                gigabytes(step.device_bytes),
                gigabytes(step.host_bytes),
                step.how,
            )
            for step in self.steps
        ]
        most = (max(getattr(step, kind) for step in self.steps) for kind in ("device_bytes", "host_bytes"))
        rows.append(("together", "", _shown(self.seconds), *map(gigabytes, most), "loading models aside"))
        yield from table(("", "evaluations", "seconds", "device, GB", "host, GB", "how"), rows)
        if self.shortage:
            yield from ("", f"It does not fit: {self.shortage}.")


def plan_run(stage1: Stage1Settings, stage2: Stage2Settings, target: Target, progress: Progress) -> RunPlan:
    """Both stages from a prompt to a refined video.

    Args:
        progress: called with the step that is worked out, how many are done, and of how many.

    Raises:
        ValueError: sizes that a network does not take.
    """
    load = Load(stage1.num_frames, (stage1.height, stage1.width), (stage2.height, stage2.width), encodes=True)
    load = load.with_windows(stage2)
    parts = published_parts()
    plan = plan_within(parts, load, target.device, target.free, target.host)
    steps = list(steps_of(parts, load, target.device, target.free))
    planner, planned = _Planner(stage1, stage2, load, target, plan.offload, parts), []
    for index, step in enumerate(steps):
        progress(step.name, index, len(steps))
        planned.append(planner.planned(step))
    progress("planned", len(steps), len(steps))
    return RunPlan(target.name, load.name, plan.offload, plan.reason, plan.shortage, tuple(planned))


@dataclass(frozen=True)
class _Sampling:
    """A stage's evaluations.

    Attributes:
        case: one of them, of one branch.
        evaluations: of the guided prediction.
        guided: whether both branches are needed.
        every: both branches go at the first of so many evaluations.
        stretches: windows in time of an evaluation.
    """

    case: Case
    evaluations: int
    guided: bool
    every: int
    stretches: int = 1

    @property
    def sequential(self) -> bool:
        """Whether branches go one after the other."""
        rows, columns = (side // SPATIAL_FACTOR for side in self.case.size)
        return sequential_guidance((1, LATENT_CHANNELS, latent_frames(self.case.frames), rows, columns))

    def seconds(self, evaluation: Callable[[Case], float]) -> float:
        """``evaluation(case)`` takes seconds."""
        both = -(-self.evaluations // self.every) if self.guided else 0
        alone = self.evaluations - both
        if self.sequential:
            alone, both = alone + 2 * both, 0
        seconds = alone * evaluation(self.case) if alone else 0.0
        seconds += both * evaluation(replace(self.case, batch=2)) if both else 0.0
        return self.stretches * seconds

    @property
    def words(self) -> str:
        """How it is done."""
        branches = "branches in turn" if self.sequential else "both branches at once"
        words = [branches if self.guided else "no guidance"]
        words += ["attention in windows"] if self.case.windows is not None else []
        words += [f"{self.stretches} windows in time"] if self.stretches > 1 else []
        return ", ".join(words)


@dataclass(frozen=True)
class _Planner:
    """Works out the steps of a run."""

    stage1: Stage1Settings
    stage2: Stage2Settings
    load: Load
    target: Target
    offload: str
    parts: Mapping[str, Part]

    def planned(self, step: Step) -> PlannedStep:
        total, own = sum(part.weights for part in self.parts.values()), self.parts[step.part].weights
        stays = self.offload == "none"
        evaluations, work, how, seconds = 0, step.work, "", self._encoding
        if step.forecasts is not None:
            vae = _VaeRun(step.name, self.load, step.forecasts[1 if stays else 0])
            work, how, seconds = vae.forecast.device_bytes, vae.words, partial(self._vae, vae)
        elif step.part != "text":
            sampling = self._sampling(step.part)
            evaluations, how = sampling.evaluations, sampling.words
            seconds = partial(sampling.seconds, lambda case: self._predicted(case).total)
        return PlannedStep(
            step.name,
            evaluations,
            None if self.target.rates is None else seconds(),
            work + (total if stays else own),
            step.host + (total - own if self.offload == "cpu" else 0),
            how,
        )

    def _predicted(self, case: Case) -> Prediction:
        assert self.target.rates is not None
        return _predicted(case, self.target.device.type == "cuda", self.target.rates)

    def _encoding(self) -> float:
        """Every weight is read once, and used once a token."""
        text, rates = self.parts["text"], self.target.rates
        assert rates is not None
        return 2 * text.weights / text.itemsize * _PROMPT / rates.products + text.weights / rates.memory

    def _sampling(self, part: str) -> _Sampling:
        first, second, load = self.stage1, self.stage2, self.load
        if part == "stage1":
            guided = first.guidance_scale != 0  # the curves add 1
            case = Case(part, (first.height, first.width), load.frames)
            return _Sampling(case, first.num_steps, guided, first.guidance_every)
        frames = video_frames(load.frames_at_once)
        case = Case(part, (second.height, second.width), frames, windows=load.attention_windows)
        evaluations = second.num_steps * get_solver(second.solver).evaluations
        stretches = stretches_of(load.time_windows, load.latent_frames)
        return _Sampling(case, evaluations, second.guidance_scale != 1, second.guidance_every, stretches)

    def _vae(self, run: _VaeRun) -> float:
        tile = self._predicted(run.tile)
        seconds = (tile.total - tile.launches) * run.tiles_by_area + tile.launches * run.tiles
        if self.target.device.type == "cpu":
            return seconds
        return seconds + run.copied_bytes(self.parts["vae"].module, self.target.device) / HOST_COPIES


@dataclass(frozen=True)
class _VaeRun:
    """An encode or a decode; what a tile takes is multiplied.

    Attributes:
        name: of the step.
        forecast: its tiles and places.
    """

    name: str
    load: Load
    forecast: Estimate

    @property
    def encodes(self) -> bool:
        return self.name == "encoding"

    @property
    def size(self) -> Size:
        """Rows and columns in latents."""
        pixels = self.load.preview if self.name == "decoding the preview" else self.load.refined
        height, width = pixels or (0, 0)
        return height // SPATIAL_FACTOR, width // SPATIAL_FACTOR

    @property
    def tile(self) -> Case:
        """One tile, alone."""
        rows, columns = (SPATIAL_FACTOR * side for side in self.forecast.tile)
        return Case("encode" if self.encodes else "decode", (rows, columns), self.load.frames, device_bytes=_PLENTY)

    @property
    def tiles(self) -> int:
        return math.prod(-(-side // part) for side, part in zip(self.size, self.forecast.tile, strict=True))

    @property
    def tiles_by_area(self) -> float:
        """How many whole tiles are as large as the frame."""
        return math.prod(self.size) / math.prod(self.forecast.tile)

    def copied_bytes(self, vae: Any, device: torch.device) -> float:
        """Between device and host, halos of tiles included."""
        make, chunks = (
            (encode_job, encode_chunks(self.load.frames))
            if self.encodes
            else (decode_job, decode_chunks(self.load.latent_frames))
        )
        rows, columns = self.forecast.tile
        moved = dry_run(make(vae, chunks, self.size, 1, device), self.forecast.room).moved
        return moved * (1 + 2 / rows) * (1 + 2 / columns)

    @property
    def words(self) -> str:
        """How it is done."""
        rows, columns = self.tile.size
        words = "untiled" if self.tiles == 1 else f"{self.tiles} tiles of {columns}x{rows}"
        waiting = self.forecast.file_bytes
        return f"{words}, {gigabytes(waiting)} GB in a scratch file" if waiting else words


@cache
def _predicted(case: Case, fused: bool, rates: Rates) -> Prediction:
    return predict(count(case, fused=fused), rates)


def stretches_of(windows: TimeWindows | None, frames: int) -> int:
    """How many windows in time cover so many latent frames."""
    if windows is None or frames <= windows.length:
        return 1
    return 1 + -(-(frames - windows.length) // (windows.length - windows.overlap))


def _shown(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}" if seconds < 10 else f"{seconds:.0f}"
