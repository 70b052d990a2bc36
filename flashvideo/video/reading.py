"""The one reader of videos: pictures as a player shows them, with their times, and what of a file they do not show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .ffmpeg import to_rgb24
from .resize import resize_video
from .timing import Timing
from .tracks import picture_track, picture_tracks

Pixels = NDArray[np.uint8]

_USUAL_RATE = Fraction(25)  # of files that tell none, FFmpeg's own guess
_FIXED_POINT = 65536  # of a display matrix
_TRANSFERS = {16: "HDR (PQ)", 18: "HDR (HLG)"}
_PRIMARIES = {9: "wide gamut (BT.2020)", 11: "wide gamut (DCI-P3)", 12: "wide gamut (Display P3)"}
_SQUARE = Fraction(1)
_MAX_STRETCH = 4  # of a pixel; beyond it the file is wrong


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        time: when it is shown, in seconds on the file's clock.
        frame: PyAV's.
        codec: name of its decoder.
        pixel_aspect: width of a pixel by its height.
    """

    time: Fraction
    frame: Any
    codec: str
    pixel_aspect: Fraction

    def pixels(self) -> Pixels:
        """``[H, W, 3]`` uint8 as it is shown: upright, with square pixels."""
        return _turned(_squared(to_rgb24(self.frame, self.codec).to_ndarray(), self.pixel_aspect), turn_of(self.frame))


class Pictures:
    """The pictures of an open container, in the order of their times.

    Args:
        container: PyAV's, opened for reading.
        start: pictures before it are left out, in seconds on the file's clock, rounded down to the file's ticks; None
            leaves none out.
        stop: likewise those from it on.

    Attributes:
        stream: the video stream that is read; None if there is none, and then there are no pictures.
        rates: that the file announces, in pictures a second.
        remarks: what of the file the pictures do not show, in sentences. Complete after the first picture.
    """

    def __init__(self, container: Any, start: Fraction | None = None, stop: Fraction | None = None) -> None:
        self.container, self.start, self.stop = container, start, stop
        self.stream: Any = picture_track(container)
        self.remarks: list[str] = []
        self.rates: list[Fraction] = []
        self._times: list[Fraction] = []
        self._tick = Fraction(0)
        self._end: Fraction | None = None  # of the last packet, once all were read
        if self.stream is None:
            return
        self.stream.thread_type = "AUTO"
        announced = (self.stream.average_rate, self.stream.guessed_rate)
        self.rates = [Fraction(rate) for rate in announced if rate]
        self._tick = Fraction(self.stream.time_base)
        self.start, self.stop = (
            limit if limit is None else limit // self._tick * self._tick for limit in (start, stop)
        )

    def __iter__(self) -> Iterator[Picture]:
        if self.stream is None:
            return
        aspect, decoder = self._pixel_aspect(), self.stream.codec_context.name
        if self.start is not None and self.start > 0:
            self.container.seek(int(self.start / self._tick), stream=self.stream)
        end = Fraction(0)
        for packet in self.container.demux(self.stream):
            if packet.pts is not None and packet.duration and not packet.is_discard:
                end = max(end, (packet.pts + packet.duration) * self._tick)
            for frame in packet.decode():
                time = self._time_of(frame)
                if self.start is not None and time < self.start:
                    continue
                if self.stop is not None and time >= self.stop:
                    return
                if not self._times:
                    self.remarks += remarks_on(self.container, self.stream, frame)
                self._times.append(time)
                yield Picture(time, frame, decoder, aspect)
        self._end = end

    @property
    def first(self) -> Fraction:
        """Time of the first picture that was read, on the file's clock."""
        return self._times[0]

    def timing(self) -> Timing:
        """Of the pictures that were read; none give none."""
        times = tuple(time - self.first for time in self._times)
        last = times[-1] if times else Fraction(0)
        ends = [end - self.first for end in (self._end, self.stop) if end is not None and times]
        end = min(ends, default=last)
        return Timing(times, end if end > last else last + self._interval(), self._tick)

    @property
    def is_cut_short(self) -> bool:
        """Whether a file that was read to its end should have had more: fewer pictures than announced, and earlier."""
        stream, count = self.stream, len(self._times)
        if not 0 < count < stream.frames:  # 0: not announced
            return False
        if stream.duration is None:
            return True
        end = ((stream.start_time or 0) + stream.duration) * self._tick
        return self.first + self.timing().end < end - self._interval()

    def _interval(self) -> Fraction:
        return 1 / (self.rates[0] if self.rates else _USUAL_RATE)

    def _time_of(self, frame: Any) -> Fraction:
        if frame.pts is not None:
            return frame.pts * Fraction(frame.time_base or self._tick)
        return self._times[-1] + self._interval() if self._times else Fraction(0)

    def _pixel_aspect(self) -> Fraction:
        aspect = Fraction(self.stream.sample_aspect_ratio or 1)
        if aspect > 0 and max(aspect, 1 / aspect) <= _MAX_STRETCH:
            return aspect
        self.remarks.append(
            f"Its pixels are said to be {float(aspect):.3g} times as wide as high, which is not minded."
        )
        return _SQUARE


