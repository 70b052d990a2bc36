"""What the report asks of the models: captions to small clips, small clips to large ones. Oracles do it in tests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..loading.text import encode_prompts, stage2_prompt
from ..method.degradation import STAGE2_LATENT_SCALE, degrade_latents
from ..method.stage1 import sample_stage1
from ..method.stage2 import refine_latents
from ..runs.chain import Models, sequential_guidance
from ..runs.seeds import generator_for
from ..runs.settings import Stage1Settings, Stage2Settings
from ..vae.codec import decode_latents, encode_video
from ..video.color_match import match_colors
from ..video.resize import resize_video

Stage = Literal["stage1", "stage2"]
_KEPT = 256  # encoded clips


@dataclass(frozen=True)
class NetworkSize:
    """A transformer, as far as its cost depends on it.

    Attributes:
        width: of a token.
        text_length: tokens of the prompt.
        pixels: of a video token's side, VAE and patches together.
    """

    layers: int
    width: int
    text_length: int
    pixels: int = 16


class VideoModels(Protocol):
    """Makes and refines clips; seeds and captions, one a clip, decide everything that is drawn."""

    def generate_low(self, captions: Sequence[str], seeds: Sequence[int], settings: Stage1Settings) -> Tensor:
        """``[B, 3, F, h, w]`` in 0..1, fp32 on the CPU."""
        ...

    def refine(self, videos: Tensor, captions: Sequence[str], seeds: Sequence[int], settings: Stage2Settings) -> Tensor:
        """``[B, 3, F, h, w]`` -> ``[B, 3, F, H, W]``, both in 0..1, fp32 on the CPU."""
        ...

    def round_trip(self, videos: Tensor, seeds: Sequence[int], settings: Stage2Settings) -> Tensor:
        """``[B, 3, F, H, W]`` as the VAE gives them back: what no refinement can exceed."""
        ...

    def network(self, stage: Stage) -> NetworkSize:
        """Size of a stage's transformer."""
        ...


@dataclass(frozen=True)
class Extra:
    """Other weights of one stage, to be compared with the models'.

    Attributes:
        models: the models with those weights in that stage's place.
        noise_step: to refine with, where the weights were trained for one of their own: 0 without latent
            degradation, 999 from pure noise.
        only: the one section to compare in; None: all that they fit.
    """

    name: str
    stage: Stage
    models: VideoModels
    noise_step: int | None = None
    only: str | None = None


class SubstitutedModels:
    """Models with another transformer in one stage's place.

    Args:
        models: all other parts.
        stage: whose transformer is another.
        load: loads it, at first use.
    """

    def __init__(self, models: Models, stage: Stage, load: Callable[[], Any]) -> None:
        self.models, self.stage, self._load = models, stage, load
        self._transformer: Any = None

    @property
    def _own(self) -> Any:
        if self._transformer is None:
            self._transformer = self._load()
        return self._transformer

    @contextmanager
    def use(self, name: str) -> Iterator[Any]:
        """A part; see :class:`flashvideo.runs.chain.Models`."""
        if name == self.stage:
            yield self._own
        else:
            with self.models.use(name) as part:
                yield part

    def latent_scale(self, name: str) -> float | None:
        """The scale that a stage's checkpoint carries, if it does."""
        return self._own.config.latent_scale if name == self.stage else self.models.latent_scale(name)

    def describe(self) -> dict[str, str]:
        return self.models.describe()


