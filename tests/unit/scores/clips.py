"""Small videos for scores: textures that move, as files without loss or with it, and faults planted in them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from flashvideo.video.files import VideoWriter

HEIGHT, WIDTH, FRAMES, FPS = 96, 128, 24, 12


def texture(height: int, width: int, seed: int = 0) -> Tensor:
    """``[3, height, width]`` in 0..1: noise with equal power in every octave, as natural pictures have."""
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    spectrum = torch.fft.rfft2(torch.randn(3, height, width, generator=generator)) / frequency
    spectrum[:, 0, 0] = 0
    picture = torch.fft.irfft2(spectrum, s=(height, width))
    return (picture / picture.std() * 0.15 + 0.5).clamp(0, 1)


def moving(frames: int = FRAMES, height: int = HEIGHT, width: int = WIDTH, *, step: int = 2, seed: int = 0) -> Tensor:
    """``[3, F, height, width]``: a texture that moves ``step`` pixels a frame."""
    wide = texture(height, width + step * frames, seed)
    return torch.stack([wide[:, :, step * number : step * number + width] for number in range(frames)], dim=1)


def write(path: Path, video: Tensor, *, fps: float = FPS, crf: int = 0) -> Path:
    """``[3, F, H, W]`` as a file."""
    with VideoWriter(path, fps, crf, overwrite=True, preset="ultrafast") as writer:
        writer.write(video)
    return path
