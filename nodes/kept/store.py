"""What outlives ComfyUI's caches on disk: previews, and what is finished of refinements. Imports nothing of ComfyUI.

Each thing has a folder, named by what it was made from. The folders that were not used for longest go first when the
store outgrows its limit, before all others those that their maker has finished with; one that is in use stays.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ...flashvideo.checkpoints.locks import claimed
from ...flashvideo.checkpoints.outputs import make_folder, write_text

log = logging.getLogger(__name__)

DEFAULT_LIMIT = 8192  # megabytes: some 4000 previews of 49 frames, or 10 minutes of 1080p on their way
_MAX_LIMIT = 1 << 20  # megabytes
_MEGABYTE = 1 << 20
_SETTLED = 2 * 10**9  # nanoseconds after which a change of a folder has another time than the one before it
_HEX = re.compile(r"[0-9a-f]{32}")
_ENTRY, _FINISHED, _LIMIT = "entry.json", "finished", "limit.json"


def is_hash(text: str) -> bool:
    """Whether a text can name a folder, or a content."""
    return _HEX.fullmatch(text) is not None


def checked_limit(megabytes: object) -> int:
    """A limit from a file or a request.

    Raises:
        ValueError: no number, or none that a limit can be.
    """
    if isinstance(megabytes, bool) or not isinstance(megabytes, int | float) or not 1 <= megabytes <= _MAX_LIMIT:
        raise ValueError(f"expected 1 to {_MAX_LIMIT} megabytes")
    return int(megabytes)


class KeptStore:
    """The store in a folder. Safe to use from several threads and processes.

    Attributes:
        root: the folder.
        generation: grows when folders vanish, so that ComfyUI's cache does not stand in for them.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.generation = 0
        self._removed: set[str] = set()
        self._known: dict[str, tuple[int, int]] = {}  # a folder -> when it changed, its bytes then
        self._lock = threading.RLock()

    # ---- what is kept

    def folder(self, name: str) -> Path:
        """Where what has this name is kept, or would be."""
        return self.root / name

    def entry(self, name: str) -> str | None:
        """What :meth:`note` wrote; None if it is not there.

        Raises:
            OSError, UnicodeDecodeError: it cannot be read.
        """
        try:
            return (self.root / name / _ENTRY).read_text(encoding="utf-8")
        except FileNotFoundError:
            with self._lock:
                if name in self._removed:
                    self._removed.discard(name)
                    self.generation += 1
            return None

    def note(self, name: str, entry: str) -> None:
        """Write what a folder is, and that it was used."""
        make_folder(self.root / name)
        with self._lock:
            write_text(self.root / name / _ENTRY, entry)
            self._removed.discard(name)

    def touch(self, name: str) -> None:
        """Note that a folder was used, where that can be noted."""
        with contextlib.suppress(OSError):
            os.utime(self.root / name / _ENTRY)

    @contextlib.contextmanager
    def using(self, name: str, entry: str) -> Iterator[Path | None]:
        """A folder that stays while it is used; None if somebody else uses it. Then there is room made, of others."""
        make_folder(self.root)
        try:
            with claimed(self.root / name) as free:
                if free:
                    self.note(name, entry)
                yield self.root / name if free else None
        finally:
            self.touch(name)
            self.make_room(name)

    def finish(self, name: str) -> None:
        """Note that a folder is of no use but to who asks for the same once more."""
        write_text(self.root / name / _FINISHED, "")

    # ---- size

    @property
    def limit(self) -> int:
        """Megabytes."""
        try:
            return checked_limit(json.loads((self.root / _LIMIT).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return DEFAULT_LIMIT
        except (OSError, ValueError, RecursionError) as error:
            log.warning("FlashVideo: %s is damaged (%s); the limit is %d MB.", _LIMIT, error, DEFAULT_LIMIT)
            return DEFAULT_LIMIT

    @limit.setter
    def limit(self, megabytes: int) -> None:
        make_folder(self.root)
        write_text(self.root / _LIMIT, json.dumps(megabytes))
        self.make_room()

    def _folders(self) -> list[Path]:
        return [f for f in self.root.iterdir() if f.is_dir() and is_hash(f.name)] if self.root.is_dir() else []

    def size(self) -> int:
        """Bytes of all folders."""
        return sum(self._sizes().values())

    def _sizes(self) -> dict[Path, int]:
        """Bytes of each folder; its files are looked at again when it has changed."""
        sizes, known = {}, {}
        with self._lock:
            for folder in self._folders():
                try:
                    changed = _last_change(folder)
                except OSError:  # removed meanwhile
                    continue
                before = self._known.get(folder.name)
                sizes[folder] = before[1] if before is not None and before[0] == changed else _size(folder)
                if time.time_ns() - changed > _SETTLED:
                    known[folder.name] = changed, sizes[folder]
            self._known = known
        return sizes

    def make_room(self, keep: str = "") -> None:
        """Remove folders until the limit holds; ``keep`` stays, and so do those in use."""
        with self._lock:
            sizes, limit = self._sizes(), self.limit
            total, allowed = sum(sizes.values()), limit * _MEGABYTE
            for folder in sorted(sizes, key=_worth) if total > allowed else ():
                if total <= allowed:
                    break
                if folder.name != keep and _remove(folder):
                    total -= sizes[folder]
                    self._removed.add(folder.name)
                    log.info("FlashVideo: the store is over %d MB, what was not used for longest was removed", limit)

    def empty(self) -> int:
        """Remove all folders but those in use; gives the bytes that were freed."""
        with self._lock:
            before = self.size()
            for folder in self._folders():
                _remove(folder)
            self.generation += 1
            return before - self.size()


def _remove(folder: Path) -> bool:
    """Remove a folder unless it is in use; whether it was not."""
    try:
        with claimed(folder) as free:
            if free:
                shutil.rmtree(folder, ignore_errors=True)
            return free
    except OSError:  # a disk on which nothing can be claimed any more
        return False


def _last_change(folder: Path) -> int:
    with os.scandir(folder) as entries:
        inner = [entry.stat().st_mtime_ns for entry in entries if entry.is_dir()]
    return max(folder.stat().st_mtime_ns, *inner, 0)


def _size(folder: Path) -> int:
    try:
        return sum(file.stat().st_size for file in folder.rglob("*") if not file.is_dir())
    except OSError:  # removed meanwhile
        return 0


def _worth(folder: Path) -> tuple[bool, float]:
    """What is removed first comes first."""
    try:
        return not (folder / _FINISHED).exists(), (folder / _ENTRY).stat().st_mtime
    except OSError:  # half-written by a crash
        return False, 0.0