class LoadedModels:
    """:class:`VideoModels` of real weights, in batches.

    Encoded clips are remembered, so that the same clips can be refined with many settings and many Stage IIs.

    Args:
        models: where the parts come from.
    """

    def __init__(self, models: Models) -> None:
        self.models = models
        self._encoded: dict[str, Tensor] = {}

    def with_stage(self, stage: Stage, load: Callable[[], Any]) -> LoadedModels:
        """The same with another transformer in one stage's place; the VAE and its memory are shared."""
        other = LoadedModels(SubstitutedModels(self.models, stage, load))
        other._encoded = self._encoded
        return other

    def generate_low(self, captions: Sequence[str], seeds: Sequence[int], settings: Stage1Settings) -> Tensor:
        """Stage I and decoding: ``[B, 3, F, h, w]``."""
        _, *shape = settings.latent_shape
        embeds = self._embed(captions)
        noise = torch.stack([torch.randn(shape, generator=generator_for(seed, "stage1 start")) for seed in seeds])
        solvers = [generator_for(seed, "stage1 solver") for seed in seeds]
        step_noise = [
            torch.stack([torch.randn(shape, generator=solver) for solver in solvers])
            for _ in range(settings.num_steps - 1)
        ]
        with self.models.use("stage1") as transformer:
            latents = sample_stage1(
                transformer,
                noise.to(transformer.device),
                embeds,
                num_steps=settings.num_steps,
                guidance_scale=settings.guidance_scale,
                guidance_exponent=settings.guidance_exponent,
                guidance_curve=settings.guidance_curve,  # type: ignore[arg-type]
                step_noise=step_noise,
                sequential_guidance=sequential_guidance(noise.shape),
            )
        with self.models.use("vae") as vae:
            return decode_latents(vae, latents.cpu())

    def refine(self, videos: Tensor, captions: Sequence[str], seeds: Sequence[int], settings: Stage2Settings) -> Tensor:
        """Resize, encode, degrade, Stage II, decode, colours. Noise step 0 leaves the degradation out."""
        low = latents = self._encode(videos, seeds, settings)
        scale = self.models.latent_scale("stage2") or STAGE2_LATENT_SCALE
        if settings.noise_step:
            noise = [torch.randn(latents.shape[1:], generator=generator_for(seed, "degradation")) for seed in seeds]
            latents = degrade_latents(latents, settings.noise_step, noise=torch.stack(noise), latent_scale=scale)
        embeds = self._embed([stage2_prompt(caption, settings.motion) for caption in captions])
        with self.models.use("stage2") as transformer:
            if transformer.in_channels == 2 * latents.shape[1]:
                transformer = _BesideLow(transformer, low * scale)
            refined = refine_latents(
                transformer,
                latents.to(transformer.device),
                embeds,
                noise_step=settings.noise_step,
                num_steps=settings.num_steps,
                shift=settings.shift,
                guidance_scale=settings.guidance_scale,
                solver=settings.solver,
                rounding=settings.rounding,  # type: ignore[arg-type]
                latent_scale=scale,
                sequential_guidance=sequential_guidance(latents.shape),
            )
        with self.models.use("vae") as vae:
            return match_colors(
                decode_latents(vae, refined.cpu()), videos, settings.match_colors, resize=settings.resize
            )

    def round_trip(self, videos: Tensor, seeds: Sequence[int], settings: Stage2Settings) -> Tensor:
        latents = self._encode(videos, seeds, settings)
        with self.models.use("vae") as vae:
            return decode_latents(vae, latents)

    def network(self, stage: Stage) -> NetworkSize:
        with self.models.use(stage) as transformer:
            return NetworkSize(
                layers=len(transformer.layers),
                width=transformer.inner_dim,
                text_length=transformer.text_length,
                pixels=8 * transformer.patch_size,
            )

    def _embed(self, prompts: Sequence[str]) -> Tensor:
        with self.models.use("text") as (encoder, tokenizer, length):
            return encode_prompts(encoder, tokenizer, prompts, length, warn=False)

    def _encode(self, videos: Tensor, seeds: Sequence[int], settings: Stage2Settings) -> Tensor:
        """``[B, 16, T, H/8, W/8]`` fp32 on the CPU, of the videos at full size."""
        keys = [_key(video, seed, settings) for video, seed in zip(videos, seeds, strict=True)]
        if any(key not in self._encoded for key in keys):
            large = resize_video(videos, settings.height, settings.width, mode=settings.resize)
            frames = (videos.shape[2] - 1) // 4 + 1
            shape = (16, frames, settings.height // 8, settings.width // 8)
            noise = torch.stack([torch.randn(shape, generator=generator_for(seed, "posterior")) for seed in seeds])
            with self.models.use("vae") as vae:
                latents = encode_video(vae, large, sample=settings.sample_posterior, noise=noise).float().cpu()
            if len(self._encoded) + len(keys) > _KEPT:
                self._encoded.clear()
            self._encoded.update(zip(keys, latents, strict=True))
        return torch.stack([self._encoded[key] for key in keys])


class _BesideLow:
    """A vanilla cascade's transformer: the low resolution ``[B, 16, T, h, w]`` comes in beside the noisy latents."""

    def __init__(self, transformer: Any, low: Tensor) -> None:
        self.transformer, self.device, self.dtype = transformer, transformer.device, transformer.dtype
        self.low = low.to(self.device, self.dtype)

    def __call__(self, hidden_states: Tensor, *arguments: Any, **more: Any) -> Tensor:
        low = self.low.repeat(len(hidden_states) // len(self.low), 1, 1, 1, 1)
        predicted: Tensor = self.transformer(torch.cat((hidden_states, low), dim=1), *arguments, **more)
        return predicted


def _key(video: Tensor, seed: int, settings: Stage2Settings) -> str:
    content = hashlib.sha256(video.contiguous().numpy().tobytes()).hexdigest()
    return f"{content} {seed} {settings.height} {settings.width} {settings.resize} {settings.sample_posterior}"
