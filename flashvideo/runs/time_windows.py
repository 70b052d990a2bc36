"""Windows in time as people ask for them: their length in latent frames, and what two of them share."""

from __future__ import annotations

import re

from ..method.checks import shortened
from ..method.windows import TimeWindows

OFF = "0"
TIME_WINDOWS = "LENGTH or LENGTH,OVERLAP in latent frames (13,3)"


def time_windows(text: str) -> TimeWindows | None:
    """The windows that are asked for; ``None`` is everything at once.

    Args:
        text: ``0`` is none; else ``LENGTH``, or ``LENGTH,OVERLAP``; the overlap is 3 by default, less in windows that
            are no longer than that.

    Raises:
        ValueError: none of them, or windows that cannot be joined.
    """
    if text == OFF:
        return None
    match = re.fullmatch(r"(\d{1,6})(?:,(\d{1,6}))?", text)
    if match is None:
        raise ValueError(f"time windows are {shortened(text)}; expected {OFF} (off) or {TIME_WINDOWS}.")
    length = int(match[1])
    return TimeWindows(length, min(TimeWindows.overlap, max(0, length - 1)) if match[2] is None else int(match[2]))


def check_time_windows(text: str) -> None:
    """Raise ValueError for what :func:`time_windows` cannot read."""
    time_windows(text)
