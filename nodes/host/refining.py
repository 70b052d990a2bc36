"""A VIDEO refined as a stream: the library's pipeline, with Stage II and the VAE where ComfyUI has them."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ...flashvideo.method.guidance import Guided
from ...flashvideo.method.windows import channel_half, channels_joined
from ...flashvideo.runs.attention import FULL
from ...flashvideo.runs.keeping import endless, masks_of
from ...flashvideo.runs.settings import Stage2Settings
from ...flashvideo.runs.stream import DRAWS, go_on_refining, padded_frames
from ...flashvideo.runs.stretches import FORMAT, Stretch
from ...flashvideo.tensors.sizes import LATENT_CHANNELS, SPATIAL_FACTOR, latent_frames
from ...flashvideo.vae.limits import Limits
from ...flashvideo.vae.tiling import memory
from ..kept.signature import digest_of
from ..kept.users import kept_store, running_user
from ..shared.node_text import show_on_node
from ..shared.wiring import require_finite
from .codec import VaeLimits
from .guidance import DifferenceGuider
from .sampling import Stage2Sampling
from .source import content_of, streamed_frames
from .stage2_sampling import stage2_sigmas, with_noise_step
from .vae import claimed_bytes

_END = 1e-6  # below it a sigma is the end of the flow, up to rounding
_SHARE = 0.25  # of the device's memory that encoding and decoding may take each, beside an evaluation
_SECONDS = 2.0  # between two lines that tell how far it is
_NUMBERS_PER_STEP = 1000.0  # the network's time at sigma 1


class _OneEvaluation(comfy.samplers.Sampler):
    """What core's guider is asked for: its guided velocity ``d latent / d t`` at one time."""

    def __init__(self, x: Tensor, sigma: float) -> None:
        self.x, self.sigma = x, 0.0 if sigma < _END else sigma
        self.velocity = x

    def sample(
        self, model: Any, sigmas: Tensor, extra_args: Any, callback: Any, noise: Tensor, *_: Any, **__: Any
    ) -> Tensor:
        x = self.x.to(noise.device)
        denoised = model(x, x.new_full((len(x),), self.sigma), **extra_args)
        # at sigma 0 the model gives x + v, see Stage2Sampling.calculate_denoised
        self.velocity = (denoised - x) / (self.sigma or 1.0)
        return noise


class GuidedModel:
    """A Stage II MODEL as the library calls what guides itself (:class:`~flashvideo.method.guidance.Guided`), in model
    space: guidance, patches, LoRAs, windows and offloading are ComfyUI's, evaluation by evaluation.

    Args:
        model: with its noise step.
        positive, negative: CONDITIONING.
        sigmas: of the run; patches ask where in it they are.
    """

    device = torch.device("cpu")  # where latents come from and go to
    dtype = torch.float32

    def __init__(self, model: Any, positive: Any, negative: Any, sigmas: Tensor) -> None:
        self.sigmas = sigmas
        self._guider = DifferenceGuider(model)
        self._guider.set_conds(positive, negative)

    @property
    def guided(self) -> Guided:
        return self

    def __call__(self, x: Tensor, timestep: float, guidance_scale: float) -> Tensor:
        self._guider.set_cfg(guidance_scale)
        evaluation = _OneEvaluation(x, timestep / _NUMBERS_PER_STEP)
        nothing = torch.zeros_like(x)  # the latents are degraded already
        self._guider.sample(nothing, nothing, evaluation, self.sigmas, disable_pbar=True, seed=0)
        require_finite(evaluation.velocity, "stage2")
        return evaluation.velocity.to(x)

    def with_difference(self, x: Tensor, timestep: float, guidance_scale: float) -> Tensor:
        self._guider.reuse = False
        predicted = self(x, timestep, guidance_scale)
        return channels_joined(predicted, self._guider.difference.to(x))

    def from_difference(self, x: Tensor, timestep: float, guidance_scale: float) -> Tensor:
        self._guider.reuse, self._guider.difference = True, channel_half(x, 1)
        return self(channel_half(x, 0), timestep, guidance_scale)


