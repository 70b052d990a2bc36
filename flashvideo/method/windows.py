"""Windows in time: a network's predictions on overlapping stretches of a video, joined to one of the whole video."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import add, mul
from typing import Protocol, TypeVar

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


@dataclass(frozen=True)
class Settled:
    """What the evaluation of a window settled, and what the next one needs of it.

    Attributes:
        window: number in the video of the window's first latent.
        first: likewise of the first one in ``latents``.
        latents: joined predictions that no later window has a share in, ``[B, C, n, h, w]``; n may be 0.
        waiting: those that one has, likewise.
    """

    window: int
    first: int
    latents: Tensor
    waiting: Tensor

    @property
    def end(self) -> int:
        """Number of the latent behind ``latents``."""
        return self.first + self.latents.shape[2]


class Keeper(Protocol):
    """Keeps what windows settled, so that a later run need not evaluate them again.

    Attributes:
        begin: number in the video of the first latent that is read, and of which a prediction is made.
    """

    begin: int

    def kept(self) -> Iterator[Settled]:
        """What earlier runs settled: windows in order, all that end behind ``begin``."""
        ...

    def keep(self, settled: Settled) -> None:
        """Keep what was settled now, before anything goes on."""
        ...


def join_windows(
    latents: Iterable[Tensor],
    windows: TimeWindows,
    predict: Callable[[Tensor], Tensor],
    keeper: Keeper | None = None,
) -> Iterator[Tensor]:
    """The joined prediction, latent by latent, each as soon as no later window has a share in it.

    At any time it holds one window of latents, of predictions, and what is waiting for the next window.

    Args:
        latents: ``[B, C, 1, h, w]`` each, in order; how many there are need not be known.
        predict: ``[B, C, T, h, w]`` -> the network's prediction, of the same shape; T is ``windows.length``, or less
            where there are no more latents at all.
        keeper: what is there already, and what keeps the rest.

    Yields:
        ``[B, C, 1, h, w]``, as many as there are latents.
    """
    source = iter(latents)
    window: deque[Tensor] = deque(maxlen=windows.length)
    waiting: list[Tensor] = []
    place = settled = 0 if keeper is None else keeper.begin  # of the next latent that is read, and that is settled
    last: Settled | None = None
    for last in keeper.kept() if keeper is not None else ():
        yield from last.latents[:, :, max(0, settled - last.first) :].split(1, dim=2)
        settled = max(settled, last.end)
    if last is None:
        news = list(islice(source, windows.length))
    else:
        waiting = list(last.waiting.split(1, dim=2)) if last.waiting.shape[2] else []
        deque(islice(source, last.window - place), maxlen=0)
        window.extend(islice(source, windows.length))
        place = last.window + len(window)
        news = list(islice(source, windows.length - windows.overlap))
    while news:
        window.extend(news)
        place += len(news)
        known = len(window) - len(news)
        predicted = predict(torch.cat(tuple(window), dim=2)).split(1, dim=2)
        waiting = [*_blend(waiting, predicted[:known]), *predicted[known:]]
        ready = waiting[: max(0, len(waiting) - windows.blended)]
        waiting = waiting[len(ready) :]
        if keeper is not None:
            nothing = predicted[0][:, :, :0]
            done, left = (torch.cat((nothing, *part), dim=2) for part in (ready, waiting))
            keeper.keep(Settled(place - len(window), settled, done, left))
        settled += len(ready)
        del predicted
        while ready:
            yield ready.pop(0)
        news = list(islice(source, windows.length - windows.overlap))
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

    def beside(self, other: LatentStream) -> LatentStream:
        """Its channels, then the other's."""
        return LatentStream(map(channels_joined, self, other))

    def half(self, number: int) -> LatentStream:
        """The first (0) or the second (1) half of its channels."""
        return LatentStream(map(partial(channel_half, number=number), self))

    def watch(self, told: Callable[[Tensor], None]) -> None:
        """Have a function called with each latent as it comes."""

        def passed_on(latent: Tensor) -> Tensor:
            told(latent)
            return latent

        self._source = map(passed_on, self._source)


def channels_joined(first: Latents, second: Latents) -> Latents:
    """The channels of two latents, or of two streams of them, in one."""
    if isinstance(first, LatentStream) and isinstance(second, LatentStream):
        return first.beside(second)
    return torch.cat((first, second), dim=1)


def channel_half(latents: Latents, number: int) -> Latents:
    """The first (0) or the second (1) half of the channels of latents, or of a stream of them."""
    return latents.half(number) if isinstance(latents, LatentStream) else latents.chunk(2, dim=1)[number]


def evaluate_windows(
    x: Latents, windows: TimeWindows, predict: Callable[[Tensor], Tensor], keeper: Keeper | None = None
) -> Latents:
    """The joined prediction of latents that are all there, ``[B, C, T, h, w]``, or of a stream; see `join_windows`."""
    if isinstance(x, LatentStream):
        return LatentStream(join_windows(iter(x), windows, predict, keeper))
    return torch.cat(tuple(join_windows(x.split(1, dim=2), windows, predict, keeper)), dim=2)
