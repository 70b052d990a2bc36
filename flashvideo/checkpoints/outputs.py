"""Writing files that appear whole or not at all, and finding out before long work whether they can be written.

All that is written and kept goes through here, so that a name is given to nothing that is not on the disk yet.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .locks import marked_as_written, remove_leftover

MAX_NAME = 255  # bytes of a file's name: ext4, APFS, NTFS and most others
_PARTIAL = ".flashvideo-{}.part"
_UNKNOWN_TO_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)  # what some disks say when one is brought onto them
_ADVICE = {
    errno.ENOSPC: "Free some space, or write to another disk",
    errno.EDQUOT: "Your quota is used up: free some of it, or write to another disk",
    errno.EFBIG: "No file may grow so large here: raise the limit (ulimit -f), or write to another disk",
    errno.EMFILE: "This process may open no more files: raise the limit (ulimit -n)",
    errno.ENFILE: "The system may open no more files: close other programs, or raise its limit",
    errno.EROFS: "The disk is read-only: write to another one",
    errno.EACCES: "Change the permissions, or write to another folder",
    errno.EPERM: "Change the permissions, or write to another folder",
}


def advice(error: OSError, otherwise: str = "Free some space, or write to another disk") -> str:
    """What to do about a disk's error, as a sentence without its full stop."""
    return _ADVICE.get(error.errno or 0, otherwise)


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
    check_folder(folder)
    check_room(folder, size, path.name)
    limit = _largest_file()
    if size > limit:
        raise ValueError(
            f"{path.name} takes {size / 1e6:.1f} MB, and this process may write files of {limit / 1e6:.1f} MB only. "
            "Raise the limit (ulimit -f)."
        )


def check_folder(folder: Path) -> None:
    """Raise ValueError if no file can be made in a folder."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(
            f"The folder {folder} cannot be written to ({error.strerror or error}). {advice(error)}."
        ) from error
    sweep(folder)


def check_room(folder: Path, size: int, what: str) -> None:
    """Raise ValueError if a folder's disk has no room for ``size`` bytes of ``what``."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise ValueError(f"{folder} has {free / 1e9:.2f} GB free; {what} takes {size / 1e9:.2f} GB. Make room first.")


def _largest_file() -> float:
    """Bytes of the largest file that this process may write."""
    try:
        import resource
    except ImportError:  # Windows
        return float("inf")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return float("inf") if limit == resource.RLIM_INFINITY else limit


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


def make_folder(folder: Path) -> Path:
    """Make a folder, and those above it, unless it is there.

    Raises:
        ValueError: it cannot be made, or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"The folder {folder} cannot be made ({error.strerror or error}). {advice(error, 'Choose another place')}."
        ) from error
    return folder


@contextlib.contextmanager
def naming_disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into one that names the output and says what became of it."""
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno or 0,
            f"writing {path} failed: {error.strerror or error}. Nothing half-written was left behind. {advice(error)}",
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a temporary file beside ``path``, which takes the place of ``path`` if the block ends well.

    Its bytes are on the disk before it gets the name. On any exception, an interrupt too, the temporary file is removed
    and ``path`` stays as it was. The first time that a process writes into a folder, it removes the temporary files
    that killed ones left there.

    Raises:
        OSError: the disk is full, or fails.
    """
    sweep(path.parent)
    partial = path.with_name(_PARTIAL.format(secrets.token_hex(6)))
    with contextlib.ExitStack() as stack:
        with naming_disk_errors(path):
            stack.enter_context(marked_as_written(partial))
        stack.callback(partial.unlink, missing_ok=True)
        yield partial
        with naming_disk_errors(path):
            sync(partial)
            partial.replace(path)
            sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text as :func:`replacing` does.

    Raises:
        OSError: the disk is full, or fails.
    """
    with replacing(path) as partial, naming_disk_errors(path):
        partial.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Bring a file or a folder's names onto the disk; systems that cannot open folders need not."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return
    try:
        handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if not is_folder or error.errno not in _UNKNOWN_TO_FOLDERS:
            raise


_swept: set[Path] = set()


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder; once for each folder in the life of this process."""
    if folder in _swept:
        return
    _swept.add(folder)
    for partial in folder.glob(_PARTIAL.format("*")):
        with contextlib.suppress(OSError):  # gone meanwhile, or another's
            remove_leftover(partial)
