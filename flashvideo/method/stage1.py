"""Stage I: the small video, by the authors' DPM-Solver++ 2M SDE in variance-preserving form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..tensors.checks import check_latents
from ..tensors.noise import Generators, check_generators, standard_normal
from .degradation import STAGE1_LATENT_SCALE
from .guidance import GuidedTransformer, SparseGuidance, check_guidance, dynamic_guidance, smooth_guidance
from .schedules import SolverLevels, stage1_schedule

Callback = Callable[[int, int, Tensor], None]
GuidanceCurve = Literal["authors", "smooth", "constant"]
GUIDANCE_CURVES: tuple[str, ...] = get_args(GuidanceCurve)


def latent_scale_of(transformer: Any, given: float | None, default: float) -> float:
    """The scale asked for, else the one that the checkpoint carries, else the published model's."""
    carried = getattr(getattr(transformer, "config", None), "latent_scale", None)
    return given or carried or default


def stage1_guidance(
    curve: GuidanceCurve, step: int, timestep: int, num_steps: int, scale: float, exponent: float
) -> float:
    """Guidance of a step: ``authors`` (what the model was sampled with), ``smooth`` or ``constant``."""
    if curve == "authors":
        return dynamic_guidance(timestep, num_steps, scale, exponent)
    if curve == "smooth":
        return smooth_guidance(step, num_steps, scale, exponent)
    if curve == "constant":
        return scale
    raise ValueError(f"guidance_curve is {curve!r}; expected one of {', '.join(GUIDANCE_CURVES)}.")


def dpmpp_2m_sde_coefficients(alphas: Sequence[float], step: int) -> tuple[float, float, float, float]:
    """Factors of one step of DPM-Solver++ 2M SDE (arXiv 2211.01095) in VP form, in double precision.

    Args:
        alphas: sqrt(alpha_bar) in step order, 0 (pure noise) first, 1 (clean) last.
        step: which step; not the last one, whose result is the denoised latent itself.

    Returns:
        ``(keep, denoised, extrapolation, noise)``: the next x is ``keep x + denoised D + noise n`` where
        ``D = x0 + extrapolation (x0 - previous x0)``.
    """
    alpha, after = alphas[step], alphas[step + 1]
    sigma, sigma_after = math.sqrt(1 - alpha**2), math.sqrt(1 - after**2)
    if alpha == 0:  # log-SNR is -inf: h = inf
        return 0.0, after, 0.0, sigma_after

    def log_snr(level: float) -> float:
        return math.log(level / math.sqrt(1 - level**2))

    h = log_snr(after) - log_snr(alpha)
    before = alphas[step - 1] if step else 0.0
    extrapolation = 0.0 if before == 0 else h / (2 * (log_snr(alpha) - log_snr(before)))
    decay = math.exp(-h)
    spread = -math.expm1(-2 * h)
    return sigma_after / sigma * decay, after * spread, extrapolation, sigma_after * math.sqrt(spread)


