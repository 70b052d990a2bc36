"""Checkpoints in a run's folder: complete or not there, checked against what was written, and the log beside them."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..checkpoints.files import sha256
from ..checkpoints.outputs import advice, sync, write_text

log = logging.getLogger(__name__)

MANIFEST = "checkpoint.json"
_NAME = re.compile(r"step-(\d{8,18})")
_REPLACED = ".replaced"
_WRITING = ("PytorchStreamWriter", "inline_container", "Parent directory", "cannot be opened")  # torch, of files
_SHARDS_CONTENTS = ".metadata"  # of a table of contents of torch.distributed.checkpoint, which has no other name


def checkpoints_in(folder: Path) -> list[Path]:
    """Checkpoints of a run by their names, oldest first."""
    named = [path for path in (folder / "checkpoints").glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(named, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Steps that were done when it was written."""
    return int(checkpoint.name.removeprefix("step-"))


def refuse_another_run(folder: Path) -> None:
    """Raise ValueError if the folder holds a run already."""
    if checkpoints_in(folder):
        raise ValueError(f"{folder} holds a run already. Give --resume to go on with it, or another folder.")


def seal(checkpoint: Path) -> None:
    """Note sizes and SHA-256 of all files of a checkpoint in it, and bring them onto the disk."""
    files = {_name(path, checkpoint): _record(path) for path in _files(checkpoint)}
    manifest = checkpoint / MANIFEST
    write_text(manifest, json.dumps({"version": 1, "files": files}, indent=1, sort_keys=True) + "\n")
    for path in (*_files(checkpoint), checkpoint):
        sync(path)


@contextlib.contextmanager
def saving(unfinished: Path, checkpoint: Path) -> Iterator[None]:
    """Turn what accelerate, torch and safetensors raise about a disk into an error that says what became of the run.

    Args:
        unfinished: the folder that is written inside; it goes.
        checkpoint: the name that it would have got.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in _WRITING):
            raise
        shutil.rmtree(unfinished, ignore_errors=True)
        code = (error.errno or 0) if isinstance(error, OSError) else 0
        reason = (isinstance(error, OSError) and error.strerror) or str(error).splitlines()[0]
        free = shutil.disk_usage(checkpoint.parents[1]).free
        raise OSError(
            code,
            f"writing {checkpoint} failed: {reason} ({free / 1e9:.2f} GB are free there). Earlier checkpoints are "
            f"kept. {advice(OSError(code, ''))}, and go on with --resume",
        ) from error


def put_in_place(written: Path, checkpoint: Path, keep: int) -> None:
    """Give a sealed folder its name, then remove what it supersedes.

    A checkpoint of the same name is put aside for it, and removed afterwards. So are those of later steps: a run that
    comes from an earlier one does these steps again.

    Args:
        written: the sealed folder.
        checkpoint: its name to be.
        keep: how many checkpoints stay.
    """
    aside = checkpoint.with_name(checkpoint.name + _REPLACED)
    if checkpoint.exists():
        checkpoint.rename(aside)
    written.rename(checkpoint)
    sync(checkpoint.parent)
    shutil.rmtree(aside, ignore_errors=True)
    everything = checkpoints_in(checkpoint.parent.parent)
    later = [path for path in everything if step_of(path) > step_of(checkpoint)]
    for superseded in [*everything[: len(everything) - len(later)][:-keep], *later]:
        shutil.rmtree(superseded)


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that is as it was written; damaged ones are passed over, in words.

    Returns:
        None in a folder without checkpoints.

    Raises:
        ValueError: there are checkpoints, and all of them are damaged.
    """
    for aside in (folder / "checkpoints").glob(f"step-*{_REPLACED}"):  # the process ended while one took its place
        name = aside.with_name(aside.name.removesuffix(_REPLACED))
        if not name.exists():
            aside.rename(name)
    problems = []
    for checkpoint in reversed(checkpoints_in(folder)):
        problem = damage(checkpoint)
        if not problem:
            return checkpoint
        log.warning("%s is not as it was written (%s); trying the one before it", checkpoint, problem)
        problems.append(f"{checkpoint.name}: {problem}")
    if problems:
        raise ValueError(
            f"No checkpoint in {folder / 'checkpoints'} is as it was written ({'; '.join(problems)}). "
            "Restore one from a copy, or begin anew in another folder."
        )
    return None


def damage(checkpoint: Path) -> str:
    """How a checkpoint differs from what was written; "" if it does not."""
    try:
        recorded = json.loads((checkpoint / MANIFEST).read_bytes())["files"]
        there = {_name(path, checkpoint): path for path in _files(checkpoint)}
        if missing := sorted(set(recorded) - set(there)):
            return f"{missing[0]} is missing"
        if foreign := sorted(set(there) - set(recorded)):
            return f"{foreign[0]} does not belong to it"
        for name, path in there.items():
            size = path.stat().st_size
            if size != recorded[name]["size"]:
                return f"{name} has {size} bytes, expected {recorded[name]['size']}"
            if sha256((path,)) != recorded[name]["sha256"]:
                return f"{name} has changed"
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"its {MANIFEST} is damaged"
    return ""


def _files(checkpoint: Path) -> list[Path]:
    """The files below, links among them, but for the manifest and what file browsers and network disks leave."""
    below = [path for path in checkpoint.rglob("*") if path.is_symlink() or not path.is_dir()]
    hidden = {path for path in below if path.name.startswith(".") and not path.name.endswith(_SHARDS_CONTENTS)}
    return sorted(path for path in below if path not in hidden and path != checkpoint / MANIFEST)


def _name(path: Path, checkpoint: Path) -> str:
    return path.relative_to(checkpoint).as_posix()


def _record(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": sha256((path,))}


def cut_log(path: Path, step: int) -> None:
    """Steps that are about to be done again are not logged twice; a line that was being written goes, too."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if _logged_step(line) <= step]
    write_text(path, "".join(line + "\n" for line in kept))


def _logged_step(line: str) -> float:
    """The step of a line of the log; infinite for one that is none."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return float("inf")
