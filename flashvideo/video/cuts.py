"""Where one scene ends and another begins: a picture that has little to do with the one before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .files import open_video
from .frames import Shown
from .reading import Picture, Pictures

WIDTH, HEIGHT = 64, 36  # that pictures are reduced to
DIFFERENCE = 30.0  # of 255, on average over pixels and colours: what no motion reaches
TIMES_BEFORE = 2.0  # as much as from the picture before to the one before that: fast motion and flickering light


def find_cuts(shown: Shown, told: Callable[[int], None] = lambda _frame: None) -> list[int]:
    """Numbers of the frames that begin a scene, but for the first: one pass over the video, which decodes it.

    A picture, reduced to 64x36, begins a scene if it differs from the one before by more than 30 of 255 on average,
    and by more than twice as much as that one did from its own. In fades and wipes nothing is found, nor between two
    pictures that are dark all over; a flash is taken for a cut.

    Args:
        told: called with the number of every frame. What it raises ends the search.

    Raises:
        ValueError: the file cannot be read.
    """
    from av.error import FFmpegError

    cuts: list[int] = []
    before: NDArray[np.int16] | None = None
    difference = 0.0
    try:
        for position, picture in _positions(shown):
            told(position)
            small = _reduced(picture)
            if before is not None:
                last, difference = difference, float(np.abs(small - before).mean())
                if difference > max(DIFFERENCE, TIMES_BEFORE * last):
                    cuts.append(position)
            before = small
    except FFmpegError as error:
        raise ValueError(f"{shown.path} is damaged ({error.strerror}). Copy or download it again.") from error
    return cuts


def _positions(shown: Shown) -> Iterator[tuple[int, Picture]]:
    """Every picture that is shown with the number of its first frame."""
    position = 0
    with open_video(shown.path) as container:
        for number, picture in enumerate(Pictures(container)):
            count = shown.repeats.get(number, 1)
            if count:
                yield position, picture
            position += count


def _reduced(picture: Picture) -> NDArray[np.int16]:
    frame: Any = picture.frame.reformat(width=WIDTH, height=HEIGHT, format="rgb24")
    return np.asarray(frame.to_ndarray(), dtype=np.int16)
