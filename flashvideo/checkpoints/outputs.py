"""Writing files that appear whole or not at all, and finding out before long work whether they can be written."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def check_writable(path: Path, *, overwrite: bool, size: int = 0) -> None:
    """Raise before any work if ``path`` cannot be written; leaves nothing behind.

    Args:
        overwrite: allow an existing file to be replaced.
        size: bytes that will be written, if known.

    Raises:
        ValueError: a folder of that name, an existing file, a missing or unwritable folder, too little room.
    """
    folder = path.parent
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected the name of a file to write.")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already and is kept. Choose another name, or allow it with --overwrite.")
    if not folder.is_dir():
        raise ValueError(f"The folder {folder} does not exist. Create it, or write to another one.")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(
            f"The folder {folder} cannot be written to ({error.strerror or error}). "
            "Change its permissions, free some space, or write to another one."
        ) from error
    free = shutil.disk_usage(folder).free
    if size > free:
        raise ValueError(
            f"{folder} has {free / 1e9:.2f} GB free; {path.name} takes {size / 1e9:.2f} GB. Make room first."
        )


@contextlib.contextmanager
def naming_disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into one that names the output and says what became of it."""
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno or 0,
            f"writing {path} failed: {error.strerror or error}. Nothing half-written was left behind. "
            "Free some space, or write to another disk",
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a temporary file beside ``path``, which takes the place of ``path`` if the block ends well.

    On any exception, an interrupt too, the temporary file is removed and ``path`` stays as it was.
    """
    partial = path.with_name(f".flashvideo-{secrets.token_hex(6)}.part")
    try:
        yield partial
        with naming_disk_errors(path):
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
