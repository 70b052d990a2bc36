"""Small videos of every kind that containers allow: their pictures tell which one they are, and which way up."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH, RATE = 48, 80, 10
CORNERS = ((200, 60, 60), (60, 200, 60), (60, 60, 200), (200, 200, 200))  # top left, top right, bottom left and right
STEP = 8  # of grey from one picture to the next


def corners() -> NDArray[np.uint8]:
    """A picture of four quarters in :data:`CORNERS`."""
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    for number, colour in enumerate(CORNERS):
        top, left = number // 2 * HEIGHT // 2, number % 2 * WIDTH // 2
        picture[top : top + HEIGHT // 2, left : left + WIDTH // 2] = colour
    return picture


def grey(number: int) -> NDArray[np.uint8]:
    """The picture of this number: as bright as it is late."""
    return np.full((HEIGHT, WIDTH, 3), 16 + STEP * number, np.uint8)


def numbers_of(video: Any) -> list[int]:
    """Which pictures a video ``[3, F, H, W]`` of :func:`grey` ones shows."""
    return [round((float(frame.mean()) * 255 - 16) / STEP) for frame in video.unbind(1)]


def make(
    path: Path,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    times: Sequence[int] = (),
    tick: Fraction | None = None,
    late: int = 0,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    change: Callable[[Any], None] = lambda stream: None,
) -> Path:
    """Write a video.

    Args:
        times: of the pictures, in ticks; without, they come ``RATE`` times a second.
        late: so many ticks after 0 the first is shown; below 0 the container cuts the beginning off.
        options, muxer: FFmpeg's, of the encoder and of the container.
        change: what else is done to the stream.
    """
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream: Any = container.add_stream(codec, rate=RATE, options=options or {})
        (stream.height, stream.width), stream.pix_fmt = pictures[0].shape[:2], pixel_format
        if tick is not None:
            stream.codec_context.time_base = tick
        change(stream)
        _mux(container, stream, pictures, times, tick or Fraction(1, RATE), late)
    return path


def _mux(
    container: Any, stream: Any, pictures: Sequence[Any], times: Sequence[int], tick: Fraction, late: int = 0
) -> None:
    packets = []
    for number, pixels in enumerate(pictures):
        shape = "rgba" if pixels.shape[2] == 4 else "rgb24"
        frame: Any = av.VideoFrame.from_ndarray(pixels, format=shape).reformat(format=stream.pix_fmt)
        frame.pts, frame.time_base = times[number] if times else number, tick
        packets += stream.encode(frame)
    for packet in [*packets, *stream.encode()]:
        packet.pts += late
        packet.dts += late
        container.mux(packet)


def turned(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """An .mp4 of :func:`corners` whose track header says that ``x' = a x + c y``, ``y' = b x + d y``."""
    content = bytearray(make(path, [corners()] * 3, options={"crf": "5"}).read_bytes())
    fixed = (round(65536 * value) for value in (a, b, 0, c, d, 0, 0, 0))
    place = content.index(b"tkhd") + 44  # behind version, times, track, duration, layer and volume
    content[place : place + 36] = struct.pack(">9i", *fixed, 1 << 30)
    path.write_bytes(content)
    return path


def with_cover(path: Path, *, first: bool) -> Path:
    """Twelve grey pictures and a cover, which is the first or the last video track."""
    with av.open(str(path), "w") as container:

        def cover() -> None:
            stream: Any = container.add_stream("png", rate=RATE)
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "rgb24"
            mark(stream, "attached_pic")
            streams.append((stream, [corners()]))

        streams: list[tuple[Any, list[Any]]] = []
        if first:
            cover()
        streams.append((_film(container), [grey(number) for number in range(12)]))
        if not first:
            cover()
        for stream, pictures in streams:
            _mux(container, stream, pictures, (), Fraction(1, RATE))
    return path


def several(path: Path, *, default: int) -> Path:
    """Three video tracks, whose first pictures are numbers 0, 4 and 8; one is marked as the default."""
    with av.open(str(path), "w") as container:
        streams = [_film(container) for _ in range(3)]
        for number, stream in enumerate(streams):
            mark(stream, "default" if number == default else "")
        for number, stream in enumerate(streams):
            _mux(container, stream, [grey(4 * number + k) for k in range(4)], (), Fraction(1, RATE))
    return path


def sound(path: Path, tones: Sequence[float], *, default: int, rate: int = 8000, film: int = 0) -> Path:
    """An audio track of a second for each tone, in Hz; 0 is silent 5.1. One is marked as the default.

    Args:
        film: number of grey pictures to go with it.
    """
    with av.open(str(path), "w") as container:
        shown = _film(container) if film else None
        streams: list[Any] = [container.add_stream("flac", rate=rate, layout="mono" if t else "5.1") for t in tones]
        for number, stream in enumerate(streams):
            mark(stream, "default" if number == default else "")
        if shown is not None:
            _mux(container, shown, [grey(number) for number in range(film)], (), Fraction(1, RATE))
        for stream, tone in zip(streams, tones, strict=True):
            wave = 0.5 * np.sin(2 * np.pi * tone * np.arange(rate) / rate)
            _mux_sound(container, stream, wave if tone else np.zeros((6, rate)), rate, 0)
            container.mux(stream.encode())
    return path


def beep(
    path: Path,
    *waves: Any,
    rate: int = 8000,
    channels: int = 1,
    late: float = 0,
    gap: float = 0,
    film: Any = None,
    codec: str = "flac",
) -> Path:
    """Sounds ``[samples]`` one after the other with gaps between, the first ``late``, in seconds.

    Args:
        film: pictures and their times in milliseconds, to go with the sound.
    """
    with av.open(str(path), "w") as container:
        if film is not None:
            shown = _film(container, Fraction(1, 1000))
        layout = {1: "mono", 2: "stereo", 8: "7.1"}[channels]
        stream: Any = container.add_stream(codec, rate=rate, layout=layout)
        if film is not None:
            _mux(container, shown, *film, Fraction(1, 1000))
        for wave in waves:
            _mux_sound(container, stream, np.tile(np.asarray(wave), (channels, 1)), rate, late)
            late += np.asarray(wave).shape[-1] / rate + gap
        container.mux(stream.encode())
    return path


def _film(container: Any, tick: Fraction | None = None) -> Any:
    stream = container.add_stream("libx264", rate=RATE)
    stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
    if tick is not None:
        stream.codec_context.time_base = tick
    return stream


def _mux_sound(container: Any, stream: Any, wave: NDArray[Any], rate: int, start: float) -> None:
    """Encode ``[channels, samples]`` from a time on."""
    samples = (np.atleast_2d(wave) * 32767).astype(np.int16).T.reshape(1, -1)
    frame: Any = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(samples), format="s16", layout=stream.codec_context.layout.name
    )
    frame.sample_rate, frame.pts, frame.time_base = rate, round(start * rate), Fraction(1, rate)
    container.mux(stream.encode(frame))


def mark(stream: Any, name: str) -> None:
    """Give a track a mark, or none; PyAV before 15 cannot."""
    if (known := getattr(stream, "disposition", None)) is not None:
        stream.disposition = type(known)[name].value if name else 0
