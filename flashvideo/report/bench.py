"""What every section of the report works with: models, settings, held-out scenes, a folder for pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..method.seeds import mixed_seed
from ..shapes.render import low_resolution, render_clip
from ..shapes.scenes import Scene, sample_scene
from ..video.files import write_image
from ..video.resize import contact_sheet
from .results import Picture
from .settings import ReportSettings

if TYPE_CHECKING:
    from .models import Extra, VideoModels

Progress = Callable[[str, int, int], None]  # (what is running, clips done, clips in all)
Clips = Sequence[tuple[Scene, Tensor]]  # scenes with a clip [3, F, h, w] each

ONE, MORE, MIXED = "one shape", "two or three shapes", "one to three shapes"
_GAP = 2  # pixels between the frames of a picture
_COUNTS = {ONE: (1,), MORE: (2, 3), MIXED: (1, 2, 1, 3)}


def no_progress(_what: str, _done: int, _total: int) -> None:
    pass


@dataclass(frozen=True)
class Bench:
    """Where the sections are measured.

    Attributes:
        folder: of the pictures.
        extras: other weights to compare with.
    """

    models: VideoModels
    settings: ReportSettings
    folder: Path
    extras: tuple[Extra, ...] = ()
    progress: Progress = no_progress

    def scenes(self, group: str, count: int) -> list[Scene]:
        """The first ``count`` held-out scenes of a group: ``ONE``, ``MORE`` or ``MIXED``."""
        return held_out_scenes(group, count, self.settings)

    def batches(self, scenes: Sequence[Scene], size: int, what: str) -> Iterator[list[Scene]]:
        """Scenes in batches, with progress."""
        for start in range(0, len(scenes), size):
            self.progress(what, start, len(scenes))
            yield list(scenes[start : start + size])
        self.progress(what, len(scenes), len(scenes))

    def sheet(self, file: str, caption: str, frames: Sequence[Tensor], columns: int) -> Picture:
        """Write frames ``[3, h, w]`` of equal size, row by row with white lines between them, as one picture."""
        framed = F.pad(torch.stack(list(frames), dim=1), (0, _GAP, 0, _GAP), value=1.0)
        picture = contact_sheet(framed, columns)[:, :-_GAP, :-_GAP]
        write_image(self.folder / file, picture, overwrite=True)
        return Picture(file, caption)


def held_out_scenes(group: str, count: int, settings: ReportSettings) -> list[Scene]:
    """Scenes whose every combination of colour, form and motion is kept from training.

    Args:
        group: ``ONE``, ``MORE`` or ``MIXED``: shapes in a scene.
        count: the first so many; the same ones for every count.
    """
    counts, aspect = _COUNTS[group], settings.stage1.width / settings.stage1.height
    return [
        sample_scene(
            mixed_seed(settings.seed, "report", group, index),
            count=counts[index % len(counts)],
            held_out=True,
            aspect=aspect,
        )
        for index in range(count)
    ]


def true_clips(
    scene: Scene, settings: ReportSettings, scale: int = 1, frames: int | None = None
) -> tuple[Tensor, Tensor]:
    """A scene in high and in low resolution, ``[3, F, H, W]`` and ``[3, F, h, w]``.

    Args:
        scale: of both, in each direction: 2 draws the scene at twice the trained size.
        frames: so many from the middle of the clip; default: all.
    """
    height, width = settings.stage2.height * scale, settings.stage2.width * scale
    whole = settings.stage1.num_frames
    frames = frames or whole
    high = render_clip(scene, height, width, whole, span=((whole - frames) // 2, frames))
    return high, low_resolution(high, settings.factor)


def captions_of(scenes: Sequence[Scene]) -> list[str]:
    return [scene.caption for scene in scenes]


def seeds_of(scenes: Sequence[Scene]) -> list[int]:
    return [scene.seed for scene in scenes]


def middle_frame(clip: Tensor, height: int, width: int) -> Tensor:
    """``[3, F, h, w]`` -> ``[3, height, width]``; a smaller clip's pixels are repeated, so that one sees them."""
    frame = clip[:, clip.shape[1] // 2][None]
    return F.interpolate(frame, (height, width), mode="nearest")[0]