class _HostedModels:
    """Where the library's pipeline gets its models from: ComfyUI brings them to the device, and makes room there."""

    def __init__(self, guided: GuidedModel, vae: Any, wanted: float, scale: float) -> None:
        self._guided, self._vae, self._wanted, self._scale = guided, vae, wanted, scale

    @contextlib.contextmanager
    def use(self, name: str) -> Iterator[Any]:
        if name == "stage2":
            yield self._guided
            return
        force = getattr(self._vae, "disable_offload", False)
        needed = int(self._wanted)
        comfy.model_management.load_models_gpu([self._vae.patcher], memory_required=needed, force_full_load=force)
        with comfy.model_management.cuda_device_context(self._vae.device):
            yield self._vae.first_stage_model

    def latent_scale(self, name: str) -> float | None:
        return self._scale

    def describe(self) -> dict[str, str]:
        return {}


class _Reader:
    """Frames of a VIDEO from any number on; it is opened again only to go back."""

    def __init__(self, video: Any) -> None:
        self._video, self._position = video, 0
        self._frames = streamed_frames(video)

    def read(self, first: int, last: int) -> Iterator[Tensor]:
        """Frames ``[1, 3, 1, h, w]`` in 0..1, ``last`` not included; fewer where the video ends."""
        if first < self._position:
            self.close()
            self._frames, self._position = streamed_frames(self._video), 0
        while self._position < last and (frame := next(self._frames, None)) is not None:
            self._position += 1
            if self._position > first:
                yield frame

    def close(self) -> None:
        self._frames.close()


