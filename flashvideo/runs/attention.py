"""What Stage II's attention sees as people ask for it, in pixels of the refined video."""

from __future__ import annotations

import re

from ..method.checks import shortened
from ..models.windows import AttentionWindows
from ..tensors.sizes import SIZE_MULTIPLE, SPATIAL_FACTOR

AUTO, FULL, WINDOWS = "auto", "full", "windows"
ATTENTION = f"{AUTO}, {FULL}, {WINDOWS}, or WIDTHxHEIGHT, WIDTHxHEIGHT+POOLED, with ,still after it (960x544+4)"

TRAINED_FRAME = (1072, 1920)  # what Stage II's attention saw in training; rows and columns, of wide videos
QUARTER_FRAME, QUARTER_POOLED = (544, 960), 4
_WORDS = {AUTO: (TRAINED_FRAME, 0), WINDOWS: (QUARTER_FRAME, QUARTER_POOLED)}


def attention_windows(text: str, height: int, width: int) -> AttentionWindows | None:
    """The windows that are asked for; ``None`` is attention between all tokens.

    Args:
        text: ``full``; ``auto``: windows of the trained frame, where the video is larger than that; ``windows``: a
            quarter of it, with the whole frame pooled over 4 x 4 patches; ``WxH``: windows of that size in pixels,
            ``+N`` pools, ``,still`` does not shift them. The words' windows are turned for upright videos.
        height, width: of the refined video, in pixels.

    Raises:
        ValueError: none of them.
    """
    if text == FULL:
        return None
    (rows, columns), pooled, shift = _read(text)
    if text in _WORDS and height > width:
        rows, columns = columns, rows
    if rows >= height and columns >= width:
        return None
    return AttentionWindows(rows // SPATIAL_FACTOR, columns // SPATIAL_FACTOR, shift=shift, pooled=pooled)


def check_attention(text: str) -> None:
    """Raise ValueError for what :func:`attention_windows` cannot read."""
    attention_windows(text, *TRAINED_FRAME)


def _read(text: str) -> tuple[tuple[int, int], int, bool]:
    """(rows, columns) in pixels, what is pooled, whether windows are shifted."""
    if text in _WORDS:
        return *_WORDS[text], True
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})(?:\+(\d{1,4}))?(,still)?", text)
    if match is None:
        raise ValueError(f"attention is {shortened(text)}; expected {ATTENTION}.")
    width, height = int(match[1]), int(match[2])
    for side in (width, height):
        if side % SIZE_MULTIPLE or not side:
            below = side // SIZE_MULTIPLE * SIZE_MULTIPLE
            near = " or ".join(str(size) for size in (below, below + SIZE_MULTIPLE) if size)
            raise ValueError(
                f"attention is {shortened(text)}: a window's side is {side} pixels; expected a multiple of "
                f"{SIZE_MULTIPLE}, as {near}."
            )
    return (height, width), int(match[3] or 0), match[4] is None
