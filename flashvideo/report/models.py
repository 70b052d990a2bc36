"""What the report asks of the models: captions to small clips, small clips to large ones. Oracles do it in tests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..loading.text import stage2_prompt
from ..method.student import Student
from ..runs import chain
from ..runs.chain import Models
from ..runs.settings import Stage1Settings, Stage2Settings

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
        student: of Stage II, what it was distilled for: it is refined with that.
    """

    name: str
    stage: Stage
    models: VideoModels
    noise_step: int | None = None
    only: str | None = None
    student: Student | None = None


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
    """:class:`VideoModels` of real weights: the chain of a run (:mod:`flashvideo.runs.chain`) in batches.

    Args:
        models: where the parts come from.
        encoded: clips that have been encoded already; default: none.
    """

    def __init__(self, models: Models, encoded: EncodedClips | None = None) -> None:
        self.models = models
        self.encoded = encoded or EncodedClips()

    def with_stage(self, stage: Stage, load: Callable[[], Any]) -> LoadedModels:
        """The same with another transformer in one stage's place; the VAE and its memory are shared."""
        return LoadedModels(SubstitutedModels(self.models, stage, load), self.encoded)

    def generate_low(self, captions: Sequence[str], seeds: Sequence[int], settings: Stage1Settings) -> Tensor:
        """Stage I and decoding: ``[B, 3, F, h, w]``."""
        embeds = chain.embed_prompts(self.models, captions)
        return chain.decode(self.models, chain.sample_previews(self.models, embeds, settings, seeds))

    def refine(self, videos: Tensor, captions: Sequence[str], seeds: Sequence[int], settings: Stage2Settings) -> Tensor:
        """Resize, encode, degrade, Stage II, decode, colours. Noise step 0 leaves the degradation out."""
        low = latents = self.encoded.get(self.models, videos, seeds, settings)
        if settings.noise_step:
            latents = chain.degrade(self.models, low, settings, seeds)
        embeds = chain.embed_prompts(self.models, [stage2_prompt(caption, settings.motion) for caption in captions])
        refined = chain.refine(_Cascade(self.models, low), latents, embeds, settings)
        return torch.cat(list(chain.decode_frames(self.models, refined, preview=videos, settings=settings)), dim=2)

    def round_trip(self, videos: Tensor, seeds: Sequence[int], settings: Stage2Settings) -> Tensor:
        return chain.decode(self.models, self.encoded.get(self.models, videos, seeds, settings))

    def network(self, stage: Stage) -> NetworkSize:
        with self.models.use(stage) as transformer:
            return NetworkSize(
                layers=len(transformer.layers),
                width=transformer.inner_dim,
                text_length=transformer.text_length,
                pixels=8 * transformer.patch_size,
            )


class EncodedClips:
    """Clips at Stage II's size as latents, so that the same ones can be refined with many settings and Stage IIs."""

    def __init__(self) -> None:
        self._latents: dict[str, Tensor] = {}

    def get(self, models: Models, videos: Tensor, seeds: Sequence[int], settings: Stage2Settings) -> Tensor:
        """``[B, 3, F, h, w]`` -> fp32 ``[B, 16, T, H/8, W/8]`` on the CPU; see ``chain.encode_upscaled``."""
        keys = [_key(video, seed, settings) for video, seed in zip(videos, seeds, strict=True)]
        if any(key not in self._latents for key in keys):
            latents = chain.encode_upscaled(models, videos, settings, seeds).cpu()
            if len(self._latents) + len(keys) > _KEPT:
                self._latents.clear()
            self._latents.update(zip(keys, latents, strict=True))
        return torch.stack([self._latents[key] for key in keys])


def _key(video: Tensor, seed: int, settings: Stage2Settings) -> str:
    """All that decides a clip's latents."""
    content = hashlib.sha256(video.contiguous().numpy().tobytes()).hexdigest()
    return f"{content} {seed} {settings.height} {settings.width} {settings.resize} {settings.sample_posterior}"


class _Cascade:
    """Models whose Stage II, if it is a vanilla cascade's, sees the low resolution beside the noisy latents.

    Args:
        low: that, encoded at full size, ``[B, 16, T, h, w]``.
    """

    def __init__(self, models: Models, low: Tensor) -> None:
        self.models, self._low = models, low

    @contextmanager
    def use(self, name: str) -> Iterator[Any]:
        """A part; see :class:`flashvideo.runs.chain.Models`."""
        with self.models.use(name) as part:
            beside = name == "stage2" and part.in_channels == 2 * self._low.shape[1]
            yield _BesideLow(part, self._low * chain.stage2_scale(self.models)) if beside else part

    def latent_scale(self, name: str) -> float | None:
        return self.models.latent_scale(name)

    def describe(self) -> dict[str, str]:
        return self.models.describe()


class _BesideLow:
    """A vanilla cascade's transformer: the low resolution ``[B, 16, T, h, w]`` comes in beside the noisy latents."""

    def __init__(self, transformer: Any, low: Tensor) -> None:
        self.transformer, self.device, self.dtype = transformer, transformer.device, transformer.dtype
        self.low = low.to(self.device, self.dtype)

    def __call__(self, hidden_states: Tensor, *arguments: Any, **more: Any) -> Tensor:
        low = self.low.repeat(len(hidden_states) // len(self.low), 1, 1, 1, 1)
        predicted: Tensor = self.transformer(torch.cat((hidden_states, low), dim=1), *arguments, **more)
        return predicted
