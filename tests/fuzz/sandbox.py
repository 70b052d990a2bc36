"""One case in a process of its own, forked from one that has imported everything: what it did and what it took."""

from __future__ import annotations

import io
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

ACCEPTED, REFUSED, TRACED, HUNG, GROWN, EXECUTED = "accepted", "refused", "traced", "hung", "grown", "executed"
OUTCOMES = (ACCEPTED, REFUSED, HUNG, TRACED, GROWN, EXECUTED)
_NEVER = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect")
_WALL = 300.0  # seconds; the processor's are limited by case
_NAP = 0.005


@contextmanager
def silence() -> Iterator[None]:
    """Nothing is said."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


@dataclass(frozen=True)
class Limits:
    """What a case may take: processor seconds, and bytes beyond the parent's."""

    seconds: int = 120
    grown: int = 1 << 40


@dataclass(frozen=True)
class Ending:
    """What became of a case; ``peak`` is in bytes, beyond a process that does nothing; ``words`` are its last lines."""

    outcome: str
    words: str
    peak: int
    seconds: float


def run(case: Callable[[], int], notes: Path, limits: Limits, baseline: int = 0) -> Ending:
    """Run a case.

    Args:
        case: gives 0 for an accepted input, 2 for a refused one; anything else, and every exception, is a trace.
        notes: a file for what it says.
        baseline: peak of a case that does nothing.
    """
    child = os.fork()
    if child == 0:
        _child(case, notes, limits)
    status, usage = _wait(child, time.monotonic() + _WALL)
    words = notes.read_text(errors="replace") if notes.exists() else ""
    peak, seconds = usage.ru_maxrss * 1024 - baseline, usage.ru_utime + usage.ru_stime
    if os.WIFSIGNALED(status):
        hung = os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGALRM)
        outcome, words = HUNG if hung else TRACED, f"{words}\nended by signal {os.WTERMSIG(status)}"
    elif "EXECUTED" in words:
        outcome = EXECUTED
    elif peak > limits.grown:
        outcome, words = GROWN, f"{words}\ngrew by {peak >> 20} MiB, allowed {limits.grown >> 20}"
    else:
        outcome = {0: ACCEPTED, 2: REFUSED}.get(os.WEXITSTATUS(status), TRACED)
    return Ending(outcome, words.strip(), peak, seconds)


def _child(case: Callable[[], int], notes: Path, limits: Limits) -> None:
    """Never returns, whatever the case does."""
    said, code = io.StringIO(), 1
    resource.setrlimit(resource.RLIMIT_CPU, (limits.seconds, limits.seconds + 5))  # the second one kills
    executed: list[str] = []
    sys.addaudithook(lambda event, _arguments: executed.append(event) if event in _NEVER else None)
    try:
        with redirect_stdout(said), redirect_stderr(said):
            try:
                code = case()
            except SystemExit as leaving:
                code = int(leaving.code or 0)
            except BaseException:
                said.write(traceback.format_exc())
        lines = [*said.getvalue()[-4000:].splitlines(), *(f"EXECUTED {event}" for event in executed)]
        notes.write_text("\n".join(lines), errors="replace")
    finally:
        os._exit(code)


def _wait(child: int, deadline: float) -> tuple[int, resource.struct_rusage]:
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return status, usage
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGALRM)
            deadline += _WALL
        time.sleep(_NAP)
