"""Empty Latent and the Stage I Sampler, and its parts for core's SamplerCustomAdvanced."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.sample
import torch
from comfy_api.latest import io

from ...flashvideo.method.checks import check_size
from ...flashvideo.method.stage1 import GUIDANCE_CURVES, GuidanceCurve
from ...flashvideo.tensors.sizes import LATENT_CHANNELS, SPATIAL_FACTOR, TEMPORAL_FACTOR, latent_frames
from ..host.codec import require_vae
from ..host.stage1_sampling import Stage1Guidance, Stage1Solver, stage1_sigmas
from ..shared.live_picture import live_picture, sampling_callback
from ..shared.widgets import (
    STAGE1,
    check_chosen_size,
    chosen_size,
    guidance_every_input,
    guidance_inputs,
    model_input,
    negative_input,
    positive_input,
    seed_input,
    setting_input,
    size_inputs,
    stage1_steps_input,
)
from ..shared.wiring import (
    STAGES,
    conditionings,
    require_finite,
    require_latents,
    require_no_mask,
    require_stage,
    sample_seeds,
)

_SAMPLER: Any = io.Sampler  # mypy takes it for comfy.samplers.Sampler, which ComfyUI imports by the same name for types


def check_curve(guidance_curve: str | None, exponent: float | None) -> None:
    """Raise ValueError for what the curve cannot be; None is a linked value, known on execution only."""
    if guidance_curve is not None and guidance_curve not in GUIDANCE_CURVES:
        raise ValueError(f"guidance_curve {guidance_curve!r}: expected one of {', '.join(GUIDANCE_CURVES)}.")
    if guidance_curve == "authors" and exponent is not None and not float(exponent).is_integer():
        raise ValueError(
            f"exponent is {exponent}: the authors' curve needs a whole number (5), or choose the smooth curve."
        )


class EmptyLatent(io.ComfyNode):
    """Zeros of the right shape."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoEmptyLatent",
            display_name="FlashVideo Empty Latent",
            category="FlashVideo",
            description="The size and length of the video that Stage I paints. It was trained on 480x256, 49 frames.",
            search_aliases=["flashvideo", "empty latent video", "size", "resolution", "frames", "batch"],
            inputs=[
                *size_inputs(STAGE1),
                setting_input(STAGE1["num_frames"], "length"),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Previews to paint, one after another: seed, seed + 1, seed + 2 ...",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="An empty latent for the Stage I Sampler.")],
        )

    @classmethod
    def validate_inputs(cls, size: Any = None, width: Any = None, height: Any = None, length: Any = None) -> bool:
        """Sizes in words; linked values are None here and are checked on execution."""
        check_chosen_size(size, width, height)
        if length is not None:
            latent_frames(length)
        return True

    @classmethod
    def execute(cls, size: str, width: int, height: int, length: int, batch_size: int = 1) -> io.NodeOutput:
        height, width = chosen_size(size, width, height)
        check_size(height, width)
        frames, rows, columns = latent_frames(length), height // SPATIAL_FACTOR, width // SPATIAL_FACTOR
        shape = (batch_size, LATENT_CHANNELS, frames, rows, columns)
        samples = torch.zeros(shape, device=comfy.model_management.intermediate_device())
        ratios = {"downscale_ratio_spacial": SPATIAL_FACTOR, "downscale_ratio_temporal": TEMPORAL_FACTOR}
        return io.NodeOutput({"samples": samples, **ratios})


