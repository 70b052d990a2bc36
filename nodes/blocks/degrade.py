"""Latent Degradation: where Stage II starts (paper section 3.3)."""

from __future__ import annotations

from typing import Any

import comfy.sample
import torch
from comfy_api.latest import io

from ...flashvideo.method.degradation import STAGE2_LATENT_SCALE, degrade_latents
from ..shared.widgets import noise_step_input, seed_input
from ..shared.wiring import NOISE_STEP_KEY, require_latents, require_stage, require_undegraded, sample_seeds


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
                    "How much of the latent is replaced by noise: 675 by default, trained on 650 to 750. More "
                    "gives Stage II more freedom, less keeps closer to the preview.",
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
        samples = require_latents(latent)
        require_undegraded(latent)
        if not torch.count_nonzero(samples):
            raise ValueError(
                "The latent is empty (all zeros). Connect the latent of the encoded low-resolution video, not an empty "
                "one."
            )
        scale = STAGE2_LATENT_SCALE
        if model is not None:
            require_stage(model, "stage2")
            scale = model.model.latent_format.scale_factor
        degraded = []
        for k, sample_seed in enumerate(sample_seeds(latent, seed)):
            one = samples[k : k + 1]
            noise = comfy.sample.prepare_noise(one, sample_seed)
            degraded.append(degrade_latents(one, noise_step, noise=noise, latent_scale=scale))
        return io.NodeOutput({**latent, "samples": torch.cat(degraded), NOISE_STEP_KEY: int(noise_step)})


NODES = [LatentDegradation]
