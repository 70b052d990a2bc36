"""Colours and light of the preview, kept in the refined video.

Stage II repaints: beside the detail that it adds, large areas may shift a little in colour. The preview shows what was
wanted there, so its low frequencies can be put back, and everything finer stays as Stage II painted it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method.checks import check_finite_number
from ..tensors.checks import check_video
from .resize import RESIZE_MODES, resize_video, resized_size


def check_match_colors(coarseness: float) -> None:
    """Raise ValueError for a coarseness that means nothing."""
    check_finite_number("match colors", coarseness)
    if coarseness != 0 and not 1 <= coarseness <= 1024:
        raise ValueError(f"match colors is {coarseness}; expected 0 (off) or 1 to 1024 pixels of the small video.")


def match_colors(video: Tensor, small: Tensor, coarseness: float = 1.0, *, resize: str = "stretch") -> Tensor:
    """Give a video the low frequencies of the small one that it was made from.

    Both are reduced to one grid; what differs there is stretched to full size, bilinear, and added.

    Args:
        video: ``[B, 3, F, H, W]`` in 0..1.
        small: ``[B, 3, F, h, w]``, the same frames before they were enlarged.
        coarseness: side of the grid's cells in pixels of ``small``: 1 keeps all that it shows, 8 the colours of large
            areas only, 0 leaves the video as it is.
        resize: how ``small`` was brought to the video's shape, as in :func:`~flashvideo.video.resize.resize_video`.

    Returns:
        ``[B, 3, F, H, W]`` fp32 in 0..1, on the video's device.

    Raises:
        ValueError: other shapes, different numbers of videos or frames, an unknown mode, a coarseness below 1.
    """
    check_match_colors(coarseness)
    check_video("video", video)
    check_video("small", small)
    if video.shape[0] != small.shape[0] or video.shape[2] != small.shape[2]:
        raise ValueError(
            f"video has shape {list(video.shape)}, small {list(small.shape)}; expected as many videos and frames in "
            "both."
        )
    if resize not in RESIZE_MODES:
        raise ValueError(f"resize mode {resize!r}; expected one of {', '.join(RESIZE_MODES)}.")
    if coarseness == 0:
        return video.float()
    height, width = video.shape[3:]
    whole = resized_size(small.shape[3], small.shape[4], height, width, resize)
    cell = [coarseness * side / before for side, before in zip(whole, small.shape[3:], strict=True)]
    grid = [max(1, round(side / one)) for side, one in zip((height, width), cell, strict=True)]
    matched = torch.empty(video.shape, dtype=torch.float32, device=video.device)
    for index in range(video.shape[2]):
        frame = video[:, :, index : index + 1].float()
        wanted = resize_video(small[:, :, index : index + 1].to(video.device), *grid, mode=resize)
        shift = wanted - resize_video(frame, *grid)
        matched[:, :, index : index + 1] = (frame + resize_video(shift, height, width)).clamp_(0, 1)
    return matched
