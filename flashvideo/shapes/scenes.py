"""What a clip shows, and the caption that says it.

One to three shapes, each with a size, a texture, a colour, a form and a motion, over a background. The same seed gives
the same scene on every machine. Some combinations of colour, form and motion never occur in training: with them one
sees whether a model has learned the words or only the clips.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from functools import cache

COLOURS = ("red", "yellow", "green", "blue", "pink", "white")
FORMS = ("circle", "square", "triangle", "star", "cross")
TEXTURES = ("plain", "striped", "barred", "banded")  # stripes along a diagonal, upright, level
SIZES = ("small", "large")
BACKGROUNDS = ("night", "sea", "meadow", "desert", "wall")

# motion -> direction (x to the right, y down) and ways to say it
MOTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
_MOTION_WORDS = {
    "left": ("moves left", "drifts left", "glides left"),
    "right": ("moves right", "drifts right", "glides right"),
    "up": ("moves up", "floats up", "rises"),
    "down": ("moves down", "falls down", "sinks"),
    "still": ("stands still", "stays still", "rests"),
}
_BACKGROUND_WORDS = {
    "night": ("at night", "in the night"),
    "sea": ("over the sea", "above the sea"),
    "meadow": ("over a meadow", "above the meadow"),
    "desert": ("over the desert", "in the desert"),
    "wall": ("before a wall", "before the wall"),
}

# Fractions of the frame's height. Shapes stand on a lattice of two rows and four columns, and textures begin in their
# middles: a small model then learns the words, not how every shape is drawn at every place between pixels.
LATTICE = 1 / 3
_RADII = {"small": 0.155, "large": 0.22}
_TRAVEL = 1 / 6  # over the whole clip: two pixels a frame in 192 rows
_GAP = 0.02
_MARGIN = 0.01  # between a shape and the frame's edge
_HELD_OUT_SHARE = 0.15
_PATIENCE, _HALVINGS = 25, 3  # after so many draws without room, the lattice is halved, at most so often
_ATTEMPTS = 3000


@dataclass(frozen=True)
class Shape:
    """One shape; lengths in frame heights, the centre is where it is in the middle of the clip.

    Attributes:
        phase: of its texture, two numbers 0..1.
        travel: way from the first to the last frame.
    """

    colour: str
    form: str
    texture: str
    size: str
    motion: str
    x: float
    y: float
    radius: float
    travel: float
    phase: tuple[float, float] = (0.0, 0.0)

    def centre(self, progress: float) -> tuple[float, float]:
        """Place at ``progress`` 0 (first frame) to 1 (last)."""
        dx, dy = MOTIONS[self.motion]
        way = self.travel * (progress - 0.5)
        return self.x + dx * way, self.y + dy * way

    @property
    def combination(self) -> tuple[str, str, str]:
        return self.colour, self.form, self.motion


@dataclass(frozen=True)
class Scene:
    """A clip's content: one to three shapes of different colours over a background."""

    shapes: tuple[Shape, ...]
    background: str
    caption: str
    seed: int

    @property
    def held_out(self) -> bool:
        """Whether a combination in it is kept from training."""
        return any(is_held_out(*shape.combination) for shape in self.shapes)


@cache
def is_held_out(colour: str, form: str, motion: str) -> bool:
    """Whether training never sees this combination."""
    digest = hashlib.sha256(f"{colour} {form} {motion}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < _HELD_OUT_SHARE * 2**32


def sample_scene(seed: int, *, count: int | None = None, held_out: bool | None = False, aspect: float = 5 / 3) -> Scene:
    """Draw a scene.

    Args:
        seed: any whole number.
        count: shapes, 1 to 3; None draws one half of the time, two or three in the other.
        held_out: False gives training scenes, True scenes in which every shape's combination is held out, None either.
        aspect: width over height of the frame.

    Raises:
        ValueError: a count out of range, or a frame that has no room for so many shapes.
    """
    if count not in (None, 1, 2, 3):
        raise ValueError(f"{count} shapes: expected 1, 2 or 3.")
    rng = random.Random(f"scene {seed}")
    number = count or rng.choice((1, 1, 2, 3))
    for attempt in range(_ATTEMPTS):
        shapes = _place_shapes(rng, number, held_out, aspect, LATTICE / 2 ** min(attempt // _PATIENCE, _HALVINGS))
        if shapes is not None:
            break
    else:
        raise ValueError(
            f"no room for {number} shapes in a frame {aspect:.3g} times as wide as high; take a wider one."
        )
    background = rng.choice(BACKGROUNDS)
    return Scene(shapes, background, _caption(rng, shapes, background), seed)


def _place_shapes(
    rng: random.Random, number: int, held_out: bool | None, aspect: float, lattice: float
) -> tuple[Shape, ...] | None:
    shapes: list[Shape] = []
    for colour in rng.sample(COLOURS, number):
        for _ in range(60):
            shape = _draw_shape(rng, colour, number, aspect, lattice)
            allowed = held_out is None or is_held_out(*shape.combination) == held_out
            if allowed and all(_apart(shape, other) for other in shapes):
                shapes.append(shape)
                break
        else:
            return None
    return tuple(shapes)


def _draw_shape(rng: random.Random, colour: str, number: int, aspect: float, lattice: float) -> Shape:
    form, texture, motion = rng.choice(FORMS), rng.choice(TEXTURES), rng.choice(tuple(MOTIONS))
    size = rng.choice(SIZES) if number < 3 else "small"
    radius = _RADII[size]
    x, y = (
        rng.choice(_places(length, radius + _MARGIN + abs(way) * _TRAVEL / 2, lattice))
        for length, way in zip((aspect, 1.0), MOTIONS[motion], strict=True)
    )
    return Shape(colour, form, texture, size, motion, x, y, radius, _TRAVEL)


def _places(length: float, margin: float, lattice: float) -> list[float]:
    """Lattice points on an axis that are far enough from both ends; the middle where there is none."""
    points = [lattice * number for number in range(int(length / lattice) + 1)]
    return [point for point in points if margin <= point <= length - margin] or [length / 2]


def _apart(a: Shape, b: Shape) -> bool:
    """Whether two shapes never touch: both move along lines, so the squares around them are compared often enough."""
    distance = a.radius + b.radius + _GAP
    for step in range(9):
        (ax, ay), (bx, by) = a.centre(step / 8), b.centre(step / 8)
        if max(abs(ax - bx), abs(ay - by)) < distance:
            return False
    return True


def _caption(rng: random.Random, shapes: tuple[Shape, ...], background: str) -> str:
    parts = [
        f"a {shape.size} {shape.texture} {shape.colour} {shape.form} {rng.choice(_MOTION_WORDS[shape.motion])}"
        for shape in shapes
    ]
    return f"{' and '.join(parts)} {rng.choice(_BACKGROUND_WORDS[background])}"


def vocabulary() -> list[str]:
    """Every word that captions use, sorted."""
    phrases = [phrase for words in (_MOTION_WORDS, _BACKGROUND_WORDS) for group in words.values() for phrase in group]
    names = [*COLOURS, *FORMS, *TEXTURES, *SIZES, "a", "and"]
    return sorted({word for phrase in [*phrases, *names] for word in phrase.split()})
