"""Colours and light of the preview, kept in the refined video.

Stage II repaints: beside the detail that it adds, large areas may shift a little in colour. The preview shows what was
wanted there, so its low frequencies can be put back, and everything finer stays as Stage II painted it.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..method.checks import check_finite_number
from ..tensors.checks import check_video
from ..tensors.sizes import SPATIAL_FACTOR
from .resize import RESIZE_MODES, resize_video, resized_size


def check_match_colors(coarseness: float) -> None:
    """Raise ValueError for a coarseness that means nothing."""
    check_finite_number("match colors", coarseness)
    if coarseness != 0 and not 1 <= coarseness <= 1024:
        raise ValueError(f"match colors is {coarseness}; expected 0 (off) or 1 to 1024 pixels of the small video.")


def cells_of_a_latent(source: tuple[int, int], target: tuple[int, int]) -> float:
    """A coarseness: cells of a latent's size in the result, in pixels of the source; docs/fidelity.md has what was
    measured.

    Args:
        source, target: (height, width) in pixels, before and after.
    """
    across = min(small * SPATIAL_FACTOR / large for small, large in zip(source, target, strict=True))
    return float(min(1024, max(1, round(across))))


_ROUNDS = 8  # of replacing exactly: what is clipped to 0..1 has to be made up for around it
_EXACT = 1e-4  # of 1: a fortieth of a level


def match_colors(
    video: Tensor, small: Tensor, coarseness: float = 1.0, *, resize: str = "stretch", exact: bool = False
) -> Tensor:
    """Give a video the low frequencies of the small one that it was made from.

    Both are reduced to one grid; what differs there is stretched to full size, bilinear, and added. Stretched, it is
    weaker where it is finest, at the grid's limit, which suits sources whose finest detail is not to be trusted.

    Args:
        video: ``[B, 3, F, H, W]`` in 0..1.
        small: ``[B, 3, F, h, w]``, the same frames before they were enlarged.
        coarseness: side of the grid's cells in pixels of ``small``: 1 keeps all that it shows, 8 the colours of large
            areas only, 0 leaves the video as it is.
        resize: how ``small`` was brought to the video's shape, as in :func:`~flashvideo.video.resize.resize_video`.
        exact: make up for that, so that the result, reduced to the grid, is the small video there, but where no
            picture within 0..1 can be. What was measured speaks for it above a coarseness of 1 only (docs/fidelity.md).

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
        for _ in range(_ROUNDS if exact else 1):
            shift = wanted - resize_video(frame, *grid)
            if exact and float(shift.abs().max()) < _EXACT:
                break
            frame = _added(frame, shift, exact)
        matched[:, :, index : index + 1] = frame
    return matched


def _added(frame: Tensor, shift: Tensor, exact: bool) -> Tensor:
    """A frame ``[B, 3, 1, H, W]`` with a grid's shift, stretched, within 0..1."""
    height, width = frame.shape[3:]
    if exact:
        down, across = (_unweakened(*sides).to(shift) for sides in zip((height, width), shift.shape[3:], strict=True))
        shift = down @ shift @ across.T
    return (frame + resize_video(shift, height, width)).clamp_(0, 1)


@lru_cache(maxsize=8)
def _unweakened(side: int, cells: int) -> Tensor:
    """``[cells, cells]`` fp64: what a shift is given before it is stretched to ``side``, to be itself when reduced."""
    stretched = _resized(torch.eye(cells, dtype=torch.float64), side)
    return torch.linalg.inv(_resized(stretched, cells).T)


def _resized(rows: Tensor, length: int) -> Tensor:
    """``[n, k]`` -> ``[n, length]``, as :func:`~flashvideo.video.resize.resize_video` does along one side."""
    size = (rows.shape[0], length)
    return F.interpolate(rows[None, None], size, mode="bilinear", align_corners=False, antialias=True)[0, 0]
