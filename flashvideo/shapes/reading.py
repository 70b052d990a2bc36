"""Reading a clip: which shapes it shows over which background, by measuring its pixels.

Nothing here is trained, and nothing knows the caption or the model that made the clip; the palette, the five forms and
the textures' period are the generator's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tensors.checks import check_video
from .recognition import (
    aligned_outline,
    colour_name,
    fit_outline,
    inside_colour,
    motion_name,
    shows_motion,
    shows_texture,
    texture_name,
)
from .segmentation import ROWS, Track, colour_mattes, find_backdrop, find_patches, follow, small_view


@dataclass(frozen=True)
class FoundShape:
    """A shape as seen; names are those of ``scenes``.

    Attributes:
        colour: nearest of the palette.
        form: nearest form, or "unclear".
        motion: as in ``MOTIONS``, "slanted" when it goes neither along nor down, None when the clip is too short.
        size: "small" or "large".
        texture: "mixed" where it is none of the four, None where the frames are too small to show one.
        x, y: mean centre, in frame heights from the left and the top.
        area: in squared frame heights.
        fit: how well the outline fits the form, 0..1.
    """

    colour: str
    form: str
    motion: str | None
    size: str
    texture: str | None
    x: float
    y: float
    area: float
    fit: float


@dataclass(frozen=True)
class Reading:
    """What a clip shows: its background and its shapes, the largest first.

    Attributes:
        shows_motion: whether the clip is long enough to tell motion.
        shows_texture: whether its frames are large enough to tell textures.
    """

    background: str
    shapes: tuple[FoundShape, ...]
    shows_motion: bool
    shows_texture: bool


@torch.no_grad()
def read_clip(video: Tensor) -> Reading:
    """Read a clip.

    Args:
        video: ``[3, F, H, W]`` in 0..1, floating point; 48 rows or more are best.

    Returns:
        Background and shapes. What covers less than 20 of 48 x 80 pixels, or is seen in less than 40 % of the frames,
        is no shape. Textures are read from 144 rows on, motion from 5 frames on.

    Raises:
        ValueError: another shape or type, or values that are not finite.
    """
    check_video("the clip", video, "[3, F, H, W]")
    if not torch.isfinite(video).all():
        raise ValueError("the clip holds values that are not finite; expected 0..1.")
    large = _on_grid(video.detach().float().cpu().clamp(0, 1))
    small = small_view(large)
    background, backdrop = find_backdrop(small)
    share, error = colour_mattes(small, backdrop)
    tracks = follow(find_patches(share, error), small.shape[1])
    taken = torch.zeros(small.shape[1:], dtype=torch.bool)
    for track in tracks:
        for patch in track.patches:
            taken[patch.frame] |= patch.inside
    textured = shows_texture(video.shape[2])
    described = [_describe(track, small, backdrop, share, taken, large if textured else None) for track in tracks]
    shapes = tuple(sorted(described, key=lambda shape: -shape.area))
    return Reading(background, shapes, shows_motion(video.shape[1]), textured)


def _on_grid(video: Tensor) -> Tensor:
    """Resized, where needed, to whole multiples of the small grid."""
    height, width = video.shape[2:]
    factor = max(1, round(height / ROWS))
    rows, columns = ROWS * factor, max(1, round(width / height * ROWS)) * factor
    if (rows, columns) == (height, width):
        return video
    frames = video.transpose(0, 1)
    return F.interpolate(frames, (rows, columns), mode="bilinear", antialias=True).transpose(0, 1)


def _describe(
    track: Track, small: Tensor, backdrop: Tensor, share: Tensor, taken: Tensor, large: Tensor | None
) -> FoundShape:
    seen = inside_colour(track, small, share)
    colour = colour_name(seen)
    matte = aligned_outline(track, small - backdrop[:, None], seen[:, None, None] - backdrop, taken)
    outline = fit_outline(matte)
    number = len(track.patches)
    return FoundShape(
        colour=colour,
        form=outline.form,
        motion=motion_name(track, small.shape[1]),
        size=outline.size,
        texture=None if large is None else texture_name(track, large, matte, colour),
        x=sum(patch.x for patch in track.patches) / number / ROWS,
        y=sum(patch.y for patch in track.patches) / number / ROWS,
        area=sum(patch.area for patch in track.patches) / number / ROWS**2,
        fit=outline.fit,
    )
