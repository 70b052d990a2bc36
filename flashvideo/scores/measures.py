"""What the numbers of ``flashvideo score`` are called and mean, which way is better, and how they are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_LEVELS = "levels of 255"


@dataclass(frozen=True)
class Measure:
    """A number of a video.

    Attributes:
        id: its name in ``Scores.to_dict()`` and in its series.
        label: its name in writing.
        better: 1 if more is better, -1 if less is, 0 if neither.
        digits: after the point.
        unit: "" for none.
        help: what it is.
    """

    id: str
    label: str
    better: int = 0
    digits: int = 3
    unit: str = ""
    help: str = ""


MEASURES = (
    Measure(
        "sharpness",
        "Sharpness",
        1,
        3,
        "",
        "Finest detail by coarser detail: 0 is an enlargement, sharp footage 0.2 to 1. Noise counts too.",
    ),
    Measure(
        "likeness",
        "Likeness",
        1,
        2,
        "dB",
        "To the source, in dB, of what the source can show; above 40 hardly told apart. Needs the source.",
    ),
    Measure("drift", "Drift", -1, 2, _LEVELS, "Levels of 255 by which colours leave their beginning; 0 is none."),
    Measure(
        "flicker",
        "Flicker",
        -1,
        2,
        _LEVELS,
        "Levels of 255 of change that neither source nor motion explains; 0 is none.",
    ),
    Measure(
        "seam", "Seam", -1, 2, _LEVELS, "Levels of 255 of steps that stand along whole rows or columns; 0 is none."
    ),
    Measure("pulse", "Pulse", -1, 4, "", "Share of the mean that comes and goes in an even beat; 0 is none."),
    Measure("colour", "Colour shift", -1, 2, _LEVELS, "Mean colour against the source's."),
    Measure("change", "Change", 0, 2, _LEVELS, "Mean difference to the frame before."),
    Measure("psnr", "PSNR", 1, 2, "dB", "To the true video, pixel by pixel; more is closer."),
    Measure("ssim", "SSIM", 1, 4, "", "To the true video, of its structure; 1 is equal."),
    Measure("lpips", "LPIPS", -1, 4, "", "Learned distance to the true video; 0 is equal."),
    Measure("dists", "DISTS", -1, 4, "", "Learned distance to the true video; 0 is equal."),
    Measure("piqe", "PIQE", -1, 1, "", "Of noise and flattened blocks, without a reference: 0 is best, 100 worst."),
    Measure("niqe", "NIQE", -1, 3, "", "Distance from the statistics of natural pictures, without a reference."),
    Measure("musiq", "MUSIQ", 1, 2, "", "Learned, without a reference, 0 to 100."),
    Measure("maniqa", "MANIQA", 1, 3, "", "Learned, without a reference, 0 to 1."),
    Measure("clipiqa", "CLIP-IQA", 1, 3, "", "Learned, without a reference, 0 to 1."),
    Measure("dover_technical", "DOVER technical", 1, 2, "%", "Learned, of compression, noise and blur, 0 to 100."),
    Measure("dover_aesthetic", "DOVER aesthetic", 1, 2, "%", "Learned, of content and composition, 0 to 100."),
    Measure("fastervqa", "FasterVQA", 1, 3, "", "Learned, of the whole video, 0 to 1."),
)
BY_ID = {measure.id: measure for measure in MEASURES}


def measures_of(scores: Iterable[Mapping[str, Any]]) -> list[Measure]:
    """All known measures, and those of other names that the scores hold."""
    numbers = {name for each in scores for name, value in each.items() if isinstance(value, (int, float))}
    return [*MEASURES, *(Measure(name, name) for name in sorted(numbers - BY_ID.keys()))]
