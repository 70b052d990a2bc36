"""Tiled VAE Decode."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..host.codec import VaeLimits, decode_images, limit_inputs, require_vae
from ..host.colors import MATCH_COLORS, color_finish, color_inputs
from ..shared.widgets import vae_input
from ..shared.wiring import require_latents, true_frames


class TiledDecode(io.ComfyNode):
    """A LATENT as IMAGE, within a memory budget."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoTiledDecode",
            display_name="FlashVideo Tiled VAE Decode",
            category="FlashVideo",
            description="Decodes a video within the memory there is. The tiles are exact: no seams, no overlap, the "
            "same picture for every tile size. What it will take is shown on the node.",
            search_aliases=["flashvideo", "vae decode", "vae decode tiled", "latent to image", "low vram"],
            inputs=[
                io.Latent.Input("latent", tooltip="A latent in VAE space, of any number of latent frames."),
                vae_input(),
                *limit_inputs(),
                *color_inputs(),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", tooltip="The frames, in 0 to 1; those that padding added are left out."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        latent: dict[str, Any],
        vae: Any,
        tile_size: int = 0,
        memory_gb: float = 0.0,
        colors_of: Tensor | None = None,
        match_colors: float = MATCH_COLORS,
    ) -> io.NodeOutput:
        require_vae(vae)
        require_latents(latent, even=False)
        finish = color_finish(latent, colors_of, match_colors, true_frames(latent))
        return io.NodeOutput(decode_images(vae, latent, VaeLimits(tile_size, memory_gb), finish=finish))


NODES = [TiledDecode]
