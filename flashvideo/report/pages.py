"""The refinement section's first clips as a page to look at: see :mod:`flashvideo.scores.page`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..scores.frames import MIN_SIDE
from ..scores.page import Entry, write_page
from ..scores.score import score_video
from ..video.files import write_video
from .bench import MIXED, Bench, true_clips
from .refinement import REFINED, plain_methods, refiner

FOLDER = "page"  # in the report's
_SHOWN = 4  # clips, one after the other
_SOURCE, _TRUE = "low resolution", "true"


def write_refinement_page(bench: Bench) -> Path:
    """Bilinear, Lanczos and refined clips in step, with what they were made from, what is true, and scores."""
    methods = [refiner(REFINED, bench.models, bench.settings.stage2), *plain_methods(bench)]
    shown: dict[str, list[Tensor]] = {}
    scenes = bench.scenes(MIXED, min(_SHOWN, bench.settings.clips))
    for batch in bench.batches(scenes, bench.settings.large_batch, "Page"):
        drawn = [true_clips(scene, bench.settings) for scene in batch]
        low = torch.stack([pair[1] for pair in drawn])
        videos = {method.name: list(method.enlarge(low, batch)) for method in methods}
        videos |= {_SOURCE: list(low), _TRUE: [pair[0] for pair in drawn]}
        for name, clips in videos.items():
            shown.setdefault(name, []).extend(clips)
    with tempfile.TemporaryDirectory(prefix="flashvideo-") as folder:
        files = {
            name: write_video(Path(folder) / f"{name}.mp4", torch.cat(clips, dim=1)[None])
            for name, clips in shown.items()
        }
        source, true = files.pop(_SOURCE), files.pop(_TRUE)

        def score(path: Path) -> dict[str, Any]:
            return score_video(path, against=source, true=true).to_dict()

        page, _ = write_page(
            bench.folder / FOLDER,
            [Entry(path) for path in files.values()],
            source=Entry(source),
            true=Entry(true),
            scores=score if min(shown[_SOURCE][0].shape[2:]) >= MIN_SIDE else None,
            overwrite=True,
        )
    return page
