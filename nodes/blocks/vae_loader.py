"""Load VAE: a family of its own, since it works where the transformers' dependencies are broken."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..host.vae import load_vae_object
from ..shared.model_files import check_model, model_choices, model_path


class LoadVAE(io.ComfyNode):
    """The 3D VAE as a VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoLoadVAE",
            display_name="FlashVideo Load VAE",
            category="FlashVideo",
            description="Loads CogVideoX's 3D VAE so that every encode and decode node, core's too, is exact: the "
            "authors' chunks in time, 4(T-1)+1 frames, tiles that do not show.",
            search_aliases=["flashvideo", "vae loader", "load vae", "3d-vae", "cogvideox vae"],
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=model_choices("vae", "vae"),
                    tooltip="The file in models/vae: the published 3d-vae.pt or diffusers' CogVideoX VAE, of any "
                    "width, or the tiny one that comes with the pack.",
                ),
            ],
            outputs=[io.Vae.Output(display_name="vae", tooltip="The VAE, for FlashVideo's and core's nodes.")],
        )

    @classmethod
    def validate_inputs(cls, vae_name: Any = None) -> bool | str:
        return check_model("vae", vae_name, "vae")

    @classmethod
    def execute(cls, vae_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_vae_object(model_path("vae", vae_name, "vae")))


NODES = [LoadVAE]
