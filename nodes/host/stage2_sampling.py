"""Stage II inside ComfyUI: its schedule as SIGMAS, its solvers as SAMPLERs, and what it does to a LATENT."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ...flashvideo.method.degradation import STAGE2_LATENT_SCALE, degrade_latents
from ...flashvideo.method.keeping import Kept, latent_mask
from ...flashvideo.method.schedules import flow_times
from ...flashvideo.method.stage2 import Rounding, Solver, flow_steps, get_solver, time_dtype
from ..shared.live_picture import live_picture, sampling_callback
from ..shared.wiring import (
    NOISE_STEP_KEY,
    conditionings,
    marked_degraded,
    require_finite,
    require_latents,
    require_no_mask,
    require_stage,
    require_undegraded,
    require_unguided,
    sample_seeds,
)
from .guidance import SparseGuider
from .misfits import require_own_sampling
from .sampling import Stage2Sampling

FROM_LATENT = -1  # a noise step that the latent itself knows
_END = 1e-6  # below it a sigma is the end of the flow, up to rounding


def stage2_sigmas(steps: int, shift: float, rounding: Rounding = None) -> Tensor:
    """``[steps + 1]``: 1 = low resolution (degraded) to 0 = high resolution."""
    sigmas = 1 - flow_times(steps, shift, time_dtype(rounding)).float()
    sigmas[-1] = 0
    return sigmas


def with_noise_step(model: Any, noise_step: int, rounding: Rounding = None) -> Any:
    """A clone of a Stage II MODEL that degrades with this noise step and calls its network with it."""
    require_own_sampling("stage2", model.get_model_object("model_sampling"))
    patched = model.clone()
    sampling = Stage2Sampling(model.model.model_config, noise_step, chosen=True, rounding=rounding)
    patched.add_object_patch("model_sampling", sampling)
    return patched


def flow_sampler(
    solver: Solver, rounding: Rounding = None, mask: Tensor | None = None, source: Tensor | None = None
) -> comfy.samplers.KSAMPLER:
    """A solver of the library as a SAMPLER.

    Args:
        mask, source: what is kept, and the latent that it is kept of, in model space; both or neither.
    """

    def sample(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, callback: Any, disable: Any) -> Tensor:
        def velocity(x: Tensor, time: Tensor) -> Tensor:
            sigma = 1 - float(time)
            sigma = 0.0 if sigma < _END else sigma
            denoised = model(x, x.new_full((x.shape[0],), sigma), **extra_args)
            # at sigma 0 the model gives x + v, see Stage2Sampling.calculate_denoised
            return (denoised - x) / (sigma or 1.0)

        times = (1 - sigmas.cpu()).to(time_dtype(rounding))
        state, kept = x, None
        if mask is not None and source is not None:
            kept = Kept(x, source.to(x), mask.to(x))
        for step, state in flow_steps(solver, velocity, x, times, kept):
            sigma = sigmas[step]
            callback({"x": state, "i": step, "sigma": sigma, "sigma_hat": sigma, "denoised": state})
        return state

    return comfy.samplers.KSAMPLER(sample)


def degraded_latent(latent: dict[str, Any], noise_step: int, seed: int, model: Any = None) -> dict[str, Any]:
    """A LATENT with noise mixed in; it carries its noise step. Sample k of a batch gets ``seed + k``.

    Args:
        model: a Stage II MODEL, whose latent scale counts; None is the published model's.

    Raises:
        ValueError: no video latent, an empty one, one that is degraded already, another model.
    """
    samples = require_latents(latent)
    require_undegraded(latent)
    if not torch.count_nonzero(samples):
        raise ValueError(
            "The latent is empty (all zeros). Connect the latent of the encoded low-resolution video, not an empty one."
        )
    scale = STAGE2_LATENT_SCALE
    if model is not None:
        require_stage(model, "stage2")
        scale = model.model.latent_format.scale_factor
    degraded = []
    for sample, sample_seed in zip(samples.split(1), sample_seeds(latent, seed), strict=True):
        noise = comfy.sample.prepare_noise(sample, sample_seed)
        degraded.append(degrade_latents(sample, noise_step, noise=noise, latent_scale=scale))
    samples = marked_degraded(torch.cat(degraded), int(noise_step))
    return {**latent, "samples": samples, NOISE_STEP_KEY: int(noise_step)}


def refined_latent(
    model: Any,
    positive: Any,
    latent: dict[str, Any],
    steps: int,
    shift: float,
    cfg: float,
    *,
    solver: str = "euler",
    noise_step: int = FROM_LATENT,
    rounding: Rounding = None,
    negative: Any = None,
    keep: Tensor | None = None,
    source: dict[str, Any] | None = None,
    guidance_every: int = 1,
) -> dict[str, Any]:
    """A degraded LATENT brought to full resolution by a Stage II MODEL.

    Args:
        noise_step: what the latent was degraded with; ``FROM_LATENT`` asks the latent.
        negative: None is all zeros, as the model was trained.
        keep: MASK ``[F, H, W]`` of what is kept, of one frame or of all.
        source: the LATENT before it was degraded, with ``keep`` alone.
        guidance_every: evaluate the branch without a prompt at the first of so many evaluations in a row.

    Raises:
        ValueError: sockets that do not fit, a noise step that is not known, numbers that are not finite.
    """
    require_stage(model, "stage2")
    require_unguided(model, cfg)
    samples = require_latents(latent)
    require_no_mask(latent, "stage2")
    require_own_sampling("stage2", model.get_model_object("model_sampling"))  # it is replaced below
    noise_step = latent_noise_step(latent, noise_step, model.get_model_object("model_sampling"))
    positive, negative = conditionings(model, positive, negative)
    patched = with_noise_step(model, noise_step, rounding)
    sigmas, scale, refined = stage2_sigmas(steps, shift, rounding), model.model.latent_format.scale_factor, []
    mask, clean = kept_of(samples, keep, source)
    picture = live_picture()
    for k, sample in enumerate(samples.split(1)):  # one after another: full-resolution latents fill the memory
        end = None if clean is None else clean[k : k + 1] * scale
        sampler = flow_sampler(get_solver(solver), rounding, mask, end)
        guider = SparseGuider(patched)
        guider.every = guidance_every
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        callback = sampling_callback(steps * len(samples), steps * k, scale, picture)
        no_noise = torch.zeros_like(sample)  # the latent is degraded already
        result = guider.sample(no_noise, sample, sampler, sigmas, callback=callback, disable_pbar=True, seed=0)
        require_finite(result, "stage2")
        refined.append(result)
    kept = {key: value for key, value in latent.items() if key != NOISE_STEP_KEY}
    return {**kept, "samples": torch.cat(refined).to(comfy.model_management.intermediate_device())}


def kept_of(samples: Tensor, keep: Tensor | None, source: dict[str, Any] | None) -> tuple[Tensor | None, Tensor | None]:
    """The mask ``[1, 1, 1 or T, h, w]`` of what is kept, and the samples that it is kept of; None without.

    Raises:
        ValueError: one without the other, a source or a mask that does not fit the degraded samples.
    """
    if keep is None and source is None:
        return None, None
    if keep is None or source is None:
        given, missing = ("keep", "source") if source is None else ("source", "keep")
        raise ValueError(
            f"{given} is connected without {missing}. Connect to keep a mask of what stays as it is, and to source the "
            "latent that goes into Latent Degradation; or neither."
        )
    clean = require_latents(source)
    require_undegraded(source)
    if clean.shape != samples.shape:
        raise ValueError(
            f"source has shape {list(clean.shape)}, the degraded latent {list(samples.shape)}; expected the latent "
            "that went into Latent Degradation."
        )
    mask = latent_mask(keep.float() if keep.ndim == 3 else keep.float()[None], *samples.shape[3:])
    if mask.shape[2] not in (1, samples.shape[2]):
        raise ValueError(
            f"The mask has {len(keep)} frames, which are {mask.shape[2]} latent frames; the latent has "
            f"{samples.shape[2]}. Give one mask for all frames, or one for each."
        )
    return mask, clean


def latent_noise_step(latent: dict[str, Any], widget: int, sampling: Any) -> int:
    """The noise step of a degraded latent, from itself, the widget or the MODEL.

    Raises:
        ValueError: none of them has it, or two of them disagree.
    """
    sources = {
        "the latent was degraded with": latent.get(NOISE_STEP_KEY),
        "the noise_step widget says": None if widget == FROM_LATENT else widget,
        "the Stage II Noise Step node says": sampling.noise_step if getattr(sampling, "chosen", False) else None,
    }
    known = {source: int(step) for source, step in sources.items() if step is not None}
    if NOISE_STEP_KEY not in latent and widget == FROM_LATENT:
        raise ValueError(
            "The latent carries no noise step: it was not degraded. Put FlashVideo Latent Degradation in front, or, if "
            "it was degraded elsewhere, set noise_step to what it was degraded with."
        )
    if len(set(known.values())) > 1:
        said = "; ".join(f"{source} {step}" for source, step in known.items())
        raise ValueError(f"The noise steps disagree: {said}. Stage II must be told the one that was used.")
    return next(iter(known.values()))
