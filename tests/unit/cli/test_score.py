"""``flashvideo score``: what it prints for people and for programs, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from flashvideo.cli import EXIT_USAGE, main
from tests.unit.scores.clips import moving, write

INDICES = ("sharpness", "likeness", "drift", "flicker", "seam", "pulse")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scored")
    video = moving(20, 96, 160)
    seams = video.clone()
    seams[..., 80:] = (seams[..., 80:] + 12 / 255).clamp(0, 1)
    small = torch.nn.functional.interpolate(video.transpose(0, 1), scale_factor=0.5, mode="area").transpose(0, 1)
    return {
        name: write(folder / f"{name}.mp4", clip)
        for name, clip in (("clean", video), ("seams", seams), ("small", small))
    }


def scored(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What the command prints on the standard output; all goes well."""
    assert main(["score", *map(str, words)]) == 0
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return printed.out


def test_json_is_one_object_of_numbers(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    clean, small = files["clean"], files["small"]
    told = json.loads(scored(capsys, clean, "--against", small, "--true", clean, "--json"))
    assert all(isinstance(told[name], float) for name in (*INDICES, "psnr", "ssim"))
    assert (told["psnr"], told["ssim"]) == (100, pytest.approx(1))
    alone = json.loads(scored(capsys, clean, "--json"))
    assert set(INDICES) < set(alone)
    assert alone["likeness"] is None
    assert "psnr" not in alone


def test_people_get_a_line_for_each_number(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    printed = scored(capsys, files["seams"], "--against", files["clean"])
    lines = {line.split()[0]: line for line in printed.splitlines()}
    assert set(INDICES) < set(lines)
    assert "column 80" in lines["seam"]
    assert printed.startswith("160x96, 20 frames")
    assert "spectrum" in lines
    assert "colours" in lines
    assert " - " in {line.split()[0]: line for line in scored(capsys, files["clean"]).splitlines()}["likeness"]


def test_what_was_aligned_is_said(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = write(tmp_path / "short.mp4", moving(9, 96, 160))
    assert "* " in scored(capsys, files["clean"], "--against", short)


@pytest.mark.parametrize("option", ["", "--against", "--true"])
def test_files_that_cannot_be_scored_are_bad_input(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    missing, text, cut = tmp_path / "none.mp4", tmp_path / "text.mp4", tmp_path / "cut.mp4"
    text.write_text("no video at all")
    whole = files["clean"].read_bytes()
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    for file in (missing, text, cut):
        words = [str(files["clean"]), option, str(file)] if option else [str(file)]
        assert main(["score", *words, "--json"]) == EXIT_USAGE
        printed = capsys.readouterr()
        assert str(file) in printed.err
        assert not printed.out
        assert "%" not in printed.err, "it was refused after work had begun"


def test_a_true_video_of_another_size_is_bad_input(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(files["clean"]), "--true", str(files["small"])]) == EXIT_USAGE
    assert "80x48" in capsys.readouterr().err
