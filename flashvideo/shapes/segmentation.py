"""Finding the shapes of a clip: its backdrop, the colour of every pixel, connected patches, patches followed over time.

Everything happens on a grid of 48 rows, the small camera's view, in which textures cannot be seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .render import low_resolution, mean_colour, render_clip
from .scenes import BACKGROUNDS, COLOURS, Scene

ROWS = 48
_FAR = 0.2  # colour distance beyond which a pixel is no backdrop, whichever way it is off
_COVERED = 0.4  # of a pixel, from which on it belongs to a shape
_SMALLEST = 20  # pixels of a patch; the smallest true shape has 54
_STEP = 6.0  # pixels that a shape's centre may jump between two frames; two shapes' centres are 14 apart or more
_SHARE = 0.4  # of the frames in which something must be seen to count as a shape


@dataclass(frozen=True)
class Patch:
    """A connected patch of one colour in one frame.

    Attributes:
        inside: ``[h, w]`` its pixels, bool.
        x, y: centre of gravity in pixels from the left and the top, edges half counted.
        area: in pixels, edges half counted.
    """

    frame: int
    colour: int
    inside: Tensor
    x: float
    y: float
    area: float


@dataclass(frozen=True)
class Track:
    """One shape over time: at most one patch a frame, in order."""

    patches: tuple[Patch, ...]


def small_view(video: Tensor) -> Tensor:
    """``[3, F, H, W]`` with H a multiple of 48 -> ``[3, F, 48, W']``, equal to ``low_resolution`` and much faster."""
    factor = video.shape[2] // ROWS
    return video if factor == 1 else low_resolution(video, factor)


@cache
def _backdrops(width: int) -> Tensor:
    """``[5, 3, 48, width]`` the empty backgrounds on the small grid, in the order of ``BACKGROUNDS``."""
    empty = [render_clip(Scene((), name, "", 0), ROWS * 4, width * 4, 1) for name in BACKGROUNDS]
    return torch.stack([low_resolution(clip, 4)[:, 0] for clip in empty])


def find_backdrop(small: Tensor) -> tuple[str, Tensor]:
    """Name the background of a clip.

    Args:
        small: ``[3, F, 48, w]``.

    Returns:
        The name of the background that is nearest in most pixels (distances are cut off, so shapes hardly count),
        and that background as drawn, shifted to the clip's own tone: ``[3, 48, w]``.
    """
    drawn = _backdrops(small.shape[3])
    middle = small.median(dim=1).values
    off = (middle[None] - drawn).square().sum(dim=1).sqrt()
    nearest = int(off.clamp(max=_FAR * 2).mean(dim=(1, 2)).argmin())
    seen = off[nearest] < _FAR
    if not seen.any():
        return BACKGROUNDS[nearest], drawn[nearest]
    tone = (middle - drawn[nearest])[:, seen].median(dim=1).values
    return BACKGROUNDS[nearest], drawn[nearest] + tone[:, None, None]


def colour_mattes(small: Tensor, backdrop: Tensor) -> tuple[Tensor, Tensor]:
    """Unmix every pixel into backdrop and each of the palette's colours.

    Args:
        small: ``[3, F, h, w]``.
        backdrop: ``[3, h, w]``.

    Returns:
        ``[6, F, h, w]`` the share of every colour that fits a pixel best, and ``[6, F, h, w]`` the squared error that
        it leaves, averaged over 3x3 pixels.
    """
    away = small - backdrop[:, None]
    palette = torch.stack([mean_colour(name) for name in COLOURS])
    towards = (palette[:, :, None, None] - backdrop)[:, :, None]
    length = towards.square().sum(dim=1)
    share = torch.einsum("cfhw,kcxhw->kfhw", away, towards) / length
    error = away.square().sum(dim=0) - share.clamp(0, 1.5).mul(2 * share - share.clamp(0, 1.5)) * length
    return share, F.avg_pool2d(error, 3, stride=1, padding=1, count_include_pad=False)


def find_patches(share: Tensor, error: Tensor) -> list[Patch]:
    """Connected patches of equal colour in every frame, in the order of frames; specks are left out."""
    colour = error.min(dim=0).indices
    covered = share.gather(0, colour[None])[0]
    kind = torch.where(covered > _COVERED, colour, -1).numpy()
    group = _connected(kind)
    patches = []
    for frame in range(kind.shape[0]):
        labels, pixels = np.unique(group[frame], return_counts=True)
        for label in labels[(pixels >= _SMALLEST) & (labels >= 0)]:
            inside = group[frame] == label
            patches.append(_patch(frame, int(kind[frame][inside][0]), torch.from_numpy(inside), share))
    return patches


def _patch(frame: int, colour: int, inside: Tensor, share: Tensor) -> Patch:
    matte = (share[colour, frame] * inside).clamp(0, 1)
    weight = (matte - _COVERED / 2).clamp(min=0)
    rows = (torch.arange(inside.shape[0]) + 0.5) @ weight.sum(dim=1) / weight.sum()
    columns = (torch.arange(inside.shape[1]) + 0.5) @ weight.sum(dim=0) / weight.sum()
    return Patch(frame, colour, inside, float(columns), float(rows), float(matte.sum()))


def _connected(kind: np.ndarray) -> np.ndarray:
    """``[F, h, w]`` number of the connected region (over edges, within a frame) of equal ``kind`` >= 0, else -1."""
    group = np.where(kind >= 0, np.arange(kind.size, dtype=np.int32).reshape(kind.shape), np.int32(-1))
    down = (kind[:, 1:] == kind[:, :-1]) & (kind[:, 1:] >= 0)
    across = (kind[:, :, 1:] == kind[:, :, :-1]) & (kind[:, :, 1:] >= 0)
    while True:
        before = group.copy()
        for joined, first, second in (
            (down, group[:, 1:], group[:, :-1]),
            (across, group[:, :, 1:], group[:, :, :-1]),
        ):
            np.maximum(first, second, out=first, where=joined)
            np.maximum(first, second, out=second, where=joined)
        if np.array_equal(before, group):
            return group


def follow(patches: list[Patch], frames: int) -> list[Track]:
    """Join patches to tracks by place, nearest first; what is seen in too few frames is dropped.

    A patch may change its colour on the way: two shapes' centres are never as near as one step.
    """
    tracks: list[list[Patch]] = []
    for frame in range(frames):
        here = [patch for patch in patches if patch.frame == frame]
        ways = sorted(
            (_distance(track[-1], patch), index, number)
            for index, track in enumerate(tracks)
            for number, patch in enumerate(here)
        )
        taken: set[int] = set()
        grown: set[int] = set()
        for way, index, number in ways:
            if way <= _STEP and index not in grown and number not in taken:
                tracks[index].append(here[number])
                grown.add(index)
                taken.add(number)
        tracks.extend([patch] for number, patch in enumerate(here) if number not in taken)
    return [Track(tuple(track)) for track in tracks if len(track) >= max(1.0, _SHARE * frames)]


def _distance(a: Patch, b: Patch) -> float:
    return float(np.hypot(a.x - b.x, a.y - b.y)) + (0.0 if a.colour == b.colour else _STEP / 3)
