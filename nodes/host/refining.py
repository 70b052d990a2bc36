"""A VIDEO refined as a stream: the library's pipeline, with Stage II and the VAE where ComfyUI has them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ...flashvideo.method.guidance import Guided
from ...flashvideo.method.windows import channel_half, channels_joined
from ...flashvideo.runs.settings import Stage2Settings
from ...flashvideo.runs.stream import padded_frames, refine_frames
from ...flashvideo.tensors.sizes import LATENT_CHANNELS, SPATIAL_FACTOR, latent_frames
from ...flashvideo.vae.limits import Limits
from ...flashvideo.vae.tiling import memory
from ..shared.node_text import show_on_node
from ..shared.wiring import require_finite
from .codec import VaeLimits
from .guidance import DifferenceGuider
from .sampling import Stage2Sampling
from .source import streamed_frames
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


@dataclass(frozen=True)
class RefinedFrames:
    """Frames of a VIDEO, refined as they are read.

    Attributes:
        video: what is refined.
        frames: that it has.
        model: Stage II's, undegraded latents' noise step not set.
        settings: all of Stage II's.
        limits: of the VAE.
    """

    video: Any
    frames: int
    model: Any
    vae: Any
    positive: Any
    negative: Any
    settings: Stage2Settings
    limits: VaeLimits

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.frames, self.settings.height, self.settings.width

    def stream(self, stop: int) -> Generator[Tensor, None, None]:
        settings, done = self.settings, 0
        sigmas = stage2_sigmas(settings.num_steps, settings.shift)
        model = with_noise_step(self.model, settings.noise_step)
        guided = GuidedModel(model, self.positive, self.negative, sigmas)
        limits = self._limits()
        models = _HostedModels(guided, self.vae, limits.memory_budget or 0, self.model.model.latent_format.scale_factor)
        refined = refine_frames(
            models,
            streamed_frames(self.video),
            self.positive[0][0][:1].float().cpu(),
            settings,
            _telling(settings.num_steps),
            total=self.frames,
            swap=True,
            limits=limits,
        )
        with contextlib.closing(refined):
            for chunk in refined:
                chunk = chunk[:, :, : stop - done]
                yield chunk[0].movedim(0, -1)
                done += chunk.shape[2]
                if done == stop:
                    return
        raise ValueError(
            f"The video ended after {done} of {self.frames} frames: its file has changed, or it is damaged. Load it "
            "again."
        )

    def _limits(self) -> Limits:
        """What encoding and decoding may take each; both hold their caches while Stage II computes."""
        device, host = self.vae.device, memory.free_on_host()
        tile, budget = self.limits.tile, self.limits.budget
        if device.type == "cpu":
            return Limits(tile, budget or max(1, host // 8), max(1, host * 3 // 8), device=device)
        rows, columns = (side // SPATIAL_FACTOR for side in self.shape[1:])
        latents = (1, LATENT_CHANNELS, min(latent_frames(padded_frames(self.frames)), 5), rows, columns)
        whole = claimed_bytes(self.vae.first_stage_model, device, latents, encode=False)
        share = _SHARE * comfy.model_management.get_total_memory(device)
        return Limits(tile, budget or max(1, min(whole, share)), max(1, host // 2), device=device)


def require_same_noise_step(model: Any, noise_step: int) -> None:
    """Raise ValueError if a Stage II Noise Step node has set another one on a MODEL."""
    sampling: Any = model.get_model_object("model_sampling")
    if isinstance(sampling, Stage2Sampling) and sampling.chosen and sampling.noise_step != noise_step:
        raise ValueError(
            f"The noise steps disagree: this node says {noise_step}, the Stage II Noise Step node "
            f"{sampling.noise_step}. Take that node out; this one degrades the video itself."
        )


def _telling(num_steps: int) -> Callable[[str, int, int], None]:
    """Progress of a stream: ComfyUI's bar, a line with the time left, and interruption."""
    bar, began, told = comfy.utils.ProgressBar(1), time.monotonic(), 0.0

    def tell(_what: str, done: int, total: int) -> None:
        nonlocal told
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)
        now = time.monotonic()
        if now - told >= _SECONDS or done == total:
            told = now
            left = (now - began) / done * (total - done)
            show_on_node(f"Step {done} of {total} ({num_steps} for each latent), about {_duration(left)} left.")

    return tell


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
