"""Section ``refinement``: true clips in low resolution, refined, against plain enlargement."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..runs.settings import Stage2Settings
from ..scores.frames import MIN_SIDE
from ..scores.score import score_video
from ..scores.shown import given
from ..shapes.judge import Tally, judge_clip
from ..shapes.metrics import flicker_error, low_passed_psnr, psnr, spectrum_error
from ..shapes.scenes import Scene
from ..video.color_match import match_colors
from ..video.files import DEFAULT_FPS
from . import upsampling
from .bench import MIXED, Bench, captions_of, middle_frame, seeds_of, true_clips
from .models import Extra, VideoModels
from .results import (
    DECIBEL,
    Picture,
    Result,
    Row,
    Table,
    difference_row,
    mean_row,
    present,
    share_difference_row,
    share_row,
)

SECTION = "refinement"
REFINED, BILINEAR, LANCZOS, ROUND_TRIP = "refined", "bilinear", "Lanczos", "VAE round trip"
UNMATCHED = "refined, colours not matched"
SPECTRUM, TEXTURE, PSNR, LOW_PSNR, FLICKER = "spectrum error", "texture", "PSNR", "low-passed PSNR", "flicker error"
SCORES = {  # indices of flashvideo.scores -> units
    "sharpness": "",
    "likeness": DECIBEL,
    "drift": "levels",
    "flicker": "levels",
    "seam": "levels",
    "pulse": "of the mean",
}
_EQUAL = 100.0  # dB, given for clips that are equal
_SHOWN = 4


@dataclass(frozen=True)
class Method:
    """A way to high resolution: ``enlarge(low [B, 3, F, h, w], scenes) -> [B, 3, F, H, W]``."""

    name: str
    enlarge: Callable[[Tensor, Sequence[Scene]], Tensor]


@dataclass(frozen=True)
class Measured:
    """One method on one clip; see :mod:`flashvideo.shapes.metrics` and, of ``scores``, :mod:`flashvideo.scores`."""

    spectrum: float
    texture: Tally
    psnr: float
    low_psnr: float
    flicker: float
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """All methods on the same clips, and the middle frames of the first ones: low, methods, true."""

    measured: dict[str, list[Measured]]
    frames: tuple[Tensor, ...]

    def rows(self) -> tuple[Row, ...]:
        return tuple(row for name, clips in self.measured.items() for row in measured_rows(name, clips))

    def picture(self, bench: Bench, file: str) -> Picture:
        columns = ["low resolution", *self.measured, "true"]
        return bench.sheet(file, f"Columns: {', '.join(columns)}.", self.frames, len(columns))


def refinement_section(bench: Bench) -> Result:
    """Stage II against bilinear and Lanczos enlargement of the same low-resolution clips."""
    methods = [*plain_methods(bench), *_refiners(bench), round_trip(bench)]
    comparison = compare_methods(bench, "Refinement", methods, bench.settings.clips, scored=True)
    tables = [Table("Against the true clips", comparison.rows())]
    if scores := [row for name, clips in comparison.measured.items() for row in score_rows(name, clips)]:
        tables.append(Table("Scores against the low-resolution clips, as `flashvideo score` tells them", tuple(scores)))
    tables += [
        Table(f"Refined less {other}, clip by clip", difference_rows(comparison.measured, other))
        for other in (BILINEAR, LANCZOS)
    ]
    note = (
        "Spectrum and flicker errors: less is better. Low-passed PSNR compares what both clips would be in low "
        f"resolution. {ROUND_TRIP}: the true clips, encoded and decoded, which is the most that refining can reach. "
        f"Clips that are equal count as {_EQUAL:.0f} dB."
    )
    return Result(SECTION, tuple(tables), (note,), (comparison.picture(bench, "refinement.png"),))


def _refiners(bench: Bench) -> list[Method]:
    """Stage II; where colours are matched, what it was before that, too."""
    settings = bench.settings.stage2
    if not settings.match_colors:
        return [refiner(REFINED, bench.models, settings)]
    plain = refiner(UNMATCHED, bench.models, replace(settings, match_colors=0.0))
    last: list[tuple[Tensor, Tensor]] = []  # both methods share Stage II's work on a batch

    def unmatched(low: Tensor, scenes: Sequence[Scene]) -> Tensor:
        if not last or last[0][0] is not low:
            last[:] = [(low, plain.enlarge(low, scenes))]
        return last[0][1]

    def matched(low: Tensor, scenes: Sequence[Scene]) -> Tensor:
        return match_colors(unmatched(low, scenes), low, settings.match_colors, resize=settings.resize)

    return [Method(UNMATCHED, unmatched), Method(REFINED, matched)]


def plain_methods(bench: Bench, scale: int = 1) -> list[Method]:
    """Bilinear and Lanczos."""
    size = bench.settings.stage2.height * scale, bench.settings.stage2.width * scale
    return [
        Method(BILINEAR, lambda low, _: upsampling.bilinear(low, *size)),
        Method(LANCZOS, lambda low, _: upsampling.lanczos(low, *size)),
    ]


def round_trip(bench: Bench) -> Method:
    """The true clips through the VAE."""
    settings = bench.settings

    def encode_and_decode(_low: Tensor, scenes: Sequence[Scene]) -> Tensor:
        true = torch.stack([true_clips(scene, settings)[0] for scene in scenes])
        return bench.models.round_trip(true, seeds_of(scenes), settings.stage2)

    return Method(ROUND_TRIP, encode_and_decode)


def refiner(name: str, models: VideoModels, settings: Stage2Settings) -> Method:
    """Stage II with these settings."""
    return Method(name, lambda low, scenes: models.refine(low, captions_of(scenes), seeds_of(scenes), settings))


def refiner_of(extra: Extra, settings: Stage2Settings) -> Method:
    """Stage II of other weights, with the noise step that they were trained for and what a student was made for."""
    own = {} if extra.student is None else extra.student.sampling
    noise_step = settings.noise_step if extra.noise_step is None else extra.noise_step
    return refiner(extra.name, extra.models, replace(settings, **own, noise_step=noise_step))


def compare_methods(
    bench: Bench,
    what: str,
    methods: Sequence[Method],
    clips: int,
    scale: int = 1,
    frames: int | None = None,
    *,
    scored: bool = False,
) -> Comparison:
    """Every method on the same held-out clips.

    Args:
        what: for the progress.
        clips: how many.
        scale: of the sizes, see ``true_clips``.
        frames: of the clips, likewise.
        scored: whether each clip is scored against its low-resolution one too, where that is large enough.
    """
    measured: dict[str, list[Measured]] = {method.name: [] for method in methods}
    pictures: list[Tensor] = []
    size = max(1, bench.settings.large_batch // scale**2)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for batch in bench.batches(bench.scenes(MIXED, clips), size, what):
            drawn = [true_clips(scene, bench.settings, scale, frames) for scene in batch]
            low = torch.stack([pair[1] for pair in drawn])
            enlarged = {method.name: method.enlarge(low, batch) for method in methods}
            for index, (scene, (true, small)) in enumerate(zip(batch, drawn, strict=True)):
                ours = {name: videos[index] for name, videos in enlarged.items()}
                measuring = {
                    name: threads.submit(_measured, video, true, small, scene, bench.settings.factor, scored)
                    for name, video in ours.items()
                }
                for name, one in measuring.items():
                    measured[name].append(one.result())
                if len(pictures) < _SHOWN * (len(methods) + 2):
                    shown = (small, *ours.values(), true)
                    pictures += [middle_frame(clip, true.shape[2], true.shape[3]) for clip in shown]
    return Comparison(measured, tuple(pictures))


def _measured(video: Tensor, true: Tensor, low: Tensor, scene: Scene, factor: int, scored: bool) -> Measured:
    one = measure(video, true, scene, factor)
    return replace(one, scores=scores_of(video, low)) if scored else one


def measure(video: Tensor, true: Tensor, scene: Scene, factor: int) -> Measured:
    """``[3, F, H, W]`` against the true clip of the scene."""
    return Measured(
        spectrum=spectrum_error(video, true, factor),
        texture=judge_clip(video, scene).texture,
        psnr=min(psnr(video, true), _EQUAL),
        low_psnr=min(low_passed_psnr(video, true, factor), _EQUAL),
        flicker=flicker_error(video, true),
    )


def scores_of(video: Tensor, low: Tensor) -> dict[str, float]:
    """The indices of ``[3, F, H, W]`` against its low-resolution clip; none where that is too small to tell."""
    if min(low.shape[2:]) < MIN_SIDE:
        return {}
    told = score_video(given(video, DEFAULT_FPS), against=given(low, DEFAULT_FPS)).to_dict()
    return {name: told[name] for name in SCORES}


def score_rows(name: str, clips: Sequence[Measured]) -> list[Row]:
    """The scores of one method."""
    scored = [one.scores for one in clips if one.scores]
    return [mean_row(name, index, [one[index] for one in scored], unit) for index, unit in SCORES.items() if scored]


def measured_rows(name: str, clips: Sequence[Measured]) -> tuple[Row, ...]:
    """All measures of one method."""
    return present(
        (
            mean_row(name, SPECTRUM, [one.spectrum for one in clips], DECIBEL),
            share_row(name, TEXTURE, [one.texture for one in clips]),
            mean_row(name, PSNR, [one.psnr for one in clips], DECIBEL),
            mean_row(name, LOW_PSNR, [one.low_psnr for one in clips], DECIBEL),
            mean_row(name, FLICKER, [one.flicker for one in clips]),
        )
    )


def difference_rows(measured: dict[str, list[Measured]], other: str) -> tuple[Row, ...]:
    """Refined less another method."""
    ours, theirs, name = measured[REFINED], measured[other], f"{REFINED} - {other}"

    def difference(measure: str, field: str, unit: str = "") -> Row:
        first, second = ([getattr(one, field) for one in clips] for clips in (ours, theirs))
        return difference_row(name, measure, first, second, unit)

    return present(
        (
            difference(SPECTRUM, "spectrum", DECIBEL),
            share_difference_row(name, TEXTURE, [one.texture for one in ours], [one.texture for one in theirs]),
            difference(PSNR, "psnr", DECIBEL),
            difference(LOW_PSNR, "low_psnr", DECIBEL),
            difference(FLICKER, "flicker"),
        )
    )
