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


class CutFinder:
    """Where scenes begin among pictures that come one after another.

    A picture, reduced to 64x36, begins a scene if it differs from the one before by more than 30 of 255 on average,
    and by more than twice as much as that one did from its own. In fades and wipes nothing is found, nor between two
    pictures that are dark all over; a flash is taken for a cut.

    Attributes:
        cuts: numbers of the pictures that begin a scene, but for the first.
    """

    def __init__(self) -> None:
        self.cuts: list[int] = []
        self._before: NDArray[np.int16] | None = None
        self._difference = 0.0

    def look(self, number: int, frame: Any) -> None:
        """The next picture, a frame of PyAV."""
        small = frame.reformat(width=WIDTH, height=HEIGHT, format="rgb24").to_ndarray().astype(np.int16)
        if self._before is not None:
            last, self._difference = self._difference, float(np.abs(small - self._before).mean())
            if self._difference > max(DIFFERENCE, TIMES_BEFORE * last):
                self.cuts.append(number)
        self._before = small


def find_cuts(shown: Shown, told: Callable[[int], None] = lambda _frame: None) -> list[int]:
    """Numbers of the frames that begin a scene, but for the first: one pass over the video, which decodes it.

    Args:
        told: called with the number of every frame. What it raises ends the search.

    Raises:
        ValueError: the file cannot be read.
    """
    from av.error import FFmpegError

    finder = CutFinder()
    try:
        for position, picture in _positions(shown):
            told(position)
            finder.look(position, picture.frame)
    except FFmpegError as error:
        raise ValueError(f"{shown.path} is damaged ({error.strerror}). Copy or download it again.") from error
    return finder.cuts


def _positions(shown: Shown) -> Iterator[tuple[int, Picture]]:
    """Every picture that is shown with the number of its first frame."""
    position = 0
    with open_video(shown.path) as container:
        for number, picture in enumerate(Pictures(container)):
            count = shown.repeats.get(number, 1)
            if count:
                yield position, picture
            position += count
