"""VIDEOs of files: what a refined video takes over from its source, and frames as players show them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flashvideo.video.sound import Sound
from tests.comfy.conftest import Bench, saved
from tests.comfy.server import Run
from tests.comfy.test_vae_nodes import close
from tests.comfy.test_video_nodes import AUTO, expected_images, facts, file_frames, lazy, saved_file, trim
from tests.unit.video.odd_videos import HEIGHT, WIDTH, beep, corners, grey, make, numbers_of, sound, turned, with_cover
from tests.unit.video.test_reading import TURNS, UPRIGHT, pitch, places

UNEVEN = [0, 33, 67, 100, 300, 500, 700, 733, 767]  # milliseconds
FLASH = 6  # number of the frame that comes with the beep
RATE = 8000


def put(bench: Bench, make_it: Any, name: str, *arguments: Any, **more: Any) -> Any:
    """A file in the server's input folder, and Load Video with it."""
    make_it(bench.server.base / "input" / name, *arguments, **more)
    return bench.add("LoadVideo", file=name)


def told(run: Run, node: Any) -> str:
    """What a node says: in the history as on its face."""
    lines = (run.outputs.get(node[0]) or {}).get("flashvideo_told", [])
    assert not lines or "\n".join(lines) in run.texts.get(node[0], [])
    return " ".join(lines)


def click_at(seconds: float, length: float = 1.0) -> Tensor:
    wave = torch.zeros(round(length * RATE))
    wave[round(seconds * RATE) :] = 0.9
    return wave


def refined(
    bench: Bench, latents: Any, source: Any, tmp_path: Path, frames: int = 9, **more: Any
) -> tuple[Any, Tensor, Run, Any]:
    """Decode to Video of random latents with a source: its parts, the decoded frames, the run, the node."""
    given, out = latents(1, 16, 3, 4, 6), tmp_path / "video.safetensors"
    video = lazy(bench, given, frames=frames, source=source, **more)
    bench.add("ProbeVideo", video=video, path=str(out))
    run = bench.run()
    return saved(out, "images"), expected_images(given)[:frames], run, video


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "aac"), (".mkv", "flac")])
@pytest.mark.parametrize("late", [0, 0.2])
def test_flash_and_beep_stay_together(
    bench: Bench, latents: Any, tmp_path: Path, suffix: str, codec: str, late: float
) -> None:
    """Pictures of a varying rate, the first of which is shown ``late``."""
    times = [time + round(1000 * late) for time in UNEVEN]
    film = [grey(number) for number in range(9)], times
    source = put(bench, beep, f"sync{late}{suffix}", click_at(times[FLASH] / 1000), film=film, codec=codec)
    images, frames, run, video = refined(bench, latents, source, tmp_path)
    rate = Fraction(facts(run)["rate"])
    shown = [max(k for k in range(9) if UNEVEN[k] <= 1000 * number / rate + 2) for number in range(len(images))]
    assert close(images, frames[shown])
    assert set(shown) == set(range(9))
    flash = shown.index(FLASH) / rate
    beeps = (saved(tmp_path / "video.safetensors", "audio")[0, 0] > 0.5).nonzero()[0] / RATE
    assert abs(float(flash) - float(beeps)) <= 1 / rate
    assert "rate varies" in told(run, video)


def test_a_saved_video_holds_its_frames(bench: Bench, latents: Any) -> None:
    source = put(bench, make, "held.mp4", [grey(number) for number in range(9)], times=UNEVEN, tick=Fraction(1, 1000))
    given = latents(1, 16, 3, 4, 6)
    save = bench.add("SaveVideo", video=lazy(bench, given, frames=9, source=source), filename_prefix="held", **AUTO)
    path = saved_file(bench, bench.run(), save)
    frames = file_frames(path).float()
    distances = torch.stack([(frames - frame * 255).abs().mean((1, 2, 3)) for frame in expected_images(given)])
    shown = distances.argmin(0).tolist()
    assert shown == sorted(shown)
    assert set(shown) == set(range(9))
    assert shown.count(3) > 4


def test_an_even_source_shows_each_frame_once(bench: Bench, latents: Any, tmp_path: Path) -> None:
    source = put(bench, make, "even.mp4", [grey(number) for number in range(9)])
    images, frames, run, video = refined(bench, latents, source, tmp_path)
    assert close(images, frames)
    assert facts(run)["rate"] == "10"
    assert told(run, video) == ""


