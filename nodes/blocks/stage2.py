"""The Stage II Refiner, and its parts for core's SamplerCustomAdvanced."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..host.stage2_sampling import FROM_LATENT, refined_latent, stage2_sigmas, with_noise_step
from ..shared.widgets import (
    ROUNDINGS,
    STAGE2,
    guidance_every_input,
    model_input,
    negative_input,
    noise_step_input,
    positive_input,
    rounding_input,
    schedule_inputs,
    setting_input,
    solver_input,
    stage2_cfg_input,
)
from ..shared.wiring import require_stage


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
                setting_input(
                    STAGE2["noise_step"],
                    default=FROM_LATENT,
                    low=FROM_LATENT,
                    tooltip="-1 takes it from the latent. Set it only for a latent that was degraded elsewhere.",
                    advanced=True,
                    optional=True,
                ),
                rounding_input(),
                guidance_every_input(STAGE2),
                negative_input(),
                io.Mask.Input(
                    "keep",
                    optional=True,
                    tooltip="White stays as the source shows it, enlarged: faces, text. One mask for all frames, or "
                    "one for each; of any size.",
                ),
                io.Latent.Input(
                    "source",
                    optional=True,
                    tooltip="Beside keep: the latent that goes into FlashVideo Latent Degradation.",
                ),
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
        guidance_every: int = 1,
        negative: Any = None,
        keep: Any = None,
        source: Any = None,
    ) -> io.NodeOutput:
        refined = refined_latent(
            model,
            positive,
            latent,
            steps,
            shift,
            cfg,
            solver=solver,
            noise_step=noise_step,
            rounding=ROUNDINGS[rounding],
            negative=negative,
            keep=keep,
            source=source,
            guidance_every=guidance_every,
        )
        return io.NodeOutput(refined)


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
        return io.NodeOutput(stage2_sigmas(steps, shift, ROUNDINGS[rounding]))


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
        return io.NodeOutput(with_noise_step(model, noise_step, ROUNDINGS[rounding]))


NODES = [Stage2Refiner, Stage2Sigmas, Stage2NoiseStep]
