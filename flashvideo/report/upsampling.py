"""What a refinement has to beat: plain enlargement."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tensors.checks import check_video
from ..video.resize import resize_video

LOBES = 3


def bilinear(video: Tensor, height: int, width: int) -> Tensor:
    """``[B, 3, F, h, w]`` in 0..1 -> ``[B, 3, F, height, width]``."""
    return resize_video(video, height, width)


def lanczos(video: Tensor, height: int, width: int) -> Tensor:
    """Lanczos enlargement (windowed sinc, three lobes) of every frame.

    Args:
        video: ``[B, 3, F, h, w]`` in 0..1.

    Returns:
        ``[B, 3, F, height, width]`` fp32, cut off at 0 and 1, which the filter oversteps at edges.

    Raises:
        ValueError: another shape, or a size below the video's.
    """
    check_video("video", video)
    if height < video.shape[3] or width < video.shape[4]:
        raise ValueError(f"{height}x{width} is smaller than {video.shape[3]}x{video.shape[4]}; only enlarging works.")
    down, across = _weights(video.shape[3], height).to(video.device), _weights(video.shape[4], width).to(video.device)
    return (down @ (video.float() @ across.T)).clamp(0, 1)


def _weights(before: int, after: int) -> Tensor:
    """``[after, before]``: ``sinc(d) sinc(d / 3)`` for distances d < 3 between pixel centres, every row's sum one."""
    centres = (torch.arange(after, dtype=torch.float64) + 0.5) * before / after - 0.5
    distance = centres[:, None] - torch.arange(before, dtype=torch.float64)
    weights = torch.sinc(distance) * torch.sinc(distance / LOBES) * (distance.abs() < LOBES)
    return (weights / weights.sum(dim=1, keepdim=True)).float()
