"""All scores of a video, in one pass over its frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from .borders import Border, BorderMeasure
from .detail import Detail, DetailMeasure
from .flicker import Flicker, FlickerMeasure
from .frames import Frames
from .learned import Learned, LearnedMeasure, load_learned
from .likeness import Likeness, LikenessMeasure
from .paper import CAUTION, rows_for
from .periods import Pulse, PulseMeasure
from .piqe import PiqeMeasure
from .reference import Reference, ReferenceMeasure
from .series import binned
from .shown import Footage

Progress = Callable[[str, int, int], None]
SERIES = ("seconds", "sharpness", "likeness", "colour", "flicker", "change", "psnr", "ssim")


@dataclass(frozen=True)
class Scores:
    """What :func:`score_video` found; see ``docs/scores.md`` for what each number means.

    Attributes:
        frames: that were scored.
        size: (height, width).
        detail, likeness, flicker: measures; their fields say what they are.
        border: the highest standing step, None without one.
        pulse: the strongest periodic change, None without one.
        piqe: None where no frame has anything in it.
        reference: None without a true video.
        series: numbers over time, at most 2000 of each: means of as many neighbouring frames as that takes.
        remarks: what was aligned or left out, in sentences.
        learned: numbers of learned measures by their ids; None of one that failed.
    """

    frames: int
    size: tuple[int, int]
    detail: Detail
    likeness: Likeness
    flicker: Flicker
    border: Border | None
    pulse: Pulse | None
    piqe: float | None
    reference: Reference | None
    series: dict[str, list[float | None]] = field(repr=False)
    remarks: tuple[str, ...] = ()
    learned: Mapping[str, float | None] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """One flat object for JSON: the indices, then ``details``, ``series``, ``video`` and ``remarks``; ``paper`` too
        where measures that the paper uses were computed: its rows, and what to think of them.
        """
        indices: dict[str, Any] = {
            "sharpness": self.detail.sharpness,
            "likeness": self.likeness.likeness,
            "drift": self.likeness.drift,
            "flicker": self.flicker.flicker,
            "seam": self.border.levels if self.border else 0.0,
            "pulse": self.pulse.share if self.pulse else 0.0,
            "piqe": self.piqe,
        }
        if self.reference is not None:
            indices |= asdict(self.reference)
        indices |= self.learned
        details = {
            "bands": self.detail.bands,
            "colour_shift": self.likeness.colour_shift,
            "flicker": {"brightness": self.flicker.brightness, "boiling": self.flicker.boiling},
            "seam": asdict(self.border) if self.border else None,
            "pulse": asdict(self.pulse) if self.pulse else None,
        }
        video = {"frames": self.frames, "height": self.size[0], "width": self.size[1]}
        rows = rows_for({name for name, value in self.learned.items() if value is not None})
        return {
            **indices,
            "details": details,
            "series": self.series,
            "video": video,
            "remarks": list(self.remarks),
            **({"paper": {"caution": CAUTION, "rows": rows}} if rows else {}),
        }


def score_video(
    video: Footage,
    *,
    against: Footage | None = None,
    true: Footage | None = None,
    learned: Learned | Iterable[str] | str = (),
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Scores:
    """Score a video of any length, frame by frame; nothing but numbers is kept of a frame.

    Args:
        video: a path, a binary file, a part of one (:class:`~flashvideo.scores.shown.Part`), or pictures that no file
            holds (:class:`~flashvideo.scores.shown.Given`).
        against: the source that it was made from, of any size and rate: likeness, colours, flicker, seams and pulses
            are then what the video has beyond it.
        true: the video that it should equal, of the same size, frame by frame.
        learned: ids of learned measures, ``"auto"`` for all that are on this machine, or what
            :func:`~flashvideo.scores.learned.load_learned` gave. Nothing is downloaded.
        device: on which learned measures run.
        progress: called with (what, frames done, frames in all or 0).

    Raises:
        ValueError: files that are missing, damaged or no videos; sizes that cannot be held against each other; a
            learned measure that is asked for by its id and is not there.
    """
    detail, likeness, flicker = DetailMeasure(), LikenessMeasure(), FlickerMeasure()
    borders, pulse, reference = BorderMeasure(), PulseMeasure(), ReferenceMeasure()
    series: dict[str, list[float | None]] = {name: [] for name in SERIES}
    with Frames(video, against, true) as frames:
        if not isinstance(learned, Learned):
            learned = load_learned(learned, with_true=true is not None, device=device, progress=progress)
        piqe, others = PiqeMeasure(frames.total), LearnedMeasure(learned, frames.total)
        for frame in frames:
            sharp = detail.add(frame.luma)
            alike, colour = likeness.add(frame)
            borders.add(frame)
            piqe.add(frame)
            others.add(frame)
            now: dict[str, float | None] = {"seconds": frame.seconds, "sharpness": sharp, "likeness": alike}
            now |= {"colour": colour, "flicker": flicker.add(frame), "change": pulse.add(frame)}
            if frame.true is not None and frame.true_luma is not None:
                now["psnr"], now["ssim"] = reference.add(frame.video, frame.true, frame.luma, frame.true_luma)
            for name, values in series.items():
                values.append(now.get(name))
            if progress is not None:
                progress("Score", frame.index + 1, frames.total)
        size, found = frames.size, others.result()
        remarks = (*frames.remarks, *others.remarks)
    return Scores(
        len(series["seconds"]),
        size,
        detail.result(),
        likeness.result(),
        flicker.result(),
        borders.result(),
        pulse.result(),
        piqe.result(),
        reference.result(),
        {name: binned(values) for name, values in series.items() if any(v is not None for v in values)},
        remarks,
        found,
    )
