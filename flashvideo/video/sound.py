"""A file's sound, in step with its pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .tracks import sound_track

_CHANNELS = (1, 2, 6)  # that files are written with: mono, stereo, 5.1
_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)  # AAC's
_USUAL_RATE = 48000
_SLACK = Fraction(1, 50)  # seconds by which time stamps may be wrong: less is their rounding, more is a gap


@dataclass(frozen=True)
class Sound:
    """``waveform``: ``[channels, samples]`` fp32 in -1..1; ``rate``: samples a second."""

    waveform: Tensor
    rate: int


def read_sound(container: Any, start: Fraction, duration: Fraction) -> Sound | None:
    """The audio of the track that is played, of a time; None without any.

    What is missing at the front or on the way is silence, so that a sound stays at its picture. Layouts that files are
    not written with become stereo.

    Args:
        container: PyAV's, opened for reading.
        start: what the first sample belongs to, in seconds on the file's clock.
        duration: of what is read at most, in seconds.
    """
    stream = sound_track(container)
    if stream is None:
        return None
    rate = stream.rate if stream.rate in _RATES else _USUAL_RATE
    wanted, filled, slack = round(duration * rate), 0, round(_SLACK * rate)
    parts: list[NDArray[np.float32]] = []
    for time, samples in _pieces(container, stream, rate):
        place = round((time - start) * rate)
        if filled and abs(place - filled) <= slack:
            place = filled
        if place >= wanted:
            break
        if place > filled:
            parts.append(np.zeros((len(samples), place - filled), np.float32))
            filled = place
        parts.append(samples[:, filled - place :])
        filled += parts[-1].shape[1]
    if not filled:
        return None
    return Sound(torch.from_numpy(np.concatenate(parts, axis=1)[:, :wanted].copy()), rate)


def _pieces(container: Any, stream: Any, rate: int) -> Iterator[tuple[Fraction, NDArray[np.float32]]]:
    """Time and samples ``[channels, n]`` of what can be decoded, one after the other."""
    from av import AudioResampler
    from av.error import FFmpegError

    layout = stream.layout.name if len(stream.layout.channels) in _CHANNELS else "stereo"
    resampler, time = AudioResampler(format="fltp", layout=layout, rate=rate), Fraction(0)
    for packet in container.demux(stream):
        with contextlib.suppress(FFmpegError):  # a damaged packet is a gap
            for frame in packet.decode():
                for piece in resampler.resample(frame):
                    if piece.pts is not None:
                        time = piece.pts * Fraction(piece.time_base or 0)
                    samples: Any = piece.to_ndarray()
                    yield time, samples
                    time += Fraction(samples.shape[1], rate)
