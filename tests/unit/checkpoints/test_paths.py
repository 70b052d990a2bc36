"""``~`` in paths: one function knows it, everybody asks that, and says so if there is no such home."""

from __future__ import annotations

from pathlib import Path

import pytest

import flashvideo
from flashvideo.checkpoints.paths import expanded
from flashvideo.cli import main
from tests.conftest import TINY

NOBODY = "~nobody-of-that-name/here"


def test_the_own_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/models") == tmp_path / "models"
    assert expanded("a/~b") == Path("a/~b")


def test_without_home(monkeypatch):
    monkeypatch.delenv("HOME")
    assert expanded("~").is_absolute()


def test_nobody_else_asks_for_a_home():
    folder = Path(flashvideo.__file__).parents[1]
    files = [*(folder / "flashvideo").rglob("*.py"), *(folder / "nodes").rglob("*.py")]
    asking = [path.name for path in files if "expanduser" in path.read_text(encoding="utf-8")]
    assert asking == ["paths.py"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "a ball", "--models", TINY, "-o", f"{NOBODY}.mp4"],
        ["generate", "a ball", "--models", NOBODY, "-o", "out.mp4"],
        *(["generate", "a ball", "--models", TINY, f"--{part}", NOBODY, "-o", "out.mp4"] for part in ("stage1", "vae")),
        ["generate", "a ball", "--models", TINY, "--lora", NOBODY, "-o", "out.mp4"],
        ["generate", "a ball", "--models", TINY, "--tokenizer", NOBODY, "-o", "out.mp4"],
        ["generate", "--prompts", NOBODY, "--models", TINY, "-o", "out"],
        ["refine", NOBODY, "--models", TINY, "-o", "out.mp4"],
        ["decode", NOBODY, "--models", TINY, "-o", "out.mp4"],
        ["convert", NOBODY, "out.safetensors"],
        ["convert", TINY / "stage1.pt", f"{NOBODY}.safetensors"],
        ["inspect", NOBODY],
        ["train", f"{NOBODY}.toml", "-o", "out"],
        ["train", "config.toml", "-o", NOBODY],
        ["report", "--models", TINY, "-o", NOBODY],
    ],
)
def test_a_home_that_nobody_has(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(argument) for argument in arguments]) == 2
    assert "begins with ~nobody-of-that-name, and this system knows no such home folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
