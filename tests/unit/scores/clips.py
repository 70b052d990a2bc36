"""Small videos for scores, as files without loss or with it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from flashvideo.video.files import VideoWriter
from tools.planted_faults import moving_texture

HEIGHT, WIDTH, FRAMES, FPS = 96, 128, 24, 12


def moving(frames: int = FRAMES, height: int = HEIGHT, width: int = WIDTH, *, step: int = 2, seed: int = 0) -> Tensor:
    """``[3, F, height, width]``: a texture that moves ``step`` pixels a frame."""
    return moving_texture(frames, height, width, step=step, seed=seed)


def write(path: Path, video: Tensor, *, fps: float = FPS, crf: int = 0) -> Path:
    """``[3, F, H, W]`` as a file."""
    with VideoWriter(path, fps, crf, overwrite=True, preset="ultrafast") as writer:
        writer.write(video)
    return path
