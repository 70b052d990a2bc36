"""``flashvideo generate | refine | decode | calibrate | convert | inspect | train | report | score | compare``."""

from __future__ import annotations

import argparse
import errno
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .. import __version__
from ..checkpoints.outputs import advice
from ..tensors.failures import is_too_large
from . import calibrate, checkpoints, compare, generate, report, score, train
from .options import parse_options
from .progress import escape_what_cannot_be_shown

EXIT_USAGE, EXIT_FAILURE, EXIT_INTERRUPTED = 2, 1, 130
_TOO_LARGE = (
    "That is too large for the memory here. For a video choose a smaller size or fewer frames, or give --offload; for "
    "training a smaller batch. What was finished is kept."
)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM, which launchers and clusters send, ends a run as cleanly as Ctrl-C."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _about_handles(error: BaseException | None) -> str:
    """What to do where an error comes from one that says that no more files can be opened, and does not say it."""
    words, cause = str(error), error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
            return "" if advice(cause) in words else f"{advice(cause)}.\n"
        cause = cause.__cause__ or cause.__context__
    return ""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flashvideo", description="Two-stage video generation: a small preview first, then full resolution."
    )
    parser.add_argument("--version", action="version", version=f"flashvideo {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell more of what happens")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    generate.add_commands(commands)
    calibrate.add_commands(commands)
    checkpoints.add_commands(commands)
    train.add_commands(commands)
    report.add_commands(commands)
    score.add_commands(commands)
    compare.add_commands(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (2: bad input, 1: a failure, 130: interrupted)."""
    escape_what_cannot_be_shown()
    try:
        options = parse_options(build_parser(), argv)
    except ValueError as error:
        sys.stderr.write(f"\nerror: {error}\n")
        return EXIT_USAGE
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(levelname)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        with terminable():
            return int(options.run(options) or 0)
    except ValueError as error:
        sys.stderr.write(f"\nerror: {error}\n")
        return EXIT_USAGE
    except (OSError, MemoryError, RuntimeError) as error:  # a full disk, no memory left on the device
        sys.stderr.write(f"\nfailed: {type(error).__name__}: {error}\n")
        if is_too_large(error):
            sys.stderr.write(f"{_TOO_LARGE}\n")
        sys.stderr.write(_about_handles(error))
        if options.verbose:
            raise
        return EXIT_FAILURE
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: nothing half-written is left; files that were finished are kept.\n")
        return EXIT_INTERRUPTED
