"""Windows in time: a network's predictions on overlapping stretches of a video, joined to one of the whole video."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor


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
            four.

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
    source, blended = iter(latents), windows.blended
    window = deque(islice(source, windows.length), maxlen=windows.length)
    waiting: list[Tensor] = []
    fresh = len(window)
    while fresh:
        predicted = predict(torch.cat(tuple(window), dim=2)).split(1, dim=2)
        shared = predicted[len(window) - fresh - len(waiting) : len(window) - fresh]
        for index, later in enumerate(shared):
            share = (index + 1) / (len(shared) + 1)
            waiting[index] = (1 - share) * waiting[index] + share * later
        waiting += predicted[len(window) - fresh :]
        final = max(0, len(waiting) - blended)
        yield from waiting[:final]
        del waiting[:final], predicted, shared
        news = list(islice(source, windows.length - windows.overlap))
        window.extend(news)
        fresh = len(news)
    yield from waiting
