"""Moving shapes: endless captioned clips, drawn by a seeded generator, for training and judging FlashVideo-Tiny."""

from .judge import Verdict, judge_clip, read_clip
from .render import low_resolution, render_clip, render_low_clip
from .scenes import Scene, Shape, sample_scene

__all__ = [
    "Scene",
    "Shape",
    "Verdict",
    "judge_clip",
    "low_resolution",
    "read_clip",
    "render_clip",
    "render_low_clip",
    "sample_scene",
]
