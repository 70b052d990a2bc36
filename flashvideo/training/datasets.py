"""The data of a training run, as its configuration describes it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from ..method.checks import check_size
from ..method.pixel_degradation import PixelDegradation
from ..runs.settings import Stage1Settings
from ..tensors.sizes import latent_frames
from .media import Framing
from .sources import ClipSource, FolderClips, ShapesClips, WebDatasetClips


@dataclass(frozen=True)
class DatasetSettings:
    """Clips, and what is kept of them.

    Attributes:
        source: ``folder`` of videos and images, ``webdataset`` shards, or drawn ``shapes``.
        path: of the folder or the shards (``clips-{000..003}.tar``, a file, or a folder of them).
        height, width, frames: of every clip; multiples of 16, and 4n + 1.
        fps, fit, position, start: which part of a file is taken, see :class:`~flashvideo.training.media.Framing`.
        captions: ``required`` leaves clips without one out; ``optional`` trains them as clips without a prompt.
        caption_prefix: put before every caption.
        seed: of random parts, of DEG_pixel, and the first of the drawn scenes.
        count, held_out, low, several: of drawn scenes, see :class:`~flashvideo.training.sources.ShapesClips`.
        degraded_copies: draws of DEG_pixel of each clip that are kept; Stage II needs one at least.
        degradation: what they are drawn from.
        cache: folder of the encoded clips.
        precision: of what is kept.
        keep_std: keep the posterior's deviation beside its mean, so that training can draw from it.
    """

    source: Literal["folder", "webdataset", "shapes"] = "folder"
    path: str = ""
    height: int = Stage1Settings.height
    width: int = Stage1Settings.width
    frames: int = Stage1Settings.num_frames
    fps: float | None = None
    fit: Literal["crop", "patch"] = "crop"
    position: Literal["centre", "random"] = "centre"
    start: Literal["first", "random"] = "first"
    captions: Literal["required", "optional"] = "required"
    caption_prefix: str = ""
    seed: int = 0
    count: int = 1000
    held_out: bool = False
    low: bool = False
    several: bool = False
    degraded_copies: int = 0
    degradation: PixelDegradation = field(default_factory=PixelDegradation)
    cache: str = ""
    precision: Literal["fp16", "bf16", "fp32"] = "fp16"
    keep_std: bool = True

    def check_clips(self, where: str = "data") -> None:
        """Raise ValueError for settings that cannot be met."""
        try:
            check_size(self.height, self.width)
            latent_frames(self.frames)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if self.source != "shapes" and not self.path:
            raise ValueError(f"{where}.path is missing; expected the folder or the shards of the {self.source}.")
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"{where}.fps is {self.fps}; expected frames per second, or leave it out for all frames.")
        if self.source == "shapes" and self.count < 1:
            raise ValueError(f"{where}.count is {self.count}; expected at least one clip.")
        if self.degraded_copies < 0:
            raise ValueError(f"{where}.degraded_copies is {self.degraded_copies}; expected zero or more.")
        self.degradation.check(f"{where}.degradation")

    def check(self, where: str = "data") -> None:
        """Raise ValueError for settings that cannot be met, and without a place for the cache."""
        self.check_clips(where)
        if not self.cache:
            raise ValueError(f"{where}.cache is missing; expected a folder for the encoded clips.")

    def framing(self) -> Framing:
        """Which part of each file is taken."""
        return Framing(self.height, self.width, self.frames, self.fps, self.fit, self.position, self.start)


def open_source(settings: DatasetSettings) -> ClipSource:
    """The clips that settings describe.

    Raises:
        ValueError: settings that cannot be met, or a place where there is nothing to train on.
    """
    settings.check_clips()
    if settings.source == "shapes":
        return ShapesClips(
            settings.framing(),
            count=settings.count,
            seed=settings.seed,
            held_out=settings.held_out,
            low=settings.low,
            several=settings.several,
        )
    kind = FolderClips if settings.source == "folder" else WebDatasetClips
    need = settings.captions == "required"
    return kind(settings.path, settings.framing(), seed=settings.seed, need_captions=need)
