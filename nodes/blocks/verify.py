"""Verify: do ComfyUI's layers and attention compute what the model's file means?"""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...flashvideo import __version__
from ...flashvideo.runs.verifying import Certificate, place_of
from ..host.codec import require_vae
from ..host.verifying import model_verdict, vae_verdicts
from ..shared.node_text import told
from ..shared.wiring import require_any_stage


class Verify(io.ComfyNode):
    """A MODEL, and a VAE, against plain fp32."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoVerify",
            display_name="FlashVideo Verify",
            category="FlashVideo",
            description="Does this machine compute what the model's file means? Compares an evaluation of the MODEL as "
            "ComfyUI runs it, with its layers, dtype and attention, with plain fp32 on the CPU, on fixed inputs.",
            search_aliases=["flashvideo", "verify", "parity", "numerical check", "precision", "test"],
            inputs=[
                io.Model.Input("model", tooltip="From FlashVideo Load Stage I or Load Stage II, without LoRA."),
                io.Vae.Input("vae", optional=True, tooltip="From FlashVideo Load VAE: encodes and decodes, too."),
            ],
            outputs=[
                io.String.Output(
                    display_name="table", tooltip="Each path with its largest and rms difference, its limit and why."
                ),
                io.Boolean.Output(display_name="ok", tooltip="Whether every difference is within its limit."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, vae: Any = None) -> io.NodeOutput:
        require_any_stage(model)
        if vae is not None:
            require_vae(vae)
        verdicts = (model_verdict(model), *(() if vae is None else vae_verdicts(vae)))
        certificate = Certificate(verdicts, {"flashvideo": __version__, **place_of(model.load_device)})
        return told("\n".join(certificate.lines()), certificate.ok, remarks=certificate.told())


NODES = [Verify]
