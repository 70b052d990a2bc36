"""Ends every command at random moments, repeats it, and compares what it leaves with the uninterrupted run's files.

    python -m tests.fuzz.kills [--times 50] [--seed 0] [--only COMMAND]

Signals are SIGKILL, SIGINT and SIGTERM. Counted are the runs whose files end as the same bytes by repeating the same
command, those that end otherwise, and, for information, those that the signal reached before they were done.
Needs ``fork``: Linux, macOS.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from flashvideo.cli import main as flashvideo
from flashvideo.video.files import write_video
from tests.conftest import TINY
from tests.unit.runs.test_stream import moving
from tests.unit.training.small_runs import write_config

from . import sandbox
from .kinds import SMALL, options

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM}
_REPEATS = 3
_MODELS = ["--models", str(TINY)]
_SMALL = [*_MODELS, *options({**SMALL, "preview-steps": 4, "steps": 3})]
_KEPT = ["--joint", "--keep-degraded", "--keep-latents"]


def commands(made: Path) -> dict[str, Callable[[Path], list[str]]]:
    """Name -> the command that writes into a folder; ``made`` is where inputs may lie."""
    prompts = made / "prompts.txt"
    prompts.write_text("a red ball rolls\na blue cube falls\n")
    run = ["generate", "a red ball rolls", *_SMALL, *_KEPT]
    flashvideo([*run, "-o", str(made / "out.mp4")])
    dark, bright = (moving(frames, 32, 32) * 0.2 + light for frames, light in ((18, 0.0), (106, 0.8)))
    write_video(made / "scenes.mp4", torch.cat((dark, bright), dim=2))
    config = write_config(made)
    flashvideo(["train", str(config), "--encode-only"])  # the runs share its cache
    return {
        "generate": lambda folder: [*run, "-o", str(folder / "out.mp4")],
        "generate --prompts": lambda folder: ["generate", "--prompts", str(prompts), *_SMALL, "-o", str(folder)],
        "refine": lambda folder: [
            *("refine", str(made / "out.preview.safetensors"), *_MODELS, *_KEPT),
            *("-o", str(folder / "out.mp4")),
        ],
        "refine a video": lambda folder: [
            *("refine", str(made / "scenes.mp4"), *_MODELS, "--prompt=a red ball rolls", "--size=32x32", "--steps=2"),
            *("--cfg=1", "--time-windows=5,2", "--match-colors=1", "-o", str(folder / "out.mp4")),
        ],
        "decode": lambda folder: [
            *("decode", str(made / "out.refined.safetensors"), *_MODELS),
            *("-o", str(folder / "out.mp4")),
        ],
        "convert": lambda folder: ["convert", str(TINY / "stage1.pt"), str(folder / "stage1.safetensors")],
        "train": lambda folder: ["train", str(config), "--resume", "-o", str(folder / "run")],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50, metavar="N", help="of each signal and command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", metavar="COMMAND")
    given = parser.parse_args()
    torch.set_num_threads(1)
    bad = 0
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        root = Path(name)
        (root / "made").mkdir()
        with sandbox.silence():
            every = commands(root / "made")
        print(f"{'':<20}{'signal':<9}{'equal':>7}{'other':>7}{'in time':>9}", flush=True)
        for title, command in every.items():
            if given.only and title not in given.only:
                continue
            expected, seconds = _reference(root, command)
            for word, number in SIGNALS.items():
                counts: Counter[str] = Counter()
                for time_of in range(given.times):
                    moment = Random(f"{given.seed} {title} {word} {time_of}").uniform(0, seconds)
                    counts += _ended(root, title, command, number, moment, expected)
                print(f"{title:<20}{word:<9}{counts['equal']:>7}{counts['other']:>7}{counts['in time']:>9}", flush=True)
                bad += counts["other"]
    print(f"{bad} bad")
    return bool(bad)


def _start(arguments: list[str], said: Path) -> int:
    """A command in a process of its own, forked; what it says is added to a file."""
    child = os.fork()
    if child == 0:
        code = 70
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs this in the background
        try:
            with said.open("a") as words:
                sys.stdout = sys.stderr = words
                code = flashvideo(arguments)
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        finally:
            os._exit(code)
    return child


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _reference(root: Path, command: Callable[[Path], list[str]]) -> tuple[dict[str, bytes], float]:
    """What an uninterrupted run leaves, and its seconds."""
    folder = root / "run"
    folder.mkdir()
    began = time.monotonic()
    code = _wait(_start(command(folder), root / "said"))
    seconds = time.monotonic() - began
    if code:
        raise SystemExit(f"{command(folder)} failed:\n{(root / 'said').read_text()}")
    expected = _contents(folder)
    shutil.rmtree(folder)
    return expected, seconds


def _ended(
    root: Path,
    title: str,
    command: Callable[[Path], list[str]],
    number: int,
    moment: float,
    expected: dict[str, bytes],
) -> Counter[str]:
    """End a run after some seconds, repeat it until it says that it is done, and compare."""
    folder, said = root / "run", root / "said"
    folder.mkdir()
    said.unlink(missing_ok=True)
    child = _start(command(folder), said)
    time.sleep(moment)
    os.kill(child, number)  # a child that is done is a zombie until it is waited for
    counts: Counter[str] = Counter({"in time": int(_wait(child) != 0)})
    for _ in range(_REPEATS):
        code = _wait(_start(command(folder), said))
        if code == 0 or "exists already" in said.read_text():
            break
    found = _contents(folder)
    counts["equal" if found == expected else "other"] += 1
    if found != expected:
        differ = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        print(f"  {title}, signal {number} after {moment:.3f} s, then exit code {code}: {', '.join(differ)}")
        print("    " + said.read_text()[-1500:].replace("\n", "\n    "), flush=True)
    shutil.rmtree(folder)
    return counts


def _contents(folder: Path) -> dict[str, bytes]:
    """Files and their bytes; of a training run the weights, since its logs hold times."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    if any(name.endswith("log.jsonl") for name in files):
        files = {name: path for name, path in files.items() if len(Path(name).parts) == 2 and path.suffix != ".jsonl"}
        files = {name: path for name, path in files.items() if "events" not in name}
    return {name: path.read_bytes() for name, path in files.items()}


if __name__ == "__main__":
    sys.exit(main())
