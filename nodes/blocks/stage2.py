"""The Stage II Refiner, and its parts for core's SamplerCustomAdvanced."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from comfy_api.latest import io
from torch import Tensor

from ...flashvideo.method.schedules import flow_times
from ...flashvideo.method.stage2 import Rounding, Solver, get_solver
from ..host.sampling import Stage2Sampling
from ..shared.live_preview import sampling_callback
from ..shared.widgets import (
    model_input,
    negative_input,
    noise_step_input,
    positive_input,
    schedule_inputs,
    solver_input,
    stage2_cfg_input,
)
from ..shared.wiring import (
    NOISE_STEP_KEY,
    conditionings,
    require_finite,
    require_latents,
    require_no_mask,
    require_stage,
)

ROUNDINGS: dict[str, Rounding] = {"exact": None, "bf16": "bf16"}
_TIME_DTYPES = {"exact": torch.float32, "bf16": torch.bfloat16}
FROM_LATENT = -1
_END = 1e-6  # below it a time is the end of the flow, up to rounding


def rounding_input() -> io.Input:
    return io.Combo.Input(
        "rounding",
        options=list(ROUNDINGS),
        default="exact",
        tooltip="bf16 rounds time steps and noise step as the authors' production run did; exact does not.",
        advanced=True,
        optional=True,
    )


def stage2_sigmas(steps: int, shift: float, rounding: str = "exact") -> Tensor:
    """``[steps + 1]``: 1 = low resolution (degraded) to 0 = high resolution."""
    sigmas = 1 - flow_times(steps, shift, _TIME_DTYPES[rounding]).float()
    sigmas[-1] = 0
    return sigmas


def with_noise_step(model: Any, noise_step: int, rounding: str = "exact", chosen: bool = True) -> Any:
    """A clone of a Stage II MODEL that degrades with, and is told, this noise step."""
    patched = model.clone()
    sampling = Stage2Sampling(model.model.model_config, noise_step, chosen, ROUNDINGS[rounding])
    patched.add_object_patch("model_sampling", sampling)
    return patched


def flow_sampler(rule: Solver, rounding: str = "exact") -> comfy.samplers.KSAMPLER:
    """A solver of the library as a SAMPLER."""

    def sample(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, callback: Any, disable: Any) -> Tensor:
        def velocity(x: Tensor, t: Tensor) -> Tensor:
            sigma = 1 - float(t)
            sigma = 0.0 if sigma < _END else sigma
            denoised = model(x, x.new_full((x.shape[0],), sigma), **extra_args)
            # at sigma 0 the model gives x + v, see Stage2Sampling.calculate_denoised
            return (denoised - x) / (sigma or 1.0)

        times = (1 - sigmas.cpu()).to(_TIME_DTYPES[rounding])
        for i in range(len(sigmas) - 1):
            x = rule.step(velocity, x, times[i], times[i + 1] - times[i])
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": x})
        return x

    return comfy.samplers.KSAMPLER(sample)


def refiner_noise_step(latent: dict[str, Any], widget: int, sampling: Any) -> int:
    """The noise step of a degraded latent, from itself, the widget or the MODEL.

    Raises:
        ValueError: none of them tells, or two of them disagree.
    """
    told = {
        "the latent was degraded with": latent.get(NOISE_STEP_KEY),
        "the noise_step widget says": None if widget == FROM_LATENT else widget,
        "the Stage II Noise Step node says": sampling.noise_step if getattr(sampling, "chosen", False) else None,
    }
    given = {source: int(step) for source, step in told.items() if step is not None}
    if NOISE_STEP_KEY not in latent and widget == FROM_LATENT:
        raise ValueError(
            "The latent carries no noise step: it was not degraded. Put FlashVideo Latent Degradation in front, or, if "
            "it was degraded elsewhere, set noise_step to what it was degraded with."
        )
    if len(set(given.values())) > 1:
        said = "; ".join(f"{source} {step}" for source, step in given.items())
        raise ValueError(f"The noise steps disagree: {said}. Stage II must be told the one that was used.")
    return next(iter(given.values()))


class Stage2Refiner(io.ComfyNode):
    """Stage II as one node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoStage2Refiner",
            display_name="FlashVideo Stage II Refiner",
            category="FlashVideo",
            description="Brings the degraded latent to full resolution in a few steps of flow matching.",
            search_aliases=["flashvideo", "stage 2", "refine", "upscale video", "super resolution", "flow matching"],
            inputs=[
                model_input("stage2"),
                positive_input("stage2", " (with the motion level)"),
                io.Latent.Input("latent", tooltip="From FlashVideo Latent Degradation; it tells its noise step."),
                *schedule_inputs(),
                stage2_cfg_input(),
                solver_input(),
                io.Int.Input(
                    "noise_step",
                    default=FROM_LATENT,
                    min=FROM_LATENT,
                    max=999,
                    tooltip="-1 takes it from the latent. Set it only for a latent that was degraded elsewhere.",
                    advanced=True,
                    optional=True,
                ),
                rounding_input(),
                negative_input(),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The full-resolution latent, in VAE space.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent: dict[str, Any],
        steps: int,
        shift: float,
        cfg: float,
        solver: str = "euler",
        noise_step: int = FROM_LATENT,
        rounding: str = "exact",
        negative: Any = None,
    ) -> io.NodeOutput:
        require_stage(model, "stage2")
        samples = require_latents(latent)
        require_no_mask(latent, "stage2")
        step = refiner_noise_step(latent, noise_step, model.get_model_object("model_sampling"))
        positive, negative = conditionings(model, positive, negative)
        told = with_noise_step(model, step, rounding)
        sigmas, sampler = stage2_sigmas(steps, shift, rounding), flow_sampler(get_solver(solver), rounding)
        scale, refined = model.model.latent_format.scale_factor, []
        for k in range(samples.shape[0]):  # one after another: full-resolution latents fill the memory one at a time
            guider = comfy.samplers.CFGGuider(told)
            guider.set_conds(positive, negative)
            guider.set_cfg(cfg)
            one = samples[k : k + 1]
            callback = sampling_callback(steps * samples.shape[0], steps * k, scale, None)
            none = torch.zeros_like(one)  # no noise: the latent is degraded already
            refined.append(guider.sample(none, one, sampler, sigmas, callback=callback, disable_pbar=True, seed=0))
            require_finite(refined[-1], "stage2")
        kept = {key: value for key, value in latent.items() if key != NOISE_STEP_KEY}
        result = torch.cat(refined).to(comfy.model_management.intermediate_device())
        return io.NodeOutput({**kept, "samples": result})


