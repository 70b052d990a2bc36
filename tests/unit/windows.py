"""Windows' rule, kept here: what this process has open or mapped can be neither replaced, renamed nor removed."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from flashvideo.checkpoints import locks

_REFUSED = {"os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.truncate": 1}  # audit event -> how many paths it has


class _Rule:
    """An audit hook, which there is no way to take away again; it refuses while it is ``kept``."""

    def __init__(self) -> None:
        self.kept, self.added = False, False
        self.broken: list[str] = []

    def add(self) -> None:
        if not self.added:
            sys.addaudithook(self.look)
            self.added = True

    def look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.kept or event not in _REFUSED:
            return
        count = _REFUSED[event]
        folders = [value for value in arguments[count:] if isinstance(value, int) and value >= 0]
        for path in arguments[:count]:
            target = _absolute(path, folders)
            if held := sorted(file for file in _held() if file == target or target in file.parents):
                self.broken.append(f"{event} of {target}: {', '.join(map(str, held))} is open")
                raise PermissionError(13, "The process cannot access the file because it is being used", str(target))


_rule = _Rule()


@contextmanager
def windows_rule(monkeypatch: pytest.MonkeyPatch, locks: Any = locks) -> Iterator[list[str]]:
    """Inside, such a call raises PermissionError as Windows would, and is noted in the list; locks are as there.

    Args:
        locks: the module of the package that is tried: ComfyUI imports it under another name.
    """
    fcntl = locks.fcntl
    assert fcntl is not None
    msvcrt: Any = types.ModuleType("msvcrt")
    msvcrt.LK_NBLCK = 2
    msvcrt.locking = lambda handle, _mode, _count: fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _rule.add()
    _rule.broken = []
    with monkeypatch.context() as patch:
        patch.setattr(locks, "fcntl", None)
        patch.setitem(sys.modules, "msvcrt", msvcrt)
        _rule.kept = True
        try:
            yield _rule.broken
        finally:
            _rule.kept = False


def _absolute(path: Any, folders: list[int]) -> Path:
    """Of a path that may be a handle, or relative to the handle of a folder; a link is its own name."""
    if isinstance(path, int):
        return Path(f"/proc/self/fd/{path}").readlink()
    base = Path(f"/proc/self/fd/{folders[0]}").readlink() if folders else Path.cwd()
    whole = base / os.fsdecode(path)
    return whole.parent.resolve() / whole.name


def _held() -> set[Path]:
    """Files that are open or mapped; folders that are being listed do not count."""
    held = set()
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the listing's own
            held.add(handle.readlink())
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        if (start := line.find("/")) > 0:
            held.add(Path(line[start:]))
    return {file for file in held if file.is_file()}
