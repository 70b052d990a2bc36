"""``flashvideo train``: one configuration file, one run."""

from __future__ import annotations

import argparse
import logging
import os
from contextlib import nullcontext
from pathlib import Path

from ..checkpoints.locks import claimed
from ..checkpoints.outputs import check_folder, make_folder, write_text
from ..checkpoints.paths import expanded
from ..training.config import read_toml, to_toml
from ..training.runs import encode, open_run
from .progress import say


def add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="TOML file, see flashvideo/configs")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="of weights and logs")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    parser.add_argument("--stop-after", type=int, metavar="STEP", help="stop, with a checkpoint, at this step")
    parser.add_argument("--encode-only", action="store_true", help="make the datasets' caches, and stop")
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    from ..training.loop import train
    from ..training.run_folder import refuse_another_run

    logging.getLogger("flashvideo").setLevel(logging.INFO)
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)  # it warns of tied embeddings at every save
    if options.encode_only:
        encode(options.config)
        return 0
    if options.output is None:
        raise ValueError("Give --output FOLDER for the weights and logs.")
    folder = expanded(options.output)
    if not options.resume:
        refuse_another_run(folder)
    check_folder(next(place for place in (folder, *folder.absolute().parents) if place.exists()))
    first = not os.environ.get("RANK", "0").strip("0")  # of the processes of a sharded run
    run = open_run(options.config, folder)
    config = make_folder(folder) / "config.toml"
    with claimed(config) if first else nullcontext(True) as mine:
        if not mine:
            raise ValueError(f"Another process trains in {folder}. Wait for it, or give another folder.")
        write_text(config, to_toml(read_toml(options.config)) + "\n")
        steps = train(run, resume=options.resume, stop_after=options.stop_after)
    if first:
        say(f"{steps} of {run.total_steps} steps are done; see {folder}")
    return 0
