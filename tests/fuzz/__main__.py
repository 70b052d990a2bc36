"""Gives damaged and odd inputs to the program and counts what it does: refuse, accept, hang, trace, grow, execute.

    python -m tests.fuzz [--cases 100] [--seed 0] [--only KIND] [--show refused]

The last four have to be 0: a hang is more than ten times the processor time of the sound inputs (and at least 20
seconds), growth more than their memory and half of it (and 128 MiB), a trace everything that ends in Python's own
words, an execution a process or a connection that an input had opened. Files half-written are counted too.
A case is repeated by its kind, seed and number: ``--only videos --seed 0 --case 17``. Needs ``fork``: Linux, macOS.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from . import requests, sandbox
from .kinds import KINDS, Kind

_SOUND = 12  # sound inputs of a kind
_LEFT = "left"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [kind.name for kind in KINDS] + [requests.NAME]
    parser.add_argument("--cases", type=int, default=100, metavar="N", help="of a kind; some have more, some fewer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=names, action="append")
    parser.add_argument("--case", type=int, help="this case alone, with all that it says")
    parser.add_argument("--show", default="", help="also print the words of this outcome")
    given = parser.parse_args()
    torch.set_num_threads(1)
    totals: Counter[str] = Counter()
    print(f"{'':<12}" + "".join(f"{name:>10}" for name in (*sandbox.OUTCOMES, _LEFT)), flush=True)
    for kind in KINDS:
        if not given.only or kind.name in given.only:
            totals += _print_row(kind.name, _run(kind(), given))
    if not given.only or requests.NAME in given.only:
        counts = requests.run(given.cases, given.seed, given.show)
        if counts is None:
            print(f"{requests.NAME:<12}  skipped: no ComfyUI was found; set COMFYUI_PATH to its folder")
        else:
            totals += _print_row(requests.NAME, counts)
    bad = sum(totals.values()) - totals[sandbox.ACCEPTED] - totals[sandbox.REFUSED]
    print(f"{sum(totals.values())} cases, {bad} bad")
    return bool(bad)


def _print_row(name: str, counts: Counter[str]) -> Counter[str]:
    print(f"{name:<12}" + "".join(f"{counts[outcome]:>10}" for outcome in (*sandbox.OUTCOMES, _LEFT)), flush=True)
    return counts


def _run(kind: Kind, given: argparse.Namespace) -> Counter[str]:
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        root = Path(name)
        (root / "sound").mkdir()
        with sandbox.silence():
            kind.prepare(root / "sound")
        idle = sandbox.run(lambda: 0, root / "notes", sandbox.Limits()).peak
        limits = _limits(kind, root, idle)
        cases = [given.case] if given.case is not None else range(given.cases * kind.share // 100)
        for number in cases:
            folder = root / "case"
            folder.mkdir()
            title, case = kind.draw(Random(f"{given.seed} {kind.name} {number}"), folder, sound=False)
            ending = sandbox.run(case, root / "notes", limits, idle)
            counts[ending.outcome] += 1
            if given.case is not None or ending.outcome not in (sandbox.ACCEPTED, sandbox.REFUSED, given.show):
                _tell(kind, number, title, ending, whole=given.case is not None)
            elif ending.outcome == given.show:
                print(f"{number} {title}: {ending.words.splitlines()[-1][-300:] if ending.words else ''}")
            if left := [str(path.relative_to(folder)) for path in folder.rglob("*.part*")]:
                counts[_LEFT] += 1
                print(f"  {kind.name} {number}, {title}: left {', '.join(left)}")
            shutil.rmtree(folder)
    return counts


def _limits(kind: Kind, root: Path, idle: int) -> sandbox.Limits:
    """What sound inputs take, and room; they must be accepted."""
    endings = []
    for number in range(_SOUND):
        folder = root / "case"
        folder.mkdir()
        title, case = kind.draw(Random(f"sound {number}"), folder, sound=True)
        ending = sandbox.run(case, root / "notes", sandbox.Limits(), idle)
        if ending.outcome not in (sandbox.ACCEPTED, sandbox.REFUSED) or "error:" in ending.words:
            raise SystemExit(f"{kind.name}: a sound input was not accepted ({title}):\n{ending.words}")
        endings.append(ending)
        shutil.rmtree(folder)
    return sandbox.Limits(
        seconds=max(20, round(10 * max(ending.seconds for ending in endings))),
        grown=max(128 << 20, max(ending.peak for ending in endings) * 3 // 2),
    )


def _tell(kind: Kind, number: int, title: str, ending: sandbox.Ending, *, whole: bool) -> None:
    words = ending.words if whole else "\n".join(ending.words.splitlines()[-6:])
    print(f"  {ending.outcome}: {kind.name} {number}, {title}\n    " + words.replace("\n", "\n    "), flush=True)


if __name__ == "__main__":
    sys.exit(main())
