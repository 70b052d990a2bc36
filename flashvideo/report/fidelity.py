"""Section ``fidelity``: does a clip show what its caption says? Stage I, then Stage II on the same clips."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checkpoints.metadata import STAGES
from ..shapes.judge import Verdict, judge_clip
from ..shapes.scenes import Scene
from .bench import MORE, ONE, Bench, captions_of, middle_frame, seeds_of
from .models import VideoModels
from .results import Result, Row, Table, attribute_rows, mean_row

SECTION = "fidelity"
STAGE1, STAGE2 = STAGES.values()
PROMPT = "colour, form, background, motion"
PROMPT_ATTRIBUTES = ("colour", "form", "background", "motion")
TEXTURE = "texture"
_SHOWN = 6


def fidelity_section(bench: Bench) -> Result:
    """Held-out captions to clips, judged at both resolutions."""
    rows: list[Row] = []
    pictures = []
    for group in (ONE, MORE):
        first: list[Verdict] = []
        second: list[Verdict] = []
        frames: list[Tensor] = []
        scenes = bench.scenes(group, bench.settings.clips)
        for batch in bench.batches(scenes, bench.settings.batch, f"Fidelity: {group}"):
            for scene, low, high in zip(batch, *two_stages(bench, batch), strict=True):
                first.append(judge_clip(low, scene))
                second.append(judge_clip(high, scene))
                if len(first) <= _SHOWN:
                    frames += [middle_frame(clip, high.shape[2], high.shape[3]) for clip in (low, high)]
        rows += prompt_rows(f"{group}, {STAGE1}", first)
        rows += prompt_rows(f"{group}, {STAGE2}", second)
        shown = "; ".join(captions_of(scenes[:_SHOWN]))
        file = f"fidelity-{'one' if group == ONE else 'more'}.png"
        pictures.append(bench.sheet(file, f"Stage I beside Stage II, row by row two clips: {shown}.", frames, 4))
    note = f"{STAGE2} refines the clips of {STAGE1}; size is not asked for by the floors."
    return Result(SECTION, (Table("Attributes right, held-out captions", tuple(rows)),), (note,), tuple(pictures))


def two_stages(
    bench: Bench, scenes: Sequence[Scene], first: VideoModels | None = None, second: VideoModels | None = None
) -> tuple[Tensor, Tensor]:
    """Clips of the scenes' captions, ``[B, 3, F, h, w]`` and ``[B, 3, F, H, W]``.

    Args:
        first, second: whose Stage I and whose Stage II; default: the bench's.
    """
    first, second = first or bench.models, second or bench.models
    captions, seeds, size = captions_of(scenes), seeds_of(scenes), bench.settings.large_batch
    low = first.generate_low(captions, seeds, bench.settings.stage1)
    parts = [slice(start, start + size) for start in range(0, len(scenes), size)]
    high = [second.refine(low[part], captions[part], seeds[part], bench.settings.stage2) for part in parts]
    return low, torch.cat(high)


def prompt_rows(name: str, verdicts: Sequence[Verdict]) -> list[Row]:
    """Rows of what the judge found in clips of one method."""
    attributes = (*PROMPT_ATTRIBUTES, TEXTURE, "size")
    rows = attribute_rows(name, verdicts, attributes, (PROMPT, PROMPT_ATTRIBUTES))
    for count in ("missing", "extra"):
        rows.append(mean_row(name, f"{count} shapes a clip", [getattr(verdict, count) for verdict in verdicts]))
    return rows
