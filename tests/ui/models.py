"""Golden models under the published files' names: the workflows load as they do for a user who has the real ones."""

from __future__ import annotations

from pathlib import Path

import torch

from flashvideo.shapes.render import render_low_clip
from flashvideo.shapes.scenes import sample_scene
from flashvideo.video.files import write_video
from tests.comfy.server import ComfyServer
from tests.conftest import TINY


def add_tiny_models(server: ComfyServer) -> None:
    """Put models and an input video where ``workflows/`` looks for them."""
    server.add_model("diffusion_models", TINY / "stage1.pt")
    server.add_model("diffusion_models", TINY / "stage2.pt")
    server.add_model("vae", TINY / "3d-vae.pt")
    server.add_model("text_encoders", TINY / "text" / "model.safetensors", "t5xxl_fp16.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        server.add_model("text_encoders", TINY / "text" / name)
    add_video(server.base / "input" / "flashvideo_example.mp4")


def add_video(path: Path) -> None:
    """Nine frames of a moving gradient."""
    if path.exists():
        return
    ramp = torch.linspace(0, 1, 96)
    frames = torch.stack([(ramp + k / 9).remainder(1).expand(64, 96) for k in range(9)])
    write_video(path, frames.expand(3, -1, -1, -1), 8)


def add_drawn_video(path: Path, seed: int) -> str:
    """A drawn clip at FlashVideo-Tiny's low resolution; gives its caption."""
    scene = sample_scene(seed, count=2, held_out=None)
    write_video(path, render_low_clip(scene), 8, overwrite=True)
    return scene.caption
