"""Classifier-free guidance of both stages."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, Protocol

import torch
from torch import Tensor

from .checks import check_finite_number, check_positive, check_prompt_embeds
from .windows import Latents, channel_half, channels_joined


def _cosine_ramp(progress: float, scale: float, exponent: float) -> float:
    if progress < 0 and exponent != int(exponent):
        raise ValueError(
            f"guidance exponent {exponent}: the authors' curve raises negative numbers to it, so it must be whole "
            "(5 by default). Use a whole exponent or the smooth curve."
        )
    return 1 + scale * (1 - math.cos(math.pi * progress**exponent)) / 2


def dynamic_guidance(timestep: float, num_steps: int = 51, scale: float = 8.0, exponent: float = 5.0) -> float:
    """Stage I's guidance at a timestep (999..0), as the authors' code computes it.

    ``1 + scale (1 - cos(pi (k / num_steps)^exponent)) / 2`` with ``k = num_steps - timestep``: k is not a step counter,
    so the value swings between 1 and 1 + scale over most of a run. The model was sampled with exactly that. The
    cosine's argument reaches 7e6: double precision matters.
    """
    check_positive("num_steps", num_steps)
    return _cosine_ramp((num_steps - float(timestep)) / num_steps, scale, exponent)


def smooth_guidance(step: int, num_steps: int = 51, scale: float = 8.0, exponent: float = 5.0) -> float:
    """The curve as the formula reads when k counts steps: from 1 at the first step towards 1 + scale at the last."""
    check_positive("num_steps", num_steps)
    return _cosine_ramp(step / num_steps, scale, exponent)


class Guided(Protocol):
    """What gives guided predictions for ``x`` ``[B, 16, T, h, w]``; shapes, dtype and device of ``x``.

    The prediction is ``u + scale (c - u)``: c is the one with the prompt, u the one without.
    """

    def __call__(self, x: Tensor, timestep: float, guidance_scale: float) -> Tensor:
        """The prediction."""
        ...

    def with_difference(self, x: Tensor, timestep: float, guidance_scale: float) -> Tensor:
        """The prediction and c - u, as channels of one tensor ``[B, 32, T, h, w]``."""
        ...

    def from_difference(self, x: Tensor, timestep: float, guidance_scale: float) -> Tensor:
        """The prediction, of c alone: ``x`` and a c - u of before are the channels of ``x``, ``[B, 32, T, h, w]``."""
        ...


class GuidedTransformer:
    """A transformer with its prompt, called as ``guided(x, timestep, guidance_scale)``.

    The prediction is ``u + scale (c - u)``, where u is the prediction without a prompt. At scale 1 only c is evaluated.
    What does not change over a run (projected text, rotary table) is computed once, where the transformer can.

    Args:
        transformer: ``transformer(hidden_states, timestep, encoder_hidden_states, *, noise_step=None)``.
        shape: of the latents, ``(B, 16, T, h, w)``.
        prompt_embeds, negative_prompt_embeds: ``[B, 226, D]`` or ``[1, 226, D]``; no negative means all zeros.
        noise_step: for the transformer, if it takes one.
        sequential: evaluate u and c one after the other (less memory) instead of as one batch.
        attention_windows: for the transformer; ``None`` tells it nothing.

    Raises:
        ValueError: embeddings that do not fit.
    """

    def __init__(
        self,
        transformer: Any,
        shape: torch.Size,
        prompt_embeds: Tensor,
        negative_prompt_embeds: Tensor | None,
        *,
        noise_step: float | None = None,
        sequential: bool = False,
        attention_windows: Any = None,
    ) -> None:
        batch = shape[0]
        check_prompt_embeds("prompt_embeds", prompt_embeds, batch, transformer)
        if negative_prompt_embeds is None:
            negative_prompt_embeds = torch.zeros_like(prompt_embeds)
        else:
            check_prompt_embeds("negative_prompt_embeds", negative_prompt_embeds, batch, transformer)
        self.transformer, self.shape, self.sequential = transformer, shape, sequential
        self.dtype = getattr(transformer, "dtype", None)
        self.device = getattr(transformer, "device", None)
        self.extra: dict[str, Any] = {} if noise_step is None else {"noise_step": noise_step}
        if attention_windows is not None:
            attention_windows.patches(getattr(transformer, "patch_size", 1))  # complains of sizes that do not fit
            self.extra["attention_windows"] = attention_windows
        self.positive, self.negative = (
            embeds.expand(batch, -1, -1).to(self.device, self.dtype)
            for embeds in (prompt_embeds, negative_prompt_embeds)
        )
        self.prepared: dict[str, Any] = {}

    def _evaluate(self, name: str, x: Tensor, timestep: float, embeds: Tensor) -> Tensor:
        extra = dict(self.extra)
        if hasattr(self.transformer, "prepare"):
            if name not in self.prepared:
                self.prepared[name] = self.transformer.prepare(embeds, x.shape)
            extra["prepared"], extra["inplace"] = self.prepared[name], True
        steps = torch.full((x.shape[0],), timestep, dtype=torch.float32, device=x.device)
        out = self.transformer(x.to(self.device, self.dtype), steps, embeds, **extra).to(x.device, x.dtype)
        if not torch.isfinite(out).all():
            raise ValueError(
                f"The transformer's output at timestep {timestep:g} has NaN or infinite values. Either its weights are "
                "damaged (`flashvideo inspect FILE` tells) or its dtype overflows (use bfloat16 instead of float16)."
            )
        return out

    def _branches(self, x: Tensor, timestep: float) -> tuple[Tensor, Tensor]:
        """The predictions without and with the prompt."""
        if self.sequential:
            conditional = self._evaluate("positive", x, timestep, self.positive)
            return self._evaluate("negative", x, timestep, self.negative), conditional
        both = self._evaluate("both", torch.cat((x, x)), timestep, torch.cat((self.negative, self.positive)))
        unconditional, conditional = both.chunk(2)
        return unconditional, conditional

    def __call__(self, x: Tensor, timestep: float, guidance_scale: float) -> Tensor:
        """See :class:`Guided`."""
        if guidance_scale == 1:
            return self._evaluate("positive", x, timestep, self.positive)
        unconditional, conditional = self._branches(x, timestep)
        return unconditional + guidance_scale * (conditional - unconditional)

    def with_difference(self, x: Tensor, timestep: float, guidance_scale: float) -> Tensor:
        """See :class:`Guided`."""
        unconditional, conditional = self._branches(x, timestep)
        difference = conditional - unconditional
        return channels_joined(unconditional + guidance_scale * difference, difference)

    def from_difference(self, x: Tensor, timestep: float, guidance_scale: float) -> Tensor:
        """See :class:`Guided`."""
        x, difference = channel_half(x, 0), channel_half(x, 1)
        return self._evaluate("positive", x, timestep, self.positive) + (guidance_scale - 1) * difference


def _at_once(x: Any, predict: Callable[[Tensor], Tensor]) -> Any:
    return predict(x)


class SparseGuidance:
    """Guided predictions whose branch without a prompt is evaluated now and then, its difference reused in between.

    c - u changes slowly over a run (FasterCache, arXiv 2410.19355), so that of the last evaluation of both branches
    does for the next ones: ``c + (scale - 1) (c - u)`` with the old c - u in brackets.

    Args:
        guided: of a run.
        every: evaluate both branches at the first of so many guided evaluations in a row; 1 reuses nothing.
    """

    def __init__(self, guided: Guided, every: int) -> None:
        self._guided, self._every, self._evaluations = guided, every, count()
        self._last: Any = None  # prediction and difference, as channels

    def __call__(
        self,
        x: Latents,
        timestep: float,
        guidance_scale: float,
        evaluate: Callable[[Latents, Callable[[Tensor], Tensor]], Latents] = _at_once,
    ) -> Latents:
        """The next prediction of a run.

        Args:
            x: latents, or a stream of them.
            evaluate: how a function of tensors is called with them: at once, or window by window.
        """
        at: dict[str, Any] = {"timestep": timestep, "guidance_scale": guidance_scale}
        if self._every == 1:
            return evaluate(x, partial(self._guided, **at))
        if math.isclose(guidance_scale, 1):  # the authors' curve comes as near as 3e-13
            return evaluate(x, partial(self._guided, timestep=timestep, guidance_scale=1.0))
        if next(self._evaluations) % self._every == 0:
            self._last = evaluate(x, partial(self._guided.with_difference, **at))
            return channel_half(self._last, 0)
        reused = channels_joined(x, channel_half(self._last, 1))
        return evaluate(reused, partial(self._guided.from_difference, **at))


def check_guidance(guidance_scale: float, every: int = 1) -> None:
    """Raise ValueError for a guidance scale, or a rhythm of its evaluations, that cannot be."""
    check_finite_number("guidance_scale", guidance_scale)
    if guidance_scale < 0:
        raise ValueError(f"guidance_scale is {guidance_scale}; expected 0 or more.")
    check_positive("guidance_every", every)
