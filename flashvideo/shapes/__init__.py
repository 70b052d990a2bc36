"""Moving shapes: endless captioned clips, drawn by a seeded generator, for training and judging FlashVideo-Tiny."""

from .render import render_clip
from .scenes import Scene, Shape, sample_scene

__all__ = ["Scene", "Shape", "render_clip", "sample_scene"]
