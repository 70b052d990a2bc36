"""Small videos and images with captions, for the tests of training data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashvideo.video.files import write_image, write_video


def moving(frames: int = 9, height: int = 40, width: int = 72, seed: int = 0) -> Tensor:
    """``[3, F, H, W]`` with a place and a time in every value: red across, green down, blue in time."""
    across = torch.linspace(0, 1, width).expand(frames, height, width)
    down = torch.linspace(0, 1, height)[:, None].expand(frames, height, width)
    late = (torch.arange(frames) / 16)[:, None, None].expand(frames, height, width)
    return torch.stack([across, down, (late + seed / 100).clamp(0, 1)])


def folder_of(path: Path, names: list[str], **more: Any) -> Path:
    """Videos and images with captions beside them."""
    path.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        file = path / name
        file.parent.mkdir(exist_ok=True, parents=True)
        write_media(file, moving(seed=number, **more))
        file.with_suffix(".txt").write_text(f"clip number {number}\n")
    return path


def write_media(path: Path, video: Tensor, fps: float = 8) -> Path:
    if path.suffix in (".png", ".jpg"):
        return write_image(path, video[:, 0])
    return write_video(path, video, fps=fps, crf=0)
