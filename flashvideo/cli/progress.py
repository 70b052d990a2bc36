"""What the command line shows: lines and progress bars, on any console."""

from __future__ import annotations

import io
import sys
import threading
from types import TracebackType
from typing import Any

from tqdm import tqdm

# Its own is shared with forked processes, and stays locked if one of those is killed inside it.
tqdm.set_lock(threading.RLock())


def escape_what_cannot_be_shown() -> None:
    """Let a console that has no letter for a name show its code (``\\u8239``) instead of ending the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """A line on the standard output that does not tear a progress bar."""
    tqdm.write(text, file=sys.stdout)


class Bars:
    """One bar after the other: what is running, steps, time left. Call it as ``bars(what, done, total)``."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self._bar: Any = None
        self._what = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        total = total if total >= done else done + 1  # 0, and too few, where a file does not tell
        if self._bar is None or self._what != what or self._bar.n > done:
            self.close()
            self._what = what
            self._bar = tqdm(total=total, desc=f"{self.prefix}{what}", file=sys.stderr, dynamic_ncols=True)
        self._bar.total = total  # which may grow
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
