"""Upscale and Encode: from a small video to Stage II's latents."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..host.codec import VaeLimits, limit_inputs, resize_remarks, upscaled_latent
from ..shared.node_text import told
from ..shared.widgets import (
    OF_INPUT,
    check_chosen_size,
    chosen_target,
    posterior_input,
    seed_input,
    short_side_input,
    target_inputs,
    vae_input,
)
from ..shared.wiring import require_frames


class UpscaleEncode(io.ComfyNode):
    """IMAGE to target-size LATENT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoUpscaleEncode",
            display_name="FlashVideo Upscale and Encode",
            category="FlashVideo",
            description="Brings a small video to the target size and encodes it for Stage II. Its last frame is "
            "repeated up to 4n + 1 frames; FlashVideo's decoding nodes leave those out again.",
            search_aliases=["flashvideo", "upscale", "vae encode", "image to latent", "video upscaler", "stage 2"],
            inputs=[
                io.Image.Input("image", tooltip="The small video: Stage I's decoded frames, or any other. Any length."),
                vae_input(),
                *target_inputs(),
                seed_input("Seed of the draw from the VAE's posterior. The mean needs none."),
                posterior_input(),
                *limit_inputs(),
                short_side_input(),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent", tooltip="The low-resolution video at the target size, for Degradation."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, size: Any = None, width: Any = None, height: Any = None) -> bool:
        check_chosen_size(size, width, height, OF_INPUT)
        return True

    @classmethod
    def execute(
        cls,
        image: Tensor,
        vae: Any,
        size: str,
        width: int,
        height: int,
        resize: str,
        seed: int,
        posterior: str = "sample",
        tile_size: int = 0,
        memory_gb: float = 0.0,
        short_side: int = 1072,
    ) -> io.NodeOutput:
        require_frames(image)
        limits = VaeLimits(tile_size, memory_gb)
        noise_seed = seed if posterior == "sample" else None
        target = chosen_target(size, width, height, short_side, (image.shape[1], image.shape[2]))
        latent = upscaled_latent(vae, image, target, resize, limits, noise_seed)
        return told(latent, remarks=resize_remarks(image, target, resize))


NODES = [UpscaleEncode]