@pytest.mark.parametrize("count", [12, 3])
def test_another_number_of_frames_is_told(bench: Bench, latents: Any, tmp_path: Path, count: int) -> None:
    source = put(bench, make, f"{count}.mp4", [grey(number) for number in range(count)])
    images, frames, run, video = refined(bench, latents, source, tmp_path)
    assert close(images, frames)
    assert facts(run)["rate"] == "10"
    assert f"{count} frames, this video 9" in told(run, video)


def test_a_trimmed_source_keeps_step(bench: Bench, latents: Any, tmp_path: Path) -> None:
    """From 0.1 to 0.75 s: frames 3 to 7, the flash 0.6 s after the first."""
    film = [grey(number) for number in range(9)], UNEVEN
    source = trim(bench, put(bench, beep, "trimmed.mkv", click_at(0.7), film=film), 0.1, 0.65)
    given, out = latents(1, 16, 2, 4, 6), tmp_path / "video.safetensors"
    video = lazy(bench, given, source=source)
    bench.add("ProbeVideo", video=video, path=str(out))
    run = bench.run()
    rate, images, frames = Fraction(facts(run)["rate"]), saved(out, "images"), expected_images(given)
    flash = next(k for k, image in enumerate(images) if torch.equal(image, frames[3])) / rate
    beeps = float((saved(out, "audio")[0, 0] > 0.5).nonzero()[0]) / RATE
    assert beeps == pytest.approx(0.6, abs=0.002)
    assert abs(float(flash) - beeps) <= 1 / rate


@pytest.mark.parametrize("default", [0, 1, 2])
def test_the_default_audio_track_is_taken(bench: Bench, latents: Any, tmp_path: Path, default: int) -> None:
    source = put(bench, sound, f"several{default}.mkv", [440, 880, 0], default=default, film=9)
    _, _, run, video = refined(bench, latents, source, tmp_path)
    audio = saved(tmp_path / "video.safetensors", "audio")[0]
    assert audio.shape[0] == (6 if default == 2 else 1)
    assert bool(audio.any()) == (default != 2)
    if default != 2:
        assert pitch(Sound(audio, RATE)) == pytest.approx([440, 880][default], abs=3)
    assert "3 audio tracks" in told(run, video)


# ---- Video Frames


def frames_of(bench: Bench, video: Any) -> tuple[Tensor, Run, Any]:
    node = bench.add("FlashVideoVideoFrames", video=video)
    out = bench.save(node, "ProbeSaveImage", "image")
    run = bench.run()
    return saved(out, "image"), run, node


@pytest.mark.parametrize("turn", TURNS)
def test_frames_are_turned_as_the_track_says(bench: Bench, turn: str) -> None:
    a, b, c, d = TURNS[turn]
    images, run, node = frames_of(bench, put(bench, turned, "turned.mp4", a, b, c, d))
    assert images.shape[1:3] == ((HEIGHT, WIDTH) if a else (WIDTH, HEIGHT))
    expected = {(a * x + c * y, b * x + d * y): corner for (x, y), corner in UPRIGHT.items()}
    assert places(images[0].movedim(-1, 0)) == expected
    assert told(run, node) == ""
    bench.graph.nodes.clear()


def narrow(stream: Any) -> None:
    stream.codec_context.sample_aspect_ratio = Fraction(2)


def test_frames_have_square_pixels(bench: Bench) -> None:
    images, _, _ = frames_of(bench, put(bench, make, "narrow.mp4", [corners()] * 3, change=narrow))
    assert images.shape == (3, HEIGHT, 2 * WIDTH, 3)


def test_a_cover_is_no_frame(bench: Bench) -> None:
    images, run, node = frames_of(bench, put(bench, with_cover, "cover.mp4", first=True))
    assert numbers_of(images.permute(3, 0, 1, 2)) == list(range(12))
    assert told(run, node) == ""


def test_a_trim_and_what_frames_cannot_hold(bench: Bench) -> None:
    options = {"x264-params": "interlaced=1:weightp=0"}
    video = put(bench, make, "interlaced.mp4", [grey(number) for number in range(24)], options=options)
    images, run, node = frames_of(bench, trim(bench, video, 0.5, 1.0))
    assert numbers_of(images.permute(3, 0, 1, 2)) == list(range(5, 15))
    assert "interlaced" in told(run, node)


def test_a_video_of_frames_gives_them_back(bench: Bench) -> None:
    given = torch.rand(3, 32, 48, 3)
    video = bench.add("CreateVideo", images=bench.tensor("ProbeImage", given), fps=8.0)
    images, run, node = frames_of(bench, video)
    assert torch.equal(images, given)
    assert told(run, node) == ""
