"""Naming what a found shape is: its colour, its form and size, the way it moves, its texture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .render import PERIOD, distance, mean_colour
from .scenes import COLOURS, FORMS
from .segmentation import ROWS, Track

FINE = ROWS * 2  # rows of the grid on which outlines are compared
_HALF = 32  # cells from the middle to the edge of an outline's square: a third of the frame's height
_RADII = torch.logspace(math.log10(0.105), math.log10(0.285), 26)
_BLURS = (1.7, 3.2, 4.6)  # in cells: what the small camera leaves, and the edges of soft and of softer clips
_SHIFT = 2  # cells in which the best place of a template is sought
_SMALL_BELOW = math.sqrt(0.165 * 0.22)  # between the largest small and the smallest large radius
_MIN_FIT = 0.85  # true shapes have 0.99, soft or noisy ones 0.93, halves and specks less than 0.84
_STILL_BELOW = 0.075  # half of the shortest true way, in frame heights over the whole clip
_SLANTED_ABOVE = 0.5  # of the ways along both axes: 27 degrees
_FEWEST = 5  # frames that show motion
_COARSEST = 6.0  # pixels that a texture's period must have to be seen
_WINDOW = 0.75  # standard deviation, in periods, of the window in which a texture is looked for
_CONTRAST = 0.028  # of the texture's waves to the mean brightness, from which on it is one; true ones have 0.15
_TEXTURED_FRAMES = 6  # of a track that textures are read in, or a few more
_SECOND = 0.25  # of the stronger wave's energy, from which on the weaker counts


def inside_colour(track: Track, small: Tensor, share: Tensor) -> Tensor:
    """``[3]`` mean colour of a track where it covers most: the better half of its pixels, none of its soft edges.

    Args:
        track: whose.
        small: ``[3, F, h, w]`` the clip.
        share: ``[6, F, h, w]`` its mattes.
    """
    cores = []
    for patch in track.patches:
        matte = share[patch.colour, patch.frame][patch.inside]
        cores.append(small[:, patch.frame][:, patch.inside][:, matte >= matte.median()])
    return torch.cat(cores, dim=1).mean(dim=1)


def colour_name(seen: Tensor) -> str:
    """Nearest colour of the palette to ``[3]``, whatever its brightness."""
    palette = torch.stack([mean_colour(name) for name in COLOURS])
    brightness = (palette @ seen / palette.square().sum(dim=1)).clamp(0.7, 1.35)
    return COLOURS[int((palette * brightness[:, None] - seen).square().sum(dim=1).argmin())]


def shows_motion(frames: int) -> bool:
    """Whether a clip of this many frames can show motion."""
    return frames >= _FEWEST


def motion_name(track: Track, frames: int) -> str | None:
    """Which way a track goes: a motion's name, "slanted" between two, None where too few frames tell.

    The speed is the median over all pairs of frames (Theil-Sen), so single misplaced frames do not count.
    """
    if not shows_motion(frames) or not shows_motion(len(track.patches)):
        return None
    time = torch.tensor([patch.frame for patch in track.patches], dtype=torch.float32)
    place = torch.tensor([[patch.x, patch.y] for patch in track.patches]) / ROWS
    first, second = torch.triu_indices(len(time), len(time), offset=1)
    speed = ((place[second] - place[first]) / (time[second] - time[first])[:, None]).median(dim=0).values
    x, y = (speed * (frames - 1)).tolist()
    if max(abs(x), abs(y)) < _STILL_BELOW:
        return "still"
    if min(abs(x), abs(y)) > _SLANTED_ABOVE * max(abs(x), abs(y)):
        return "slanted"
    if abs(x) > abs(y):
        return "right" if x > 0 else "left"
    return "down" if y > 0 else "up"


def aligned_outline(track: Track, away: Tensor, colour: Tensor, taken: Tensor) -> Tensor:
    """A track's matte, moved to its centre in every frame, and averaged.

    Args:
        track: whose.
        away: ``[3, F, h, w]`` the clip less its backdrop.
        colour: ``[3, h, w]`` the track's colour less the backdrop. It is the clip's own colour and not the palette's,
            so that a pale shape does not look thin.
        taken: ``[F, h, w]`` pixels that belong to any track.

    Returns:
        ``[65, 65]`` in cells of 1/96 frame height, 0..1, full inside.
    """
    height, width = away.shape[2:]
    offsets = torch.arange(-_HALF, _HALF + 1) * (ROWS / FINE)
    strength = colour.square().sum(dim=0).clamp(min=1e-4)
    mattes, grids = [], []
    for patch in track.patches:
        others = taken[patch.frame] & ~patch.inside
        mattes.append(((away[:, patch.frame] * colour).sum(dim=0) / strength * ~others).clamp(0, 1))
        x, y = (patch.x + offsets) / width * 2 - 1, (patch.y + offsets) / height * 2 - 1
        grids.append(torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1))
    moved = F.grid_sample(torch.stack(mattes)[:, None], torch.stack(grids), align_corners=False)
    return moved.mean(dim=(0, 1))


@dataclass(frozen=True)
class Outline:
    """The template that fits best.

    Attributes:
        form: its name, or "unclear" where none fits.
        radius: in frame heights.
        fit: cosine of the angle between matte and template, 1 at best.
    """

    form: str
    radius: float
    fit: float

    @property
    def size(self) -> str:
        return "small" if self.radius < _SMALL_BELOW else "large"


def fit_outline(outline: Tensor) -> Outline:
    """Compare ``[65, 65]`` with every form, radius and softness, at small shifts."""
    span = outline.shape[0]
    padded = F.pad(outline, (_SHIFT,) * 4)
    shifts = padded.unfold(0, span, 1).unfold(1, span, 1).reshape(-1, span * span)
    shifts = shifts / shifts.norm(dim=1, keepdim=True).clamp(min=1e-6)
    fits = (_templates() @ shifts.T).amax(dim=1).reshape(len(FORMS), len(_BLURS), len(_RADII))
    best = int(fits.argmax())
    form, fit = FORMS[best // (len(_BLURS) * len(_RADII))], float(fits.max())
    return Outline(form if fit >= _MIN_FIT else "unclear", float(_RADII[best % len(_RADII)]), fit)


@cache
def _templates() -> Tensor:
    """``[5 * 3 * 26, 65 * 65]`` unit vectors: forms, softnesses, radii, each about its centre of gravity."""
    reach = torch.arange(-_HALF, _HALF + 1) / FINE
    drawn = []
    for form in FORMS:
        sink = 0.147 if form == "triangle" else 0.0  # its centre of gravity lies below the middle of its circle
        for blur in _BLURS:
            for radius in _RADII.tolist():
                x, y = reach[None] / radius, reach[:, None] / radius + sink
                cover = (0.5 - distance(form, *torch.broadcast_tensors(x, y)) * radius * FINE).clamp(0, 1)
                drawn.append(_blurred(cover, blur).flatten())
    bank = torch.stack(drawn)
    return bank / bank.norm(dim=1, keepdim=True)


def _blurred(picture: Tensor, sigma: float) -> Tensor:
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    band = torch.zeros(len(picture), len(picture) + 2 * reach)
    for row in range(len(picture)):
        band[row, row : row + 2 * reach + 1] = kernel / kernel.sum()
    band = band[:, reach:-reach]
    return band @ picture @ band.T


def shows_texture(height: int) -> bool:
    """Whether frames of this many rows can show a texture at all."""
    return height * PERIOD >= _COARSEST


def texture_name(track: Track, video: Tensor, outline: Tensor, colour: str) -> str:
    """Name the texture inside a shape from the energy of its waves.

    The strength of the waves along both axes and both diagonals is measured in small Gaussian windows inside the shape
    and averaged over places and frames, so neither their phase nor a slightly wrong period matters. One strong wave
    makes stripes, bars or bands; two, or one along the diagonal that no texture has, are "mixed".

    Args:
        track: where the shape is.
        video: ``[3, F, H, W]``, H a multiple of 48.
        outline: ``[65, 65]`` its aligned matte.
        colour: its name.
    """
    energy = _wave_energy(track, video, outline, colour)
    if float(energy.sum()) < _CONTRAST**2:
        return "plain"
    second, first = energy.sort().values[-2:]
    if second > _SECOND * first:
        return "mixed"
    return ("striped", "mixed", "barred", "banded")[int(energy.argmax())]


def _wave_energy(track: Track, video: Tensor, outline: Tensor, colour: str) -> Tensor:
    """``[4]`` squared amplitude over mean brightness of the waves along (1, 1), (1, -1), (1, 0), (0, 1)."""
    height, period = video.shape[2], PERIOD * video.shape[2]
    mask = F.interpolate(outline[None, None], scale_factor=height / FINE, mode="bilinear", align_corners=False)[0, 0]
    mask = ((mask - 0.75) * 4).clamp(0, 1)
    paint = _brightness_crops(track, video, colour, len(mask)) * mask
    position = torch.arange(len(mask), dtype=torch.float32)
    centres = torch.arange(0, len(mask), period / 2)
    window = torch.exp(-0.5 * ((position - centres[:, None]) / (_WINDOW * period)) ** 2)
    line = window * torch.exp(2j * math.pi * position / period)
    wave = window * torch.exp(2j * math.pi * position / (period * math.sqrt(2)))  # along an axis, of a diagonal wave
    cover = window @ mask @ window.T
    level = window @ paint @ window.T / cover.clamp(min=1e-6)
    weight = cover * (cover > 0.5 * cover.max())
    energies = []
    for down, along in ((wave, wave), (wave, wave.conj()), (window + 0j, line), (line, window + 0j)):
        moving = down @ (paint + 0j) @ along.T
        steady = down @ (mask + 0j) @ along.T
        amplitude = (moving - level * steady).abs() / (cover * level).clamp(min=1e-6)
        energies.append((amplitude**2 * weight).sum() / (weight.sum() * len(paint)))
    return torch.stack(energies)


def _brightness_crops(track: Track, video: Tensor, colour: str, span: int) -> Tensor:
    """``[n, span, span]`` brightness in units of the colour's mean, around the track's centre in some of its frames."""
    scale = video.shape[2] / ROWS
    mean = mean_colour(colour)
    rows, columns = torch.arange(span) - span // 2, torch.arange(span) - span // 2
    crops = []
    for patch in track.patches[:: max(1, len(track.patches) // _TEXTURED_FRAMES)]:
        y = (rows + round(patch.y * scale)).clamp(0, video.shape[2] - 1)
        x = (columns + round(patch.x * scale)).clamp(0, video.shape[3] - 1)
        crops.append(torch.einsum("chw,c->hw", video[:, patch.frame][:, y[:, None], x], mean / mean.square().sum()))
    return torch.stack(crops)
