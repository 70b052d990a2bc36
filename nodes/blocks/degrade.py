"""Latent Degradation: where Stage II starts (paper section 3.3)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..host.stage2_sampling import degraded_latent
from ..shared.widgets import noise_step_input, seed_input


class LatentDegradation(io.ComfyNode):
    """Mixes noise into the low-resolution video's latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoDegrade",
            display_name="FlashVideo Latent Degradation",
            category="FlashVideo",
            description="Mixes noise into the encoded low-resolution video: the place where Stage II starts. The "
            "latent remembers its noise step for the refiner.",
            search_aliases=["flashvideo", "add noise", "degradation", "noise step", "ref step", "stage 2"],
            inputs=[
                io.Latent.Input("latent", tooltip="The low-resolution video, resized to the target and encoded."),
                noise_step_input(
                    more=" More gives Stage II more freedom, less keeps closer to the preview.",
                ),
                seed_input("Seed of the noise, the same as RandomNoise's. Sample k of a batch gets seed + k."),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Only for a Stage II checkpoint with a latent scale of its own; the published one needs no "
                    "connection.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The degraded latent, for the Stage II Refiner.")],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], noise_step: int, seed: int, model: Any = None) -> io.NodeOutput:
        return io.NodeOutput(degraded_latent(latent, noise_step, seed, model))


NODES = [LatentDegradation]