class Stage2Sigmas(io.ComfyNode):
    """Stage II's schedule as SIGMAS."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoStage2Sigmas",
            display_name="FlashVideo Stage II Sigmas",
            category="FlashVideo",
            description="Stage II's time grid for SamplerCustomAdvanced, with RandomNoise and an undegraded latent: "
            "the model degrades it itself.",
            search_aliases=["flashvideo", "scheduler", "sigmas", "shift", "basic scheduler", "stage 2"],
            inputs=[*schedule_inputs(), rounding_input()],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="From 1 (degraded) down to 0.")],
        )

    @classmethod
    def execute(cls, steps: int, shift: float, rounding: str = "exact") -> io.NodeOutput:
        return io.NodeOutput(stage2_sigmas(steps, shift, rounding))


class Stage2NoiseStep(io.ComfyNode):
    """The noise step of a MODEL, for core samplers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoStage2NoiseStep",
            display_name="FlashVideo Stage II Noise Step",
            category="FlashVideo",
            description="Sets how strongly core samplers degrade the latent, and what the model is told. Without this "
            "node it is 675.",
            search_aliases=["flashvideo", "model sampling", "noise step", "ref step", "degradation", "stage 2"],
            inputs=[
                model_input("stage2"),
                noise_step_input("675 by default, trained on 650 to 750: for the noise and the model alike."),
                rounding_input(),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with its noise step.")],
        )

    @classmethod
    def execute(cls, model: Any, noise_step: int, rounding: str = "exact") -> io.NodeOutput:
        require_stage(model, "stage2")
        return io.NodeOutput(with_noise_step(model, noise_step, rounding))


NODES = [Stage2Refiner, Stage2Sigmas, Stage2NoiseStep]
