"""Golden models under the published files' names: the workflows load as they do for a user who has the real ones."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from flashvideo.shapes.render import render_low_clip
from flashvideo.shapes.scenes import sample_scene
from flashvideo.video.files import write_video
from tests.comfy.server import ComfyServer
from tests.conftest import TINY
from tools.workflow_notes import INTERPOLATOR


def add_tiny_models(server: ComfyServer) -> None:
    """Put models and an input video where ``workflows/`` looks for them."""
    server.add_model("diffusion_models", TINY / "stage1.pt")
    server.add_model("diffusion_models", TINY / "stage2.pt")
    server.add_model("vae", TINY / "3d-vae.pt")
    server.add_model("text_encoders", TINY / "text" / "model.safetensors", "t5xxl_fp16.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        server.add_model("text_encoders", TINY / "text" / name)
    add_interpolator(server)
    add_video(server.base / "input" / "flashvideo_example.mp4")


def add_interpolator(server: ComfyServer) -> None:
    """A frame interpolator as small as core's loader takes: RIFE's layout, no motion, so that it blends neighbours."""
    path = server.base / "models" / INTERPOLATOR.folder / INTERPOLATOR.name
    if path.exists():
        return
    features, channels = 1, 4
    weights = {
        **_conv("encode.cnn0", 3, 16),
        **_conv("encode.cnn1", 16, 16),
        **_conv("encode.cnn2", 16, 16),
        **_conv("encode.cnn3", 16, features, up=True),
    }
    for block in range(5):
        name, given = f"block{block}", 7 + 2 * features + 13 * (block > 0)
        weights |= _conv(f"{name}.conv0.0.0", given, channels // 2) | _conv(
            f"{name}.conv0.1.0", channels // 2, channels
        )
        for layer in range(8):
            weights |= _conv(f"{name}.convblock.{layer}.conv", channels, channels)
            weights[f"{name}.convblock.{layer}.beta"] = torch.ones(1, channels, 1, 1)
        weights |= {key: 0 * w for key, w in _conv(f"{name}.lastconv.0", channels, 52, up=True).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)


def _conv(name: str, given: int, made: int, up: bool = False) -> dict[str, torch.Tensor]:
    """A convolution's parameters; ``up``: one that doubles the size."""
    shape = (given, made, 4, 4) if up else (made, given, 3, 3)
    return {f"{name}.weight": torch.full(shape, 0.01), f"{name}.bias": torch.zeros(made)}


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
