"""Locks that the system lets go of when a process ends, killed or not: what is being written, and by one alone."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where nobody can remove or replace a file that is open
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)


_WINDOWS_SECONDS = 60  # in which a file that was written there may be closed and not have its name yet


@contextlib.contextmanager
def marked_as_written(path: Path) -> Iterator[None]:
    """Make an empty file that :func:`remove_leftover` leaves alone until the block ends."""
    handle = _locked(path)
    while handle is None:  # somebody looks whether it is a leftover
        handle = _locked(path)
    if fcntl is None:  # an open file could not be given its name there
        os.close(handle)
        yield
        return
    try:
        yield
    finally:
        os.close(handle)


def remove_leftover(path: Path) -> None:
    """Remove a file that no process, this one or another, has marked as written.

    Raises:
        OSError: the file is gone, or cannot be removed.
    """
    if fcntl is None:  # what is open cannot be removed there
        if time.time() - path.stat().st_mtime > _WINDOWS_SECONDS:
            path.unlink()
        return
    handle = os.open(path, os.O_RDWR)
    try:
        if _try_lock(handle):
            path.unlink()
    finally:
        os.close(handle)


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Inside, ``path`` and what is named after it is this process's to write, if the value is True.

    Beside it lies an empty file meanwhile, ``.flashvideo-….lock``. A process that was killed leaves that, which hinders
    nobody. Where the disk knows no locks, everybody gets what they ask for.

    Raises:
        OSError: the folder cannot be written to.
    """
    lock = lock_of(path)
    handle = _locked(lock)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            if fcntl is None:  # an open file cannot be removed there
                os.close(handle)
            with contextlib.suppress(OSError):
                lock.unlink()
            if fcntl is not None:  # the other way round, another process could take it in between
                os.close(handle)


def lock_of(path: Path) -> Path:
    """The file that lies beside ``path`` while it is :func:`claimed`."""
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return path.with_name(f".flashvideo-{digest}.lock")


def _locked(lock: Path) -> int | None:
    """An open and locked file of that name; None if another has it."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        if not _try_lock(handle):
            os.close(handle)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(lock.stat(), os.fstat(handle)):
                return handle
        os.close(handle)  # whoever had it removed it in between


def _try_lock(handle: int) -> bool:
    """Lock an open file; False if another has it."""
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        log.debug("this disk knows no locks (%s)", error)
    return True
