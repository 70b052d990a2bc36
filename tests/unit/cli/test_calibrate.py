"""``flashvideo calibrate``: previews and videos in, a table, an object or pictures out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flashvideo.cli import EXIT_USAGE, main
from flashvideo.video.files import read_video, write_video
from tests.unit.conftest import SMALL
from tests.unit.scores.clips import moving

FEW = ["--models", "tiny", "--noise-steps", "100,600", "--size", "96x64", "--cfg", "1", "--steps", "2", "--json"]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("source") / "clip.mp4", moving(12, 32, 48), 8)


@pytest.fixture
def calibrated(capsys: pytest.CaptureFixture[str]):
    def run(*words: object) -> str:
        capsys.readouterr()
        assert main(["calibrate", *map(str, words)]) == 0
        return capsys.readouterr().out

    return run


def test_a_video_with_pictures(video, tmp_path, calibrated):
    folder = tmp_path / "pictures"
    told = json.loads(calibrated(video, "--prompt", "a ball", *FEW, "-o", folder, "--frames", 9))
    assert told["video"] == {"width": 96, "height": 64, "frames": 9}
    assert [step["noise_step"] for step in told["steps"]] == [100, 600]
    best = max(step["likeness"] for step in told["steps"])
    assert told["suggested"] == max(s["noise_step"] for s in told["steps"] if s["likeness"] >= best - told["loss"])
    names = ["index.html", "noise-step-100.mp4", "noise-step-600.mp4", "source.mp4", "strip.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    strip, _ = read_video(folder / "strip.png")
    assert strip.shape[3:] == (64, 3 * 96)
    shown, _ = read_video(folder / "noise-step-600.mp4")
    assert shown.shape == (1, 3, 9, 64, 96)
    page = (folder / "index.html").read_text()
    assert "noise step 100" in page
    assert main(["calibrate", str(video), "--prompt", "a ball", *FEW, "-o", str(folder)]) == EXIT_USAGE


def test_a_preview_keeps_its_settings_and_people_get_a_table(generate, tmp_path, calibrated, capsys):
    generate("a ball", "--preview-only", "--size", "96x64", "--steps", 2, "--cfg", 1, "-o", tmp_path / "a.mp4")
    words = [tmp_path / "a.preview.safetensors", *SMALL[:2], "--noise-steps", "200,500"]
    printed = calibrated(*words)
    assert " frames at 96x64, against the source:" in printed
    assert printed.count("\n*") == 1
    assert "--noise-step " in printed
    one = json.loads(calibrated(*words, "--json", "--frames", 1, "--start", 0.125, "--loss", 9))
    assert one["video"]["frames"] == 1
    assert one["suggested"] == 500


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "Say with --prompt what the video shows"),
        (["--prompt", "a ball", "--noise-steps", "100,x"], "expected whole numbers with commas between"),
        (["--prompt", "a ball", "--noise-steps", "600,100"], "rising: 100,200,350"),
        (["--prompt", "a ball", "--frames", "8"], "8"),
        (["--prompt", "a ball", "--start", "-1"], "expected seconds"),
        (["--prompt", "a ball", "--start", "60"], "has no frames from 60 s on"),
        (["--prompt", "a ball", "--loss", "-1"], "expected 0 or more"),
        (["--prompt", "a ball", "--size", "95x64"], "95"),
    ],
)
def test_bad_input(video, more, said, capsys):
    assert main(["calibrate", str(video), "--models", "tiny", *more]) == EXIT_USAGE
    assert said in capsys.readouterr().err


def test_a_video_that_is_none(tmp_path, capsys):
    words = tmp_path / "words.mp4"
    words.write_text("no video")
    assert main(["calibrate", str(words), "--models", "tiny", "--prompt", "a ball"]) == EXIT_USAGE
    assert "words.mp4" in capsys.readouterr().err