class Stage1Sampler(io.ComfyNode):
    """Stage I as one node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoStage1Sampler",
            display_name="FlashVideo Stage I Sampler",
            category="FlashVideo",
            description="Paints the small video: the authors' schedule, solver and guidance. A batch is sampled one "
            "after another; sample k is what seed + k gives alone.",
            search_aliases=["flashvideo", "stage 1", "ksampler", "text to video", "dpm++ 2m sde", "preview"],
            inputs=[
                model_input("stage1"),
                positive_input("stage1"),
                io.Latent.Input("latent", tooltip="FlashVideo Empty Latent: size, length and number of previews."),
                seed_input("Seed of the start and the solver's noise; the same as RandomNoise's in the parts."),
                stage1_steps_input(),
                *guidance_inputs(),
                guidance_every_input(STAGE1),
                negative_input(" That is also what Text Encode gives."),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Connect it for a live picture while sampling: colours are measured on this VAE once.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The small video's latent, in VAE space.")],
        )

    @classmethod
    def validate_inputs(cls, exponent: Any = 5.0, guidance_curve: Any = "authors") -> bool:
        check_curve(guidance_curve, exponent)
        return True

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent: dict[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        exponent: float = 5.0,
        guidance_curve: GuidanceCurve = "authors",
        guidance_every: int = 1,
        negative: Any = None,
        vae: Any = None,
    ) -> io.NodeOutput:
        require_stage(model, "stage1")
        samples = require_latents(latent)
        require_no_mask(latent, "stage1")
        if torch.count_nonzero(samples):
            raise ValueError(
                f"The latent is not empty. {STAGES['stage1']} paints from noise alone, so its content would be lost: "
                "connect FlashVideo Empty Latent. To refine a video, use Stage II."
            )
        positive, negative = conditionings(model, positive, negative)
        if vae is not None:
            require_vae(vae)
        picture = live_picture(vae)
        sigmas, scale = stage1_sigmas(model, steps), model.model.latent_format.scale_factor
        seeds, painted = sample_seeds(latent, seed), []
        for k, sample_seed in enumerate(seeds):
            guider = Stage1Guidance(model)
            guider.set_conds(positive, negative)
            guider.set_curve(cfg, exponent, guidance_curve)
            guider.every = guidance_every
            empty = samples[k : k + 1]
            noise = comfy.sample.prepare_noise(empty, sample_seed)
            callback = sampling_callback(steps * len(seeds), steps * k, scale, picture)
            result = guider.sample(
                noise, empty, Stage1Solver(), sigmas, callback=callback, disable_pbar=True, seed=sample_seed
            )
            require_finite(result, "stage1")
            painted.append(result)
        kept = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio")}
        result = torch.cat(painted).to(comfy.model_management.intermediate_device())
        return io.NodeOutput({**kept, "samples": result})


class Stage1Sigmas(io.ComfyNode):
    """Stage I's schedule as SIGMAS."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoStage1Sigmas",
            display_name="FlashVideo Stage I Sigmas",
            category="FlashVideo",
            description="The authors' time steps (999, 979, 959 ...) as sigmas, for SamplerCustomAdvanced.",
            search_aliases=["flashvideo", "scheduler", "sigmas", "basic scheduler", "stage 1"],
            inputs=[
                model_input("stage1"),
                stage1_steps_input(),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="Falling sigmas, ending in 0.")],
        )

    @classmethod
    def execute(cls, model: Any, steps: int) -> io.NodeOutput:
        require_stage(model, "stage1")
        return io.NodeOutput(stage1_sigmas(model, steps))


class Stage1Guider(io.ComfyNode):
    """Stage I's guidance as a GUIDER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoStage1Guider",
            display_name="FlashVideo Stage I Guider",
            category="FlashVideo",
            description="Guidance that changes with the time step, as the authors' code has it, for "
            "SamplerCustomAdvanced.",
            search_aliases=["flashvideo", "cfg guider", "dynamic cfg", "guidance", "stage 1"],
            inputs=[
                model_input("stage1"),
                positive_input("stage1"),
                *guidance_inputs(),
                setting_input(
                    STAGE1["num_steps"],
                    "steps",
                    default=0,
                    low=0,
                    tooltip="Steps of the whole run, for split sigmas. 0: as many as the sigmas have.",
                    advanced=True,
                    optional=True,
                ),
                guidance_every_input(STAGE1),
                negative_input(),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def validate_inputs(cls, exponent: Any = 5.0, guidance_curve: Any = "authors") -> bool:
        check_curve(guidance_curve, exponent)
        return True

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        cfg: float,
        exponent: float = 5.0,
        guidance_curve: GuidanceCurve = "authors",
        steps: int = 0,
        guidance_every: int = 1,
        negative: Any = None,
    ) -> io.NodeOutput:
        require_stage(model, "stage1")
        guider = Stage1Guidance(model)
        guider.set_conds(*conditionings(model, positive, negative))
        guider.set_curve(cfg, exponent, guidance_curve, steps)
        guider.every = guidance_every
        return io.NodeOutput(guider)


class Stage1SolverNode(io.ComfyNode):
    """Stage I's solver as a SAMPLER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoStage1Solver",
            display_name="FlashVideo Stage I Solver",
            category="FlashVideo",
            description="The authors' DPM-Solver++ 2M SDE as a SAMPLER for SamplerCustomAdvanced. Use it with Stage I "
            "Sigmas, Stage I Guider and RandomNoise: that is the Stage I Sampler, in parts.",
            search_aliases=["flashvideo", "sampler select", "ksampler select", "dpm++ 2m sde", "stage 1 sampler"],
            inputs=[],
            outputs=[_SAMPLER.Output(display_name="sampler", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(Stage1Solver())


NODES = [EmptyLatent, Stage1Sampler, Stage1Sigmas, Stage1Guider, Stage1SolverNode]