def stage1_steps(
    levels: SolverLevels, x: Tensor, predict_v: Callable[[int, Tensor], Tensor], draw: Callable[[int], Tensor]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Stage I's run, step by step, with the caller's network and the caller's noise.

    Args:
        levels: of the run.
        x: the start, ``[B, 16, T, h, w]`` in model space and variance-preserving form.
        predict_v: ``predict_v(step, x)`` is the guided prediction.
        draw: ``draw(step)`` is standard normal noise like ``x``; steps that end at level 1 ask for none.

    Yields:
        ``(step, denoised estimate, next x)``.
    """
    previous = torch.zeros_like(x)
    for i, snapped in enumerate(levels.snapped):
        denoised = snapped * x - math.sqrt(1 - snapped**2) * predict_v(i, x)  # v -> x0
        if levels.alphas[i + 1] == 1:
            x = denoised
        else:
            keep, amount, extrapolation, noise_amount = dpmpp_2m_sde_coefficients(levels.alphas, i)
            target = denoised + extrapolation * (denoised - previous)
            x = keep * x + amount * target + noise_amount * draw(i)
        yield i, denoised, x
        previous = denoised


def _check_step_noise(step_noise: Sequence[Tensor], num_steps: int, shape: torch.Size) -> None:
    if len(step_noise) != num_steps - 1 or any(tensor.shape != shape for tensor in step_noise):
        raise ValueError(
            f"step_noise: expected {num_steps - 1} tensors of shape {list(shape)} (one for each step but the last), "
            f"got {len(step_noise)} of {sorted({tuple(t.shape) for t in step_noise})}."
        )


@torch.no_grad()
def sample_stage1(
    transformer: Any,
    noise: Tensor,
    prompt_embeds: Tensor,
    *,
    num_steps: int = 51,
    guidance_scale: float = 8.0,
    guidance_exponent: float = 5.0,
    negative_prompt_embeds: Tensor | None = None,
    generator: Generators = None,
    step_noise: Sequence[Tensor] | None = None,
    latent_scale: float | None = None,
    callback: Callback | None = None,
    guidance_curve: GuidanceCurve = "authors",
    sequential_guidance: bool = False,
    guidance_every: int = 1,
) -> Tensor:
    """Paint the small video's latents.

    Args:
        transformer: Stage I's, or any ``f(hidden_states, timestep, encoder_hidden_states)`` that predicts v.
        noise: standard normal ``[B, 16, T, h, w]``: the start.
        prompt_embeds: ``[B, 226, D]`` of the bare prompt.
        num_steps: evaluations; the authors run 51 (their paper says 50). Any number works.
        guidance_scale, guidance_exponent: of :func:`~flashvideo.method.guidance.dynamic_guidance`.
        negative_prompt_embeds: ``[B, 226, D]``; ``None`` is all zeros, as the model was trained.
        generator: of the solver's noise, one fp32 draw for each step but the last; one for all samples or one for each.
        step_noise: those draws, in order, instead: ``num_steps - 1`` tensors like ``noise``.
        latent_scale: default: the checkpoint's own, else 0.7.
        callback: ``callback(steps done, num_steps, denoised estimate in VAE space)`` after each step.
        guidance_curve: ``authors``; ``smooth`` counts steps instead of timesteps; ``constant`` is plain CFG.
        sequential_guidance: evaluate CFG's branches one after the other, which takes less memory.
        guidance_every: evaluate the branch without a prompt at the first of so many steps in a row, and reuse its
            difference at the others; 1 evaluates it at every step.

    Returns:
        Latents in VAE space, shape, dtype and device of ``noise``.

    Raises:
        ValueError: shapes or settings that do not fit, before the first evaluation.
    """
    check_latents("noise", noise)
    check_generators(generator, len(noise))
    check_guidance(guidance_scale, guidance_every)
    schedule = stage1_schedule(num_steps)
    timesteps = schedule.timesteps.tolist()
    scales = [
        stage1_guidance(guidance_curve, i, t, num_steps, guidance_scale, guidance_exponent)
        for i, t in enumerate(timesteps)
    ]
    if getattr(transformer, "noise_step_embedding", None) is not None:
        raise ValueError("This is a Stage II transformer (it has a noise-step embedding): load Stage I's for sampling.")
    if step_noise is not None:
        _check_step_noise(step_noise, num_steps, noise.shape)
    guided = SparseGuidance(
        GuidedTransformer(
            transformer, noise.shape, prompt_embeds, negative_prompt_embeds, sequential=sequential_guidance
        ),
        guidance_every,
    )
    scale = latent_scale_of(transformer, latent_scale, STAGE1_LATENT_SCALE)

    def predict_v(step: int, x: Tensor) -> Tensor:
        return guided(x, timesteps[step], scales[step])

    def draw(step: int) -> Tensor:
        drawn = standard_normal(noise.shape, generator) if step_noise is None else step_noise[step]
        return drawn.to(noise.device, torch.float32)

    for step, denoised, x in stage1_steps(schedule.levels, noise.float(), predict_v, draw):  # noqa: B007 (the result)
        if callback is not None:
            callback(step + 1, num_steps, denoised / scale)
    return (x / scale).to(noise.dtype)