@dataclass(frozen=True)
class RefinedFrames:
    """Frames of a VIDEO, refined as they are read. What is finished is kept: whoever reads the same again, after any
    end, even the server's, goes on from there.

    Attributes:
        video: what is refined.
        stretches: of its frames, each refined for itself.
        model: Stage II's, undegraded latents' noise step not set.
        positives: CONDITIONING of each stretch, or one of all.
        keep: MASK of what stays as the video shows it, of one frame or of all; None keeps nothing.
        settings: all of Stage II's.
        limits: of the VAE.
        made_from: what else tells the result from others: signatures of what is connected, by input.
    """

    video: Any
    stretches: tuple[Stretch, ...]
    model: Any
    vae: Any
    positives: tuple[Any, ...]
    negative: Any
    keep: Tensor | None
    settings: Stage2Settings
    limits: VaeLimits
    made_from: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.stretches[-1].last, self.settings.height, self.settings.width

    def stream(self, stop: int) -> Generator[Tensor, None, None]:
        description, store = self._description(), kept_store(running_user())
        name, done = digest_of(description), 0
        tell = _telling(self.settings.num_steps, self.stretches)
        with (
            store.using(name, json.dumps(description)) as folder,
            contextlib.closing(_Reader(self.video)) as reader,
        ):
            for stretch in self.stretches:
                with contextlib.closing(self._refined(stretch, reader, folder, partial(tell, stretch))) as refined:
                    for chunk in refined:
                        chunk = chunk[:, :, : stop - done]
                        yield chunk[0].movedim(0, -1)
                        done += chunk.shape[2]
                        if done == stop:
                            break
                if done == stop:
                    break
                if done < stretch.last:
                    raise ValueError(
                        f"The video ended after {done} of {self.shape[0]} frames: its file has changed, or it is "
                        "damaged. Load it again."
                    )
            if folder and done == self.shape[0]:
                store.finish(name)

    def _description(self) -> dict[str, Any]:
        """All that the latents depend on."""
        others = {name: mark for name, mark in self.made_from.items() if name != "video"}
        return {
            "format": FORMAT,
            "content": "refinement",
            "draws": DRAWS,
            "video": content_of(self.video) or self.made_from["video"],
            "cuts": [stretch.first for stretch in self.stretches[1:]],
            "stage2": self.settings.to_dict(),
            **others,
        }

    def _refined(
        self, stretch: Stretch, reader: _Reader, folder: Path | None, progress: Callable[[str, int, int], None]
    ) -> Generator[Tensor, None, None]:
        """Frames ``[1, 3, f, H, W]`` of a stretch."""
        settings, positive = self.settings, self.positives[min(stretch.number, len(self.positives) - 1)]
        sigmas = stage2_sigmas(settings.num_steps, settings.shift)
        model = with_noise_step(self.model, settings.noise_step)
        guided = GuidedModel(model, positive, self.negative, sigmas)
        limits = self._limits()
        scale = self.model.model.latent_format.scale_factor
        return go_on_refining(
            _HostedModels(guided, self.vae, limits.memory_budget or 0, scale),
            lambda start: reader.read(stretch.first + start, stretch.last),
            positive[0][0][:1].float().cpu(),
            replace(settings, attention=FULL),  # the MODEL knows its windows
            folder / f"latents-{stretch.number:05d}" if folder else None,
            progress=progress,
            total=stretch.last - stretch.first,
            first_latent=stretch.latent,
            swap=True,
            budgets=folder / "budgets.json" if folder else None,
            limits=limits if self.limits.budget else lambda: limits,
            masks=self._masks(stretch),
        )

    def _masks(self, stretch: Stretch) -> Tensor | Iterator[Tensor] | None:
        """Of a stretch's latents."""
        if self.keep is None:
            return None
        masks = self.keep if len(self.keep) == 1 else self.keep[stretch.first : stretch.last]
        return endless(masks_of((mask.expand(1, 3, 1, *mask.shape) for mask in masks), self.settings))

    def _limits(self) -> Limits:
        """What encoding and decoding may take each; both hold their caches while Stage II computes."""
        device, host = self.vae.device, memory.free_on_host()
        tile, budget = self.limits.tile, self.limits.budget
        if device.type == "cpu":
            return Limits(tile, budget or max(1, host // 8), max(1, host * 3 // 8), device=device)
        rows, columns = (side // SPATIAL_FACTOR for side in self.shape[1:])
        latents = (1, LATENT_CHANNELS, min(latent_frames(padded_frames(self.shape[0])), 5), rows, columns)
        whole = claimed_bytes(self.vae.first_stage_model, device, latents, encode=False)
        share = _SHARE * comfy.model_management.get_total_memory(device)
        return Limits(tile, budget or max(1, min(whole, share)), max(1, host // 2), device=device)


def require_mask_of(mask: Tensor, frames: int) -> Tensor:
    """A MASK ``[1 or F, H, W]``, of one frame or of all.

    Raises:
        ValueError: it has another number of frames.
    """
    mask = (mask if mask.ndim == 3 else mask[None]).float().cpu()
    if len(mask) not in (1, frames):
        raise ValueError(
            f"The mask has {len(mask)} frames, the video {frames}. Give one mask for all frames, or one for each."
        )
    return mask


def require_same_noise_step(model: Any, noise_step: int) -> None:
    """Raise ValueError if a Stage II Noise Step node has set another one on a MODEL."""
    sampling: Any = model.get_model_object("model_sampling")
    if isinstance(sampling, Stage2Sampling) and sampling.chosen and sampling.noise_step != noise_step:
        raise ValueError(
            f"The noise steps disagree: this node says {noise_step}, the Stage II Noise Step node "
            f"{sampling.noise_step}. Take that node out; this one degrades the video itself."
        )


def _telling(num_steps: int, stretches: Sequence[Stretch]) -> Callable[[Stretch, str, int, int], None]:
    """Progress of a stream: ComfyUI's bar, a line with the time left, and interruption."""
    bar, began, told, first = comfy.utils.ProgressBar(1), time.monotonic(), 0.0, 0
    steps = num_steps * sum(stretch.latents for stretch in stretches)

    def tell(stretch: Stretch, what: str, done: int, total: int) -> None:
        nonlocal began, told, first
        comfy.model_management.throw_exception_if_processing_interrupted()
        now = time.monotonic()
        if what == "Stage II":
            done, total = done + num_steps * stretch.latent, steps
            bar.update_absolute(done, total)
            first = first or done
            left = (now - began) / (done - first + 1) * (total - done)
            line = f"Step {done} of {total} ({num_steps} for each latent), about {_duration(left)} left."
        else:
            began = now if not first else began  # what an earlier run has finished says nothing of the time left
            line = f"{what}: {done} of {total}."
        if now - told >= _SECONDS or done == total:
            told = now
            show_on_node(line)

    return tell


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
