"""``flashvideo COMMAND``; :data:`COMMANDS` lists them."""

from __future__ import annotations

import argparse
import errno
import importlib
import logging
import signal
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from .. import __version__
from ..checkpoints.outputs import advice
from .progress import escape_what_cannot_be_shown

COMMANDS = {  # name -> its module here, whose add_NAME(parser) adds the options; its line in the help
    "generate": ("generate", "a prompt, or a file of prompts, to video"),
    "refine": ("generate", "Stage II of a saved preview, or of any video"),
    "decode": ("generate", "latents of any file that this program wrote to video"),
    "calibrate": ("calibrate", "find the noise step that suits a video"),
    "convert": ("checkpoints", "a checkpoint to native safetensors"),
    "inspect": ("checkpoints", "what is this checkpoint, does it fit, what is missing"),
    "verify": ("verify", "does every path of this machine give what plain fp32 gives"),
    "plan": ("plan", "what a run will take, on this machine or another"),
    "train": ("train", "train a model from a configuration file"),
    "report": ("report", "measure a small model on drawn held-out clips"),
    "score": ("score", "judge a video by numbers"),
    "bench": ("bench", "what the networks cost on this machine and on others"),
    "compare": ("compare", "show videos in step on one HTML page, with scores and a blind test"),
}
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


def build_parser(words: Collection[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """The parser of all commands, for a command line of these words.

    Only commands whose names are among the words have their options: those come with a command's module, which takes a
    second to import, so that ``flashvideo --help`` does without.
    """
    parser = argparse.ArgumentParser(
        prog="flashvideo", description="Two-stage video generation: a small preview first, then full resolution."
    )
    parser.add_argument("--version", action="version", version=f"flashvideo {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell more of what happens")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if name in words:
            getattr(importlib.import_module(f".{module}", __name__), f"add_{name}")(command)
    return parser


def parse_options(words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line. For commands that set ``folder_settings`` to their parser, a ``settings.json`` in the
    models' folder gives the defaults of the stages' options, and a student those that it was made for.

    Raises:
        ValueError: a ``settings.json`` that cannot be read, or with other names or kinds of values.
    """
    parser = build_parser(words)
    options = parser.parse_args(words)
    if (command := getattr(options, "folder_settings", None)) is None:
        return options
    from .options import model_defaults

    command.set_defaults(**model_defaults(options))
    return parser.parse_args(words)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (2: bad input, 1: a failure, 130: interrupted)."""
    escape_what_cannot_be_shown()
    try:
        options = parse_options(sys.argv[1:] if argv is None else argv)
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
        from ..tensors.failures import is_too_large

        if is_too_large(error):
            sys.stderr.write(f"{_TOO_LARGE}\n")
        sys.stderr.write(_about_handles(error))
        if options.verbose:
            raise
        return EXIT_FAILURE
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: nothing half-written is left; files that were finished are kept.\n")
        return EXIT_INTERRUPTED
