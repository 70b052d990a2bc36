"""Writing files that appear whole or not at all, and finding out before long work whether they can be written."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

MAX_NAME = 255  # bytes of a file's name: ext4, APFS, NTFS and most others


def check_writable(path: Path, *, overwrite: bool, size: int = 0) -> None:
    """Raise before any work if ``path`` cannot be written; leaves nothing behind.

    Args:
        overwrite: allow an existing file to be replaced.
        size: bytes that will be written, if known.

    Raises:
        ValueError: a folder of that name, an existing file, a missing or unwritable folder, too little room.
    """
    folder = path.parent
    is_folder, exists = _what_is_there(path)
    if is_folder:
        raise ValueError(f"{path} is a folder; expected the name of a file to write.")
    if exists and not overwrite:
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


def _what_is_there(path: Path) -> tuple[bool, bool]:
    """Whether ``path`` is a folder, and whether there is anything of that name.

    Raises:
        ValueError: a name that no file can have.
    """
    length = len(os.fsencode(path.name)) if os.name == "posix" else len(path.name)
    if length > MAX_NAME:
        raise ValueError(
            f"The name {path.name[:40]}...{path.name[-30:]} has {length} bytes; file systems take at most {MAX_NAME}. "
            "Choose a shorter one for the output: other files are named after it."
        )
    try:
        return path.is_dir(), path.exists()
    except (OSError, ValueError) as error:  # a path that is too long, a NUL in it, a folder that is closed
        raise ValueError(f"{path} cannot be written ({error}). Choose another name or folder.") from error


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
