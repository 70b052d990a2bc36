"""The golden models as a server knows them: small random weights that golden tensors were made with."""

from __future__ import annotations

from tests.comfy.server import ComfyServer
from tests.conftest import TINY

STAGE1, STAGE2, VAE, TEXT = "golden-stage1.pt", "golden-stage2.pt", "golden-3d-vae.pt", "golden-text/model.safetensors"


def add_golden_models(server: ComfyServer) -> None:
    """Put them into the server's model folders."""
    server.add_model("diffusion_models", TINY / "stage1.pt", STAGE1)
    server.add_model("diffusion_models", TINY / "stage2.pt", STAGE2)
    server.add_model("vae", TINY / "3d-vae.pt", VAE)
    server.add_model("text_encoders", TINY / "text", "golden-text")
