"""What containers say of time, shape, colour, transparency and tracks is kept or told, in training too."""

from __future__ import annotations

import logging
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from flashvideo.training.media import BadClipError, Framing, read_clip
from flashvideo.video.ffmpeg import open_input
from flashvideo.video.files import read_video
from flashvideo.video.reading import Pictures
from flashvideo.video.sound import Sound, read_sound
from flashvideo.video.timing import Timing
from tests.unit.video.odd_videos import (
    CORNERS,
    HEIGHT,
    WIDTH,
    beep,
    corners,
    grey,
    make,
    numbers_of,
    several,
    sound,
    turned,
    with_cover,
)

TURNS = {
    "as it is": (1, 0, 0, 1),
    "90": (0, 1, -1, 0),
    "180": (-1, 0, 0, -1),
    "270": (0, -1, 1, 0),
    "mirrored across": (-1, 0, 0, 1),
    "mirrored down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transposed the other way": (0, -1, -1, 0),
}
UPRIGHT = {(-1, -1): 0, (1, -1): 1, (-1, 1): 2, (1, 1): 3}  # (right, down): which corner
MARKED = pytest.mark.skipif(
    tuple(int(part) for part in av.__version__.split(".")[:2]) < (15, 0), reason="this PyAV cannot mark tracks"
)


def clip_of(path: Path, frames: int, size: tuple[int, int] = (HEIGHT, WIDTH), **framing: Any) -> Tensor:
    return read_clip(path, Framing(*size, frames, **framing), torch.Generator().manual_seed(0))