def as_video(pixels: Pixels) -> Tensor:
    """``[H, W, 3]`` uint8 -> ``[3, H, W]`` fp32 in 0..1."""
    return torch.from_numpy(pixels).permute(2, 0, 1).float().div_(255)


def turn_of(frame: Any) -> tuple[int, int, int, int] | None:
    """How a frame is to be turned or mirrored: a, b, c, d of its display matrix as -1, 0 or 1.

    ``x' = a x + c y`` and ``y' = b x + d y``. None for a matrix that is no quarter turn and no mirror.
    """
    sides = [frame.side_data[index] for index in range(len(frame.side_data))]  # iterated, PyAV 19 gives names
    matrix = next((bytes(side) for side in sides if _is_display_matrix(side)), b"")
    if len(matrix) < 36:
        return 1, 0, 0, 1
    a, b, _, c, d = (int(value) / _FIXED_POINT for value in np.frombuffer(matrix, np.int32)[:5])
    most = max(map(abs, (a, b, c, d))) or 1.0
    parts = [value / most for value in (a, b, c, d)]
    first, second, third, fourth = (round(part) for part in parts)
    straight = all(abs(part - round(part)) < 0.01 for part in parts)
    if not straight or abs(first * fourth - second * third) != 1:
        return None
    return first, second, third, fourth


def remarks_on(container: Any, stream: Any, frame: Any) -> list[str]:
    """What a file says of its pictures that their pixels do not hold."""
    said = []
    if len(tracks := picture_tracks(container)) > 1:
        said.append(f"It has {len(tracks)} video tracks; number {tracks.index(stream) + 1} is read.")
    if turn_of(frame) is None:
        said.append("Its pictures are to be turned by an odd angle, which is not done.")
    transfer = int(getattr(frame, "color_trc", None) or stream.codec_context.color_trc or 0)
    primaries = int(getattr(frame, "color_primaries", None) or stream.codec_context.color_primaries or 0)
    if kind := _TRANSFERS.get(transfer) or _PRIMARIES.get(primaries):
        said.append(f"Its colours are {kind}; they are read as they are and look pale. Convert it to SDR, BT.709.")
    if frame.interlaced_frame:
        said.append("It is interlaced: lines of two moments are in every picture. Deinterlace it first.")
    if (bits := max(part.bits for part in frame.format.components)) > 8:
        said.append(f"It has {bits} bits a colour, of which 8 are read.")
    if _has_alpha(stream, frame):
        said.append("Its transparency is left out.")
    return said


def _has_alpha(stream: Any, frame: Any) -> bool:
    known = frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components)
    return known or stream.metadata.get("alpha_mode") == "1"  # WebM's, which FFmpeg's own decoders leave out


def _is_display_matrix(side: Any) -> bool:
    return str(getattr(side.type, "name", side.type)) == "DISPLAYMATRIX"


def _turned(pixels: Pixels, turn: tuple[int, int, int, int] | None) -> Pixels:
    a, b, c, d = turn or (1, 0, 0, 1)
    if not a:
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _squared(pixels: Pixels, aspect: Fraction) -> Pixels:
    """With square pixels; none are lost: the short side of a pixel sets the scale."""
    if aspect == _SQUARE:
        return pixels
    height, width = pixels.shape[:2]
    size = (height, round(width * aspect)) if aspect > 1 else (round(height / aspect), width)
    scaled = resize_video(as_video(pixels)[None, :, None], *size)[0, :, 0].clamp_(0, 1).mul_(255).round_()
    return scaled.byte().permute(1, 2, 0).numpy()
