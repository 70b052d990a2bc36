"""Windows in time: a network's predictions on overlapping stretches of a video, joined to one of the whole video."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import add, mul
from typing import TypeVar

import torch
from torch import Tensor

Latents = TypeVar("Latents", Tensor, "LatentStream")


@dataclass(frozen=True)
class TimeWindows:
    """Stretches of latent frames that the network is evaluated on, one at a time.

    Every stretch has ``length`` latents. Each begins ``length - overlap`` after the one before, the last so that it
    ends with the video. Where two share latents, the later one's share of the prediction rises from 0 to 1: at every
    latent the shares add up to 1, and none depends on how long the video is. A video of at most ``length`` latents is
    one stretch.

    Attributes:
        length: latents that the network sees at once; Stage II was trained on 13 (49 frames).
        overlap: of them, those that are the window's before as well.
        lead: of the overlap, latents at a window's start that the network only sees, and whose prediction is the
            window's before. The network was trained with a first latent that holds one frame, where later ones hold
            four; measured, a lead gains nothing over the same overlap without one (docs/windows.md).

    Raises:
        ValueError: numbers that leave nothing to join.
    """

    length: int = 13
    overlap: int = 3
    lead: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"time windows: {name} is {value!r}; expected a whole number of latent frames.")
        if self.length < 1:
            raise ValueError(
                f"time windows of {self.length} latents; expected 1 or more. Stage II was trained on 13, which are 49 "
                "frames."
            )
        if not 0 <= self.overlap < self.length:
            raise ValueError(
                f"time windows of {self.length} latents that overlap by {self.overlap}; expected an overlap from 0 to "
                f"{self.length - 1}, or no window would go on from the one before."
            )
        if not 0 <= self.lead <= self.overlap:
            raise ValueError(
                f"time windows with a lead of {self.lead} latents in an overlap of {self.overlap}; expected 0 to "
                f"{self.overlap}: the window before has to predict what a lead leaves out."
            )

    @property
    def blended(self) -> int:
        """Latents at the end of a window that the next one has a share in."""
        return self.overlap - self.lead


TRAINED_WINDOWS = TimeWindows()


def frames_at_once(windows: TimeWindows | None, frames: int) -> int:
    """Of so many latent frames, those that the network sees at once."""
    return frames if windows is None else min(frames, windows.length)


def join_windows(
    latents: Iterable[Tensor], windows: TimeWindows, predict: Callable[[Tensor], Tensor]
) -> Iterator[Tensor]:
    """The joined prediction, latent by latent, each as soon as no later window has a share in it.

    At any time it holds one window of latents, of predictions, and what is waiting for the next window.

    Args:
        latents: ``[B, C, 1, h, w]`` each, in order; how many there are need not be known.
        predict: ``[B, C, T, h, w]`` -> the network's prediction, of the same shape; T is ``windows.length``, or less
            where there are no more latents at all.

    Yields:
        ``[B, C, 1, h, w]``, as many as there are latents.
    """
    source = iter(latents)
    window = deque(islice(source, windows.length), maxlen=windows.length)
    waiting: list[Tensor] = []
    fresh = len(window)
    while fresh:
        predicted = predict(torch.cat(tuple(window), dim=2)).split(1, dim=2)
        waiting = [*_blend(waiting, predicted[: len(window) - fresh]), *predicted[len(window) - fresh :]]
        del predicted
        while len(waiting) > windows.blended:
            yield waiting.pop(0)
        news = list(islice(source, windows.length - windows.overlap))
        window.extend(news)
        fresh = len(news)
    yield from waiting


def _blend(earlier: list[Tensor], later: Sequence[Tensor]) -> list[Tensor]:
    """``earlier`` with the shares of a window that predicts the same latents ``later``, at its end."""
    shares = [(index + 1) / (len(earlier) + 1) for index in range(len(earlier))]
    later = later[len(later) - len(earlier) :]
    return [(1 - share) * old + share * new for share, old, new in zip(shares, earlier, later, strict=True)]


class LatentStream:
    """Latents that come one after another, with the arithmetic of a solver's step.

    It may be read several times, at different paces; what every reader has read is let go. All readers are there
    before the first of them reads.

    Args:
        latents: ``[B, C, 1, h, w]`` each, in order.
    """

    def __init__(self, latents: Iterable[Tensor]) -> None:
        self._source = iter(latents)
        self._unread: list[deque[Tensor]] = []

    def __iter__(self) -> Iterator[Tensor]:
        unread: deque[Tensor] = deque()
        self._unread.append(unread)
        return self._read(unread)

    def _read(self, unread: deque[Tensor]) -> Iterator[Tensor]:
        while True:
            if not unread:
                for latent in islice(self._source, 1):
                    for reader in self._unread:
                        reader.append(latent)
                    del latent  # or it would be held until the next one is read
            if not unread:
                return
            yield unread.popleft()

    def __add__(self, other: LatentStream) -> LatentStream:
        return LatentStream(map(add, self, other))

    def __rmul__(self, factor: Tensor | float) -> LatentStream:
        return LatentStream(map(partial(mul, factor), self))

    def watch(self, told: Callable[[Tensor], None]) -> None:
        """Have a function called with each latent as it comes."""

        def passed_on(latent: Tensor) -> Tensor:
            told(latent)
            return latent

        self._source = map(passed_on, self._source)


def evaluate_windows(x: Latents, windows: TimeWindows, predict: Callable[[Tensor], Tensor]) -> Latents:
    """The joined prediction of latents that are all there, ``[B, C, T, h, w]``, or of a stream; see `join_windows`."""
    if isinstance(x, LatentStream):
        return LatentStream(join_windows(iter(x), windows, predict))
    return torch.cat(tuple(join_windows(x.split(1, dim=2), windows, predict)), dim=2)
