"""Stage I in parts, for core's SamplerCustomAdvanced."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..host.stage1_sampling import Stage1Guidance, Stage1Solver, stage1_sigmas
from ..shared.widgets import model_input, negative_input, positive_input
from ..shared.wiring import conditionings, require_stage
from .stage1 import check_curve, guidance_inputs


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
                io.Int.Input(
                    "steps", default=51, min=1, max=1000, tooltip="Evaluations of the model; the authors run 51."
                ),
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
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Steps of the whole run, for split sigmas. 0: as many as the sigmas have.",
                    advanced=True,
                    optional=True,
                ),
                negative_input(),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def validate_inputs(cls, exponent: Any = 5.0, guidance_curve: Any = "authors") -> bool | str:
        return check_curve(guidance_curve, exponent)

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        cfg: float,
        exponent: float = 5.0,
        guidance_curve: str = "authors",
        steps: int = 0,
        negative: Any = None,
    ) -> io.NodeOutput:
        require_stage(model, "stage1")
        guider = Stage1Guidance(model)
        guider.set_conds(*conditionings(model, positive, negative))
        guider.set_curve(cfg, exponent, guidance_curve, steps)
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
            outputs=[io.Sampler.Output(display_name="sampler", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(Stage1Solver())


NODES = [Stage1Sigmas, Stage1Guider, Stage1SolverNode]
