"""Drawing scenes: anti-aliased shapes with textures that ride on them, over drawn backgrounds."""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .scenes import Scene, Shape

# sRGB 0..1. A texture alternates between its colour and a darker one; plain shapes have the mean of the two, so that
# nothing tells them apart once the texture is too fine to be seen.
_COLOURS = {
    "red": (0.95, 0.12, 0.10),
    "yellow": (0.98, 0.88, 0.10),
    "green": (0.10, 0.85, 0.22),
    "blue": (0.15, 0.35, 1.00),
    "pink": (1.00, 0.35, 0.80),
    "white": (0.97, 0.97, 0.97),
}
DARK = 0.5
PERIOD = 1 / 24  # of every texture's waves, in frame heights: 8 pixels of 192, two of 48
_STAR_INNER = 0.48


def colour_of(name: str) -> Tensor:
    """``[3]`` the bright colour of a name."""
    return torch.tensor(_COLOURS[name])


def mean_colour(name: str) -> Tensor:
    """``[3]`` the colour that a shape has where its texture cannot be seen."""
    return colour_of(name) * (1 + DARK) / 2


def render_clip(
    scene: Scene,
    height: int = 192,
    width: int = 320,
    frames: int = 17,
    *,
    window: tuple[int, int, int, int] | None = None,
    span: tuple[int, int] | None = None,
) -> Tensor:
    """Draw a scene.

    Args:
        scene: what to draw; its aspect ratio should be that of the frame.
        height, width, frames: of the whole clip.
        window: ``(top, left, height, width)`` of the part to draw, in pixels; default: all.
        span: first frame and number of frames to draw; default: all.

    Returns:
        ``[3, F, H, W]`` fp32 in 0..1.
    """
    top, left, rows, columns = window or (0, 0, height, width)
    first, number = span or (0, frames)
    y = (torch.arange(top, top + rows, dtype=torch.float32) + 0.5)[:, None] / height
    x = (torch.arange(left, left + columns, dtype=torch.float32) + 0.5)[None, :] / height
    video = _background(scene, y, x)[:, None].repeat(1, number, 1, 1)
    for index in range(number):
        progress = (first + index) / max(frames - 1, 1)
        for shape in scene.shapes:
            _draw(video[:, index], shape, progress, y, x, height)
    return video


def _draw(frame: Tensor, shape: Shape, progress: float, y: Tensor, x: Tensor, height: int) -> None:
    """Paint one shape into ``frame`` ``[3, H, W]``, touching only the square around it."""
    cx, cy = shape.centre(progress)
    reach = shape.radius + 2 / height
    rows, columns = _within(y[:, 0], cy, reach), _within(x[0], cx, reach)
    if rows is None or columns is None:
        return
    dy, dx = y[rows] - cy, x[:, columns] - cx
    coverage = (0.5 - distance(shape.form, dx / shape.radius, dy / shape.radius) * shape.radius * height).clamp(0, 1)
    paint = colour_of(shape.colour)[:, None, None] * _brightness(shape, dx, dy, height)
    part = frame[:, rows, columns]
    part.lerp_(paint, coverage.expand_as(part))


def _within(axis: Tensor, centre: float, reach: float) -> slice | None:
    inside = ((axis - centre).abs() <= reach).nonzero()
    return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else None


