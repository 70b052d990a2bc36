"""``flashvideo compare``: one page that shows videos in step, with their scores and a blind test."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoints.paths import expanded
from ..scores.frames import Frames
from ..scores.learned import Learned, load_learned
from ..scores.page import EMBED_UP_TO, Entry, write_page
from ..scores.score import score_video
from .options import pick_device
from .progress import Bars, say
from .score import add_metrics_options

_MEGABYTE = 1_000_000


def add_compare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Writes index.html, which browsers open from the disk: players in step, a wipe between any two, zoom on the "
        "same spot, frame by frame, differences, scores, and a blind test whose votes are counted with --votes. Videos "
        "of other sizes, lengths and rates are shown at one size, by their times."
    )
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO", help="to be compared: one to six")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="of the page")
    parser.add_argument("--against", type=Path, metavar="VIDEO", help="the source that they were made from")
    parser.add_argument("--true", type=Path, metavar="VIDEO", help="what they should equal, of their size")
    add_metrics_options(parser)
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the videos, in order (default: the files')")
    parser.add_argument("--votes", nargs="+", type=Path, default=[], metavar="FILE", help="of blind tests, counted")
    parser.add_argument("--no-scores", action="store_true", help="pictures only: no measuring, which takes the time")
    parser.add_argument(
        "--embed-up-to",
        type=int,
        default=EMBED_UP_TO // _MEGABYTE,
        metavar="MB",
        help="of videos in the page itself; more are laid beside it",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a page that is there")
    parser.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> int:
    names = options.names or [None] * len(options.videos)
    if len(names) != len(options.videos):
        raise ValueError(f"--names has {len(names)} names for {len(options.videos)} videos; give one for each.")
    if options.embed_up_to < 0:
        raise ValueError(f"--embed-up-to is {options.embed_up_to}; expected 0 or more megabytes.")
    entries = [Entry(path, name) for path, name in zip(options.videos, names, strict=True)]
    against, true = (None if path is None else expanded(path) for path in (options.against, options.true))
    for path in () if options.no_scores else options.videos:
        with Frames(expanded(path), against, true):  # before the first of them is scored
            pass
    with Bars() as bars:
        learned = Learned({})
        if not options.no_scores:
            device = pick_device(options.device)
            learned = load_learned(options.metrics, with_true=true is not None, device=device, progress=bars)

        def score(path: Path) -> Mapping[str, Any]:
            def show(what: str, done: int, total: int) -> None:
                bars(f"{what} {path.name}", done, total)

            return score_video(
                path, against=against, true=true, learned=replace(learned, remarks=()), progress=show
            ).to_dict()

        page, tally = write_page(
            options.output,
            entries,
            source=None if against is None else Entry(against),
            true=None if true is None else Entry(true),
            scores=None if options.no_scores else score,
            votes=options.votes,
            overwrite=options.overwrite,
            embed_up_to=options.embed_up_to * _MEGABYTE,
            progress=bars,
        )
    if tally is not None:
        say(tally.words)
        for line in (*tally.pairs, *tally.notes):
            say(f"  {line}")
    for remark in learned.remarks:
        say(f"* {remark}")
    say(f"{page}: open it in a browser")
    return 0
