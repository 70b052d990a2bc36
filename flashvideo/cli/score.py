"""``flashvideo score``: a video in numbers, alone, against its source, against a true one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..scores.learned import KINDS
from ..scores.measures import BY_ID, measures_of
from ..scores.score import Scores, score_video
from .options import pick_device
from .progress import Bars, say


def add_score(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Numbers of a video of any length: sharpness, likeness to its source, drift of colours, flicker, seams and "
        "pulses. No number replaces looking; docs/scores.md says what each means and what it misses."
    )
    parser.add_argument("video", type=Path, metavar="VIDEO", help="the file to judge")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FILE",
        help="the source that it was made from, of any size and rate; what the source has itself is then no fault",
    )
    parser.add_argument(
        "--true",
        type=Path,
        metavar="FILE",
        help="what it should look like, of its size, for PSNR and SSIM",
    )
    add_metrics_options(parser)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, with details and all numbers over time"
    )
    parser.set_defaults(run=_score)


def add_metrics_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metrics",
        default="auto",
        metavar="NAMES",
        help=f"learned measures: {', '.join(KINDS)}; auto for those whose package and weights are here (default), or "
        "none; nothing is downloaded",
    )
    parser.add_argument(
        "--device", default="auto", help="of learned measures: auto, cuda, cuda:1, mps or cpu (default: auto)"
    )


def _score(options: argparse.Namespace) -> int:
    with Bars() as bars:
        scores = score_video(
            options.video,
            against=options.against,
            true=options.true,
            learned=options.metrics,
            device=pick_device(options.device),
            progress=bars,
        )
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
    shown = [measure for measure in measures_of([told]) if measure.id in told]
    width = max(10, *(len(measure.id) for measure in shown))
    for measure in shown:
        value = told[measure.id]
        number = "-" if value is None else f"{value:.{measure.digits}f}"
        yield f"  {measure.id:<{width}} {number:>7}  {measure.help}{_behind(measure.id, details)}".rstrip()
    bands = ", ".join(f"{band}: {power:.1f}" for band, power in details["bands"].items())
    yield f"  {'spectrum':<{width}} {bands}"
    yield f"  {'':<{width}} dB of levels squared, by octaves in cycles a pixel"
    if shift := details["colour_shift"]:
        levels = ", ".join(f"{one:+.2f}" for one in shift)
        yield f"  {'colours':<{width}} {levels} levels of red, green, blue off the source's"
    yield from (f"* {remark}" for remark in scores.remarks)
    if paper := told.get("paper"):
        yield from _paper(paper)


def _paper(paper: dict[str, Any]) -> Iterator[str]:
    """The paper's rows under the same measures."""
    shown = [BY_ID[name] for name in paper["rows"][0] if name in BY_ID]
    widths = [max(8, len(measure.label)) for measure in shown]
    heads = " ".join(f"{measure.label:>{width}}" for measure, width in zip(shown, widths, strict=True))
    yield f"  {'The paper, table and row':<43} {heads}"
    for row in paper["rows"]:
        numbers = (f"{row[each.id]:>{width}.{each.digits}f}" for each, width in zip(shown, widths, strict=True))
        yield f"  {row['table']:>2}  {row['row']:<39} {' '.join(numbers)}"
    yield f"* {paper['caution']}"


def _behind(name: str, details: dict[str, Any]) -> str:
    found = details.get(name)
    if not found:
        return ""
    if name == "seam":
        where = "column" if found["axis"] == "x" else "row"
        every = f", every {found['period']} pixels" if found["period"] else ""
        return f" From {where} {found['place']} on{every}." if every else f" At {where} {found['place']}."
    if name == "pulse":
        return f" Of {found['of']}, every {found['period']} frames."
    return ""