def distance(form: str, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance (near the outline, in radii) to a form of radius 1; ``x`` to the right, ``y`` down."""
    if form == "circle":
        return (x**2 + y**2).sqrt() - 1
    if form == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.86
    if form == "cross":
        across = torch.maximum(x.abs() - 0.95, y.abs() - 0.33)
        return torch.minimum(across, torch.maximum(x.abs() - 0.33, y.abs() - 0.95))
    if form == "triangle":
        slope = math.sqrt(3) / 2
        return torch.maximum(y - 0.72, slope * x.abs() - 0.5 * y - 0.5) * 0.95
    return _star(x, y)


def _star(x: Tensor, y: Tensor) -> Tensor:
    """Five points, one up: the angle is folded into one half of a point, which is bounded by a line."""
    sector = math.pi / 5
    angle = torch.remainder(torch.atan2(x, -y) + sector, 2 * sector) - sector
    radius = (x**2 + y**2).sqrt()
    px, py = radius * angle.abs().sin(), radius * angle.cos()
    inner_x, inner_y = _STAR_INNER * math.sin(sector), _STAR_INNER * math.cos(sector)
    edge_x, edge_y = inner_x, inner_y - 1.05
    return ((py - 1.05) * edge_x - px * edge_y) / math.hypot(edge_x, edge_y)


def _brightness(shape: Shape, dx: Tensor, dy: Tensor, height: int) -> Tensor:
    """``[H, W]`` factor 0.5..1 of the shape's colour."""
    level = texture_level(shape.texture, dx / PERIOD + shape.phase[0], dy / PERIOD + shape.phase[1], PERIOD * height)
    return DARK + (1 - DARK) * level


def texture_level(texture: str, u: Tensor, v: Tensor, sharpness: float) -> Tensor:
    """Pattern 0..1 at ``u``, ``v`` in periods; ``sharpness`` is pixels in a period. Its mean is one half."""

    def wave(t: Tensor) -> Tensor:  # -1..1, edges one pixel soft
        return (torch.sin(2 * math.pi * t) * sharpness / math.pi / 2).clamp(-1, 1)

    along = {"striped": (u + v) / math.sqrt(2), "barred": u, "banded": v}.get(texture)
    level = torch.full_like(u + v, 0.5) if along is None else (wave(along) + 1) / 2
    return level.expand(torch.broadcast_shapes(u.shape, v.shape))


def _background(scene: Scene, y: Tensor, x: Tensor) -> Tensor:
    """``[3, H, W]``: dark and muted, so that every shape stands out."""
    detail, top, bottom = _BACKDROPS[scene.background]
    mix = y.expand(-1, x.shape[1])
    base = torch.stack(
        [torch.lerp(torch.full_like(mix, a), torch.full_like(mix, b), mix) for a, b in zip(top, bottom, strict=True)]
    )
    return (base + detail(y, x)).clamp(0, 1)


def _stars(y: Tensor, x: Tensor) -> Tensor:
    spot_x, spot_y = torch.floor(x * 9), torch.floor(y * 9)
    hashed = torch.frac((torch.sin(spot_x * 12.9898 + spot_y * 78.233) * 43.7585).abs())
    du, dv = x * 9 - spot_x - 0.25 - hashed / 2, y * 9 - spot_y - 0.75 + hashed / 2
    return 0.3 * (hashed > 0.4) * torch.exp(-(du**2 + dv**2) * 60)


def _waves(y: Tensor, x: Tensor) -> Tensor:
    return 0.035 * torch.sin(2 * math.pi * (12 * y + 0.35 * torch.sin(2 * math.pi * 1.5 * x)))


def _grass(y: Tensor, x: Tensor) -> Tensor:
    return (
        0.035
        * torch.sin(2 * math.pi * (10 * x + 0.2 * torch.sin(2 * math.pi * 4 * y)))
        * torch.sin(2 * math.pi * 5 * y)
    )


def _dunes(y: Tensor, x: Tensor) -> Tensor:
    return 0.04 * torch.sin(2 * math.pi * (5 * y + 1.2 * x + 0.2 * torch.sin(2 * math.pi * 1.1 * x)))


def _bricks(y: Tensor, x: Tensor) -> Tensor:
    row = torch.floor(y * 8)
    along = torch.remainder(x * 4 + 0.5 * torch.remainder(row, 2), 1)
    joint = torch.minimum(torch.minimum(along, 1 - along) / 4, torch.minimum(y * 8 - row, 1 - y * 8 + row) / 8)
    return -0.12 * (1 - joint / 0.012).clamp(0, 1)


_BACKDROPS = {
    "night": (_stars, (0.02, 0.02, 0.09), (0.09, 0.08, 0.26)),
    "sea": (_waves, (0.04, 0.24, 0.34), (0.02, 0.38, 0.42)),
    "meadow": (_grass, (0.10, 0.24, 0.08), (0.18, 0.36, 0.12)),
    "desert": (_dunes, (0.46, 0.34, 0.20), (0.34, 0.24, 0.13)),
    "wall": (_bricks, (0.36, 0.36, 0.38), (0.30, 0.30, 0.32)),
}


def render_low_clip(scene: Scene, height: int = 48, width: int = 80, frames: int = 17) -> Tensor:
    """The small clip ``[3, F, height, width]`` of a scene: drawn at twice its size, which is all that it takes."""
    return low_resolution(render_clip(scene, 2 * height, 2 * width, frames), 2)


def low_resolution(video: Tensor, factor: int = 4) -> Tensor:
    """The clip as a small camera would see it: its textures are gone.

    Args:
        video: ``[3, F, H, W]``.
        factor: of both sides.

    Returns:
        ``[3, F, H / factor, W / factor]``: blurred by a Gaussian of 0.65 of the factor, then averaged.
    """
    rows, columns = _averaging(video.shape[2], factor).to(video), _averaging(video.shape[3], factor).to(video)
    return rows @ (video @ columns.T)


@cache
def _averaging(length: int, factor: int) -> Tensor:
    """``[length / factor, length]``: blur (the edge repeated) and average along one side, which are linear."""
    sigma = 0.65 * factor
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma) ** 2)
    impulses = F.pad(torch.eye(length, dtype=torch.float64)[:, None], (reach, reach), mode="replicate")
    blurred = F.conv1d(impulses, (kernel / kernel.sum())[None, None])
    return F.avg_pool1d(blurred, factor)[:, 0].T.float().contiguous()
