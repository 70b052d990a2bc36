"""How the page calls the numbers of ``flashvideo score``, and which way is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """A number of a video.

    Attributes:
        id: its name in ``Scores.to_dict()`` and in its series.
        label: its name on the page.
        better: 1 if more is better, -1 if less is, 0 if neither.
        digits: after the point.
        unit: "" for none.
        help: what it is, in a sentence.
    """

    id: str
    label: str
    better: int = 0
    digits: int = 3
    unit: str = ""
    help: str = ""


MEASURES = (
    Measure("sharpness", "Sharpness", 1, 3, "", "Detail in the finest octave, relative to coarser ones."),
    Measure("likeness", "Likeness", 1, 2, "dB", "How well the low band agrees with the source."),
    Measure("drift", "Drift", -1, 2, "levels of 255", "Departure of the colours from the beginning."),
    Measure("flicker", "Flicker", -1, 2, "levels of 255", "Frame-to-frame change that the source does not explain."),
    Measure("seam", "Seam", -1, 2, "levels of 255", "Standing steps along whole columns or rows."),
    Measure("pulse", "Pulse", -1, 4, "", "Periodic change in time, as a share of the mean."),
    Measure("colour", "Colour shift", -1, 2, "levels of 255", "Mean colour against the source's."),
    Measure("change", "Change", 0, 2, "levels of 255", "Mean difference to the frame before."),
    Measure("psnr", "PSNR", 1, 2, "dB", "Against the true video."),
    Measure("ssim", "SSIM", 1, 4, "", "Against the true video."),
    Measure("lpips", "LPIPS", -1, 4, "", "Learned distance to the true video."),
    Measure("dists", "DISTS", -1, 4, "", "Learned distance to the true video."),
    Measure("piqe", "PIQE", -1, 2, "", "Without a reference."),
    Measure("niqe", "NIQE", -1, 3, "", "Without a reference."),
    Measure("musiq", "MUSIQ", 1, 2, "", "Learned, without a reference."),
    Measure("maniqa", "MANIQA", 1, 4, "", "Learned, without a reference."),
    Measure("clipiqa", "CLIP-IQA", 1, 4, "", "Learned, without a reference."),
    Measure("dover", "DOVER", 1, 3, "", "Learned, without a reference."),
    Measure("fastervqa", "FasterVQA", 1, 3, "", "Learned, without a reference."),
)


def measures_of(scores: Iterable[Mapping[str, Any]]) -> list[Measure]:
    """All known measures, and those of other names that the scores hold."""
    known = {measure.id for measure in MEASURES}
    numbers = {name for each in scores for name, value in each.items() if isinstance(value, (int, float))}
    return [*MEASURES, *(Measure(name, name) for name in sorted(numbers - known))]