def places(picture: Tensor) -> dict[tuple[int, int], int]:
    """Number of the corner that is nearest in colour, by (right, down) as -1 or 1."""
    _, height, width = picture.shape
    found = {}
    for right in (-1, 1):
        for down in (-1, 1):
            pixel = picture[:, height // 2 + down * height // 4, width // 2 + right * width // 4] * 255
            found[right, down] = int(np.argmin([abs(pixel.numpy() - np.array(c)).sum() for c in CORNERS]))
    return found


# ---- shape


@pytest.mark.parametrize("turn", TURNS)
def test_pictures_are_turned_as_the_track_says(tmp_path: Path, turn: str) -> None:
    a, b, c, d = TURNS[turn]
    path = turned(tmp_path / "in.mp4", a, b, c, d)
    size = (HEIGHT, WIDTH) if a else (WIDTH, HEIGHT)
    video, clip = read_video(path)[0][0], clip_of(path, 2, size)
    expected = {(a * x + c * y, b * x + d * y): corner for (x, y), corner in UPRIGHT.items()}
    for picture in (video[:, 0], clip[:, 1]):
        assert tuple(picture.shape) == (3, *size)
        assert places(picture) == expected


def test_an_odd_angle_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sine = math.sin(math.radians(30))
    path = turned(tmp_path / "in.mp4", 0.866, sine, -sine, 0.866)
    assert places(read_video(path)[0][0, :, 0]) == UPRIGHT
    assert "odd angle" in caplog.text


@pytest.mark.parametrize(
    ("aspect", "size"), [(Fraction(2), (48, 160)), (Fraction(16, 15), (48, 85)), (Fraction(1, 2), (96, 80))]
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_pixels_become_square(tmp_path: Path, suffix: str, aspect: Fraction, size: tuple[int, int]) -> None:
    def narrow(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = aspect

    path = make(tmp_path / f"in{suffix}", [corners()] * 3, change=narrow)
    video = read_video(path)[0][0]
    assert tuple(video.shape[2:]) == size
    assert places(video[:, 0]) == places(clip_of(path, 3, size)[:, 0]) == UPRIGHT


# ---- time

UNEVEN = [0, 33, 67, 100, 300, 500, 700, 733, 767, 800]  # milliseconds
AT_TEN = [0, 3, 3, 4, 4, 5, 5, 6, 9]  # what is shown at 0, 0.1, 0.2 ...


def uneven(path: Path) -> Path:
    return make(path, [grey(number) for number in range(10)], times=UNEVEN, tick=Fraction(1, 1000))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
class TestVaryingRate:
    def test_frames_are_taken_by_their_times(self, tmp_path: Path, suffix: str) -> None:
        path = uneven(tmp_path / f"in{suffix}")
        video, fps = read_video(path, fps=10)
        assert fps == 10
        assert numbers_of(video[0])[:9] == AT_TEN
        assert numbers_of(clip_of(path, 9, fps=10)) == AT_TEN

    def test_without_a_rate_each_comes_once_and_it_is_told(
        self, tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        video, fps = read_video(uneven(tmp_path / f"in{suffix}"))
        assert numbers_of(video[0]) == list(range(10))
        assert float(fps) == pytest.approx(10 / 0.85, rel=0.2)
        assert "rate varies" in caplog.text

    def test_random_starts_keep_the_times(self, tmp_path: Path, suffix: str) -> None:
        path, framing, seen = uneven(tmp_path / f"in{suffix}"), Framing(HEIGHT, WIDTH, 4, fps=10, start="random"), set()
        for seed in range(12):
            numbers = numbers_of(read_clip(path, framing, torch.Generator().manual_seed(seed)))
            start = UNEVEN[numbers[0]]
            shown = [max(k for k, time in enumerate(UNEVEN) if time <= start + 100 * n + 1) for n in range(4)]
            assert numbers == shown
            seen.add(numbers[0])
        assert len(seen) > 2


@pytest.mark.parametrize(("suffix", "late"), [(".mp4", -8), (".mov", -8), (".mp4", -3)])
def test_what_an_edit_list_cuts_off_is_not_there(tmp_path: Path, suffix: str, late: int) -> None:
    path = make(tmp_path / f"in{suffix}", [grey(number) for number in range(24)], late=late)
    numbers = list(range(-late, 24))
    assert b"elst" in path.read_bytes()
    assert numbers_of(read_video(path)[0][0]) == numbers
    for seed in range(8):
        framing = Framing(HEIGHT, WIDTH, len(numbers) - 2, start="random")
        clip = numbers_of(read_clip(path, framing, torch.Generator().manual_seed(seed)))
        assert clip in [numbers[k : k + len(numbers) - 2] for k in range(3)]
    with pytest.raises(BadClipError, match=f"{len(numbers)} frames; 24 are needed"):
        clip_of(path, 24)


def test_a_torn_file_with_an_edit_list_is_found_out(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, HEIGHT, WIDTH, 3), np.uint8)
    path = make(tmp_path / "in.mp4", list(noise), late=-8, muxer={"movflags": "faststart"})
    assert read_video(path)[0].shape[2] == 32
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"cut short: \d+ of 40|damaged after \d+ frames"):
        read_video(path)


@pytest.mark.parametrize(("suffix", "codec"), [(".ts", "mpeg2video"), (".mkv", "libx264"), (".mp4", "libx264")])
def test_a_first_time_that_is_not_zero_is_the_beginning(tmp_path: Path, suffix: str, codec: str) -> None:
    path = make(tmp_path / f"in{suffix}", [grey(number) for number in range(12)], late=50, codec=codec)
    video, fps = read_video(path)
    assert (numbers_of(video[0]), fps) == (list(range(12)), 10)
    assert numbers_of(clip_of(path, 5, fps=5)) == [0, 2, 4, 6, 8]
    assert numbers_of(read_video(path, fps=5)[0][0]) == [0, 2, 4, 6, 8, 10]


def test_a_stream_without_times_goes_by_its_rate(tmp_path: Path) -> None:
    path = make(tmp_path / "in.h264", [grey(number) for number in range(12)], options={"bf": "0"})
    assert numbers_of(read_video(path)[0][0]) == list(range(12))


@pytest.mark.parametrize("tick", [0, Fraction(1, 600), Fraction(1, 1000), Fraction(1, 90000)])
@pytest.mark.parametrize("rate", [Fraction(24), Fraction(30000, 1001), Fraction(60)])
def test_rounded_times_are_no_varying_rate(tick: Fraction, rate: Fraction) -> None:
    times = tuple(round(k / rate / tick) * tick if tick else k / rate for k in range(300))
    timing = Timing(times, times[-1] + 1 / rate, Fraction(tick or 1 / rate))
    assert timing.average([rate]) == rate
    assert timing.steady([rate]) == (rate, list(range(300)))
    assert timing.at_rate(rate) == list(range(300))
    assert timing.at_rate(rate / 2) == list(range(0, 300, 2))


@pytest.mark.parametrize(
    ("milliseconds", "rate", "lost"),
    [
        ([0, 33, 67, 100, 300, 500], Fraction(30), 0),
        ([0, 10, 20, 500, 1000], Fraction(60000, 1001), 0),
        ([0, 17, 33, 500, 1000], Fraction(48), 0),
        ([0, 1, 500, 1000], Fraction(60), 1),  # no rate shows both of the first two
    ],
)
def test_a_steady_rate_loses_no_picture_where_one_can(milliseconds: list[int], rate: Fraction, lost: int) -> None:
    times = tuple(Fraction(time, 1000) for time in milliseconds)
    timing = Timing(times, times[-1] + Fraction(1, 10), Fraction(1, 1000))
    found, numbers = timing.steady([Fraction(1000), Fraction(30)])
    assert found == rate
    assert len(set(numbers)) == len(times) - lost
    assert sorted(numbers) == numbers
    for k, number in enumerate(numbers):  # in step: what is shown is what is due
        due = k / found + Fraction(1, 1000)
        assert times[number] <= due
        assert number + 1 == len(times) or times[number + 1] > due


# ---- colour, transparency, interlacing


def colours(**codes: int) -> Any:
    def change(stream: Any) -> None:
        for name, code in codes.items():
            setattr(stream.codec_context, name, code)

    return change


TOLD = {
    "HDR (PQ)": {"change": colours(color_trc=16, color_primaries=9, colorspace=9)},
    "HDR (HLG)": {"change": colours(color_trc=18, color_primaries=9, colorspace=9)},
    "10 bits a colour": {"pixel_format": "yuv420p10le"},
    "wide gamut (BT.2020)": {"change": colours(color_trc=1, color_primaries=9, colorspace=9)},
    "interlaced": {"options": {"x264-params": "interlaced=1:weightp=0"}},
    "transparency": {"codec": "png", "pixel_format": "rgba"},
}


@pytest.mark.parametrize("words", TOLD)
def test_what_pixels_do_not_hold_is_told(tmp_path: Path, words: str, caplog: pytest.LogCaptureFixture) -> None:
    path = make(tmp_path / "in.mov", [grey(number) for number in range(4)], **TOLD[words])
    for read in (read_video, lambda path: clip_of(path, 3)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            read(path)
        assert words in caplog.text
        assert str(path) in caplog.text
        assert len(caplog.records) == 1


def test_an_ordinary_video_is_read_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = make(tmp_path / "in.mp4", [grey(number) for number in range(4)], change=colours(color_trc=1, colorspace=1))
    read_video(path)
    clip_of(path, 4, fps=10)
    assert not caplog.records


# ---- tracks


@pytest.mark.parametrize("first", [False, True])
def test_a_cover_is_no_video(tmp_path: Path, first: bool, caplog: pytest.LogCaptureFixture) -> None:
    path = with_cover(tmp_path / "in.mp4", first=first)
    assert numbers_of(read_video(path)[0][0]) == list(range(12))
    assert numbers_of(clip_of(path, 5)) == list(range(5))
    assert not caplog.records


@MARKED
@pytest.mark.parametrize("default", [0, 1, 2])
def test_the_default_video_track_is_read_and_told(
    tmp_path: Path, default: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = several(tmp_path / "in.mkv", default=default)
    assert numbers_of(read_video(path)[0][0]) == [4 * default + k for k in range(4)]
    assert f"3 video tracks; number {default + 1} is read" in caplog.text


def test_pictures_before_and_after_a_window_are_left_out(tmp_path: Path) -> None:
    path = make(tmp_path / "in.mp4", [grey(number) for number in range(24)])
    with open_input(path) as container:
        pictures = Pictures(container, Fraction(1), Fraction(17, 10))
        assert [float(picture.time) for picture in pictures] == [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]
        assert pictures.timing().end == Fraction(7, 10)


# ---- sound


def heard(path: Path, start: float = 0, duration: float = 10) -> Sound | None:
    with open_input(path) as container:
        return read_sound(container, Fraction(start), Fraction(duration))


def pitch(sound: Sound) -> float:
    """Of the strongest tone, in Hz."""
    spectrum = torch.fft.rfft(sound.waveform[0]).abs()
    return float(spectrum.argmax()) * sound.rate / sound.waveform.shape[1]


@MARKED
@pytest.mark.parametrize(("default", "tone", "channels"), [(0, 440, 1), (1, 880, 1), (2, 0, 6)])
def test_the_default_audio_track_is_heard(tmp_path: Path, default: int, tone: float, channels: int) -> None:
    sounds = heard(sound(tmp_path / "in.mkv", [440, 880, 0], default=default))
    assert sounds is not None
    assert (sounds.waveform.shape, sounds.rate) == ((channels, 8000), 8000)
    assert pitch(sounds) == pytest.approx(tone, abs=1)
    assert bool(sounds.waveform.any()) == bool(tone)


@pytest.mark.parametrize(("late", "start"), [(0.0, 0.0), (0.25, 0.0), (0.0, 0.3), (0.25, 0.4), (0.5, 0.2)])
def test_sound_stays_at_its_time(tmp_path: Path, late: float, start: float) -> None:
    """A ramp of one second that begins ``late``, read from ``start`` on for 0.6 seconds."""
    path = beep(tmp_path / "in.mkv", torch.linspace(0.1, 1, 8000), late=late)
    sounds = heard(path, start, 0.6)
    assert sounds is not None
    assert sounds.waveform.shape == (1, round(0.6 * 8000))
    for moment in (0.05, 0.28, 0.55):
        into = start + moment - late
        expected = 0.1 + 0.9 * into if into > 0 else 0.0
        assert float(sounds.waveform[0, round(moment * 8000)]) == pytest.approx(expected, abs=2e-3)


def test_a_gap_is_silence(tmp_path: Path) -> None:
    sounds = heard(beep(tmp_path / "in.mkv", torch.ones(4000) / 2, torch.ones(4000) / 4, gap=0.5))
    assert sounds is not None
    assert sounds.waveform.shape[1] == pytest.approx(12000, abs=20)
    assert [float(sounds.waveform[0, round(t * 8000)]) for t in (0.2, 0.75, 1.2)] == pytest.approx(
        [0.5, 0, 0.25], abs=1e-3
    )


def test_layouts_and_rates_that_files_are_not_written_with_are_converted(tmp_path: Path) -> None:
    path = beep(
        tmp_path / "in.mkv",
        *[torch.sin(torch.arange(32000) * 2 * math.pi * 440 / 32001) / 2] * 2,
        channels=8,
        rate=32001,
    )
    sounds = heard(path)
    assert sounds is not None
    assert (sounds.waveform.shape[0], sounds.rate) == (2, 48000)
    assert pitch(sounds) == pytest.approx(440, abs=1)


def test_no_sound(tmp_path: Path) -> None:
    assert heard(make(tmp_path / "in.mp4", [grey(0)] * 3)) is None
    assert heard(beep(tmp_path / "late.mkv", torch.ones(800), late=2), 0, 1) is None
