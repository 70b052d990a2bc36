"""``flashvideo score``: a video in numbers, alone, against its source, against a true one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..scores.score import Scores, score_video
from .progress import Bars, say

_MEANINGS = {  # index -> its number's form, and what it means
    "sharpness": ("{:.2f}", "finest detail by coarser detail: 0 an enlargement, 1 the sharpest; noise counts too"),
    "likeness": ("{:.1f} dB", "to the source, of what the source can show; more than 40 is hardly told apart"),
    "drift": ("{:.2f}", "levels of 255 by which colours leave their beginning; 0 is none"),
    "flicker": ("{:.2f}", "levels of 255 of change that neither source nor motion explains; 0 is none"),
    "seam": ("{:.2f}", "levels of 255 of steps that stand along whole rows or columns; 0 is none"),
    "pulse": ("{:.1%}", "of what comes and goes in an even beat, by its mean; 0 is none"),
    "psnr": ("{:.2f} dB", "to the true video, pixel by pixel; more is closer"),
    "ssim": ("{:.4f}", "to the true video, of its structure; 1 is equal"),
    "piqe": ("{:.1f}", "of blocks and noise, without a reference; 0 is best, 100 worst"),
}
_OTHER = ("{:.4g}", "")


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    score = commands.add_parser(
        "score",
        help="judge a video by numbers",
        description="Numbers of a video of any length: sharpness, likeness to its source, drift of colours, flicker, "
        "seams and pulses. No number replaces looking; docs/scores.md says what each means and what it misses.",
    )
    score.add_argument("video", type=Path, metavar="VIDEO", help="the file to judge")
    score.add_argument(
        "--against",
        type=Path,
        metavar="FILE",
        help="the source that it was made from, of any size and rate; what the source has itself is then no fault",
    )
    score.add_argument(
        "--true",
        type=Path,
        metavar="FILE",
        help="what it should look like, of its size, for PSNR and SSIM",
    )
    score.add_argument(
        "--json", action="store_true", help="print one JSON object, with details and all numbers over time"
    )
    score.set_defaults(run=_score)


def _score(options: argparse.Namespace) -> int:
    with Bars() as bars:
        scores = score_video(options.video, against=options.against, true=options.true, progress=bars)
    if options.json:
        say(json.dumps(scores.to_dict(), allow_nan=False, ensure_ascii=False))
    else:
        say("\n".join(_table(scores)))
    return 0


def _table(scores: Scores) -> Iterator[str]:
    """Lines: a number, what it means, and what stands behind it."""
    told = scores.to_dict()
    details, video = told["details"], told["video"]
    yield f"{video['width']}x{video['height']}, {video['frames']} frames"
    for name, value in told.items():
        if isinstance(value, int | float) or value is None:
            form, meaning = _MEANINGS.get(name, _OTHER)
            number = "-" if value is None else form.format(value)
            yield f"  {name:<10} {number:>9}  {meaning}{_behind(name, details)}".rstrip()
    yield "  spectrum   " + ", ".join(f"{band}: {power:.1f}" for band, power in details["bands"].items())
    yield "             dB of levels squared, by octaves in cycles a pixel"
    if shift := details["colour_shift"]:
        yield f"  colours    {', '.join(f'{one:+.2f}' for one in shift)} levels of red, green, blue off the source's"
    yield from (f"* {remark}" for remark in scores.remarks)


def _behind(name: str, details: dict[str, Any]) -> str:
    found = details.get(name)
    if not found:
        return ""
    if name == "seam":
        where = "column" if found["axis"] == "x" else "row"
        every = f", every {found['period']} pixels" if found["period"] else ""
        return f" (from {where} {found['place']} on{every})" if every else f" (at {where} {found['place']})"
    if name == "pulse":
        return f" (of {found['of']}, every {found['period']} frames)"
    return ""
