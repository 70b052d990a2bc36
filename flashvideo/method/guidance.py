"""Classifier-free guidance of both stages."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .checks import check_finite_number, check_positive, check_prompt_embeds


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

    def __call__(self, x: Tensor, timestep: float, guidance_scale: float) -> Tensor:
        """Guided prediction for ``x`` ``[B, 16, T, h, w]`` at ``timestep``; shape, dtype and device of ``x``."""
        if guidance_scale == 1:
            return self._evaluate("positive", x, timestep, self.positive)
        if self.sequential:
            conditional = self._evaluate("positive", x, timestep, self.positive)
            unconditional = self._evaluate("negative", x, timestep, self.negative)
        else:
            both = self._evaluate("both", torch.cat((x, x)), timestep, torch.cat((self.negative, self.positive)))
            unconditional, conditional = both.chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)


def check_guidance(guidance_scale: float) -> None:
    check_finite_number("guidance_scale", guidance_scale)
    if guidance_scale < 0:
        raise ValueError(f"guidance_scale is {guidance_scale}; expected 0 or more.")
