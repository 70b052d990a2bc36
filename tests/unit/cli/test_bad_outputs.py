"""Places that cannot be written to: told before work, nothing of the user's lost, nothing half-written left."""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from flashvideo.checkpoints import outputs
from tests.conftest import TINY


@pytest.mark.parametrize("name", ["out.mp4", "out.preview.mp4", "out.preview.safetensors", "out.refined.safetensors"])
def test_existing_output_is_kept(generate, no_work, names, tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    said = generate("a ball", "-o", tmp_path / "out.mp4", code=2)
    assert name in said.err
    assert "--overwrite" in said.err
    assert names(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == b"mine"


def test_overwrite(generate, run, tmp_path, made):
    for file in made.iterdir():
        (tmp_path / file.name).write_bytes(b"old")
    options = ("--seed", 3, "--joint", "--keep-degraded", "--keep-latents", "--overwrite")
    generate("a red ball rolls", *options, "-o", tmp_path / "out.mp4")
    for file in made.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()
    for command, source in (("refine", "preview"), ("decode", "refined")):
        path = made / f"out.{source}.safetensors"
        run(command, path, "--models", TINY, "-o", tmp_path / "out.mp4", code=2)
        run(command, path, "--models", TINY, "-o", tmp_path / "out.mp4", "--overwrite")
    assert (tmp_path / "out.mp4").read_bytes() == (made / "out.mp4").read_bytes()


def test_output_that_cannot_be(generate, no_work, names, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.mp4").mkdir()
    for output, message in (
        (tmp_path / "nowhere" / "out.mp4", "does not exist"),
        (tmp_path / "file" / "out.mp4", "does not exist"),
        (tmp_path / "folder.mp4", "is a folder"),
        (tmp_path / "out.gif", "expected one of .mp4"),
        (tmp_path / "out", "expected one of .mp4"),
    ):
        assert message in generate("a ball", "-o", output, code=2).err
    (tmp_path / "p.txt").write_text("a ball")
    assert "is a file" in generate("--prompts", tmp_path / "p.txt", "-o", tmp_path / "file", code=2).err
    assert "does not exist" in generate("--prompts", tmp_path / "p.txt", "-o", tmp_path / "a" / "b", code=2).err
    assert names(tmp_path) == ["file", "folder.mp4", "p.txt"]


@pytest.mark.parametrize("length", [250, 240, 300])
@pytest.mark.parametrize("options", [(), ("--joint",), ("--num-previews", "2")])
def test_names_that_no_file_can_have(generate, run, no_work, made, names, tmp_path, length, options):
    """Of 240 bytes the video could be written, but not the files that are named after it."""
    said = generate("a ball", *options, "-o", tmp_path / f"{'x' * (length - 4)}.mp4", code=2)
    assert "bytes; file systems take at most 255. Choose a shorter one" in said.err
    wide = tmp_path / f"{'é' * ((length - 4) // 2)}.mp4"
    said = run("refine", made / "out.preview.safetensors", "--models", TINY, "-o", wide, code=2)
    assert "bytes; file systems take at most 255" in said.err
    assert names(tmp_path) == []


def test_a_path_that_no_file_can_have(generate, no_work, tmp_path):
    deep = tmp_path.joinpath(*["x" * 200] * 30)
    assert "cannot be written (" in generate("a ball", "-o", deep / "out.mp4", code=2).err


def test_closed_folder(generate, run, no_work, names, tmp_path, monkeypatch):
    def closed(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", closed)
    for said in (
        generate("a ball", "-o", tmp_path / "out.mp4", code=2),
        run("convert", TINY / "stage1.pt", tmp_path / "new.safetensors", code=2),
    ):
        assert "cannot be written to (Permission denied)" in said.err
    assert names(tmp_path) == []


def test_full_disk_is_told_before_work(generate, run, no_work, made, names, tmp_path, monkeypatch):
    free = SimpleNamespace(total=10**9, used=10**9, free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    (tmp_path / "p.txt").write_text("a ball")
    for said in (
        generate("a ball", "-o", tmp_path / "out.mp4", code=2),
        generate("--prompts", tmp_path / "p.txt", "-o", tmp_path / "out", code=2),
        run("refine", made / "out.preview.safetensors", "--models", TINY, "-o", tmp_path / "out.mp4", code=2),
        run("convert", TINY / "stage1.pt", tmp_path / "new.safetensors", code=2),
    ):
        assert "0.00 GB free" in said.err
        assert "Make room" in said.err
    assert [name for name in names(tmp_path) if name != "out"] == ["p.txt"]


@pytest.mark.parametrize(("size", "left"), [(9_000, 0), (64_000, 2)])
@pytest.mark.parametrize("known", [True, False])
def test_disk_that_fills_up(generate, names, small_files, tmp_path, monkeypatch, size, left, known):
    """Stage I's latents take 61 kB, the refined ones 67 kB."""
    if not known:  # the disk's own limit, which nobody can ask for
        monkeypatch.setattr(outputs, "_largest_file", lambda: float("inf"))
    with small_files(size):
        said = generate("a ball", "-o", tmp_path / "out.mp4", code=2 if known else 1)
    assert "raise the limit (ulimit -f)" in said.err.replace("Raise", "raise")
    assert known or "File too large. Nothing half-written was left behind" in said.err
    assert names(tmp_path) == ["out.preview.mp4", "out.preview.safetensors"][:left]


def test_quota_that_is_too_small_is_told_before_work(generate, run, no_work, names, small_files, made, tmp_path):
    with small_files(5_000):  # Stage II's latents alone take 8 kB
        for said in (
            generate("a ball", "-o", tmp_path / "out.mp4", code=2),
            run("refine", made / "out.preview.safetensors", "--models", TINY, "-o", tmp_path / "out.mp4", code=2),
            run("convert", TINY / "stage2.pt", tmp_path / "new.safetensors", code=2),
        ):
            assert "and this process may write files of 0.0 MB only. Raise the limit (ulimit -f)" in said.err
    assert names(tmp_path) == []


def test_disk_that_fills_up_while_encoding(run, names, small_files, made, tmp_path):
    with small_files(5_000):
        said = run("decode", made / "out.refined.safetensors", "--models", TINY, "-o", tmp_path / "out.mp4", code=1)
    assert "out.mp4 failed" in said.err
    assert names(tmp_path) == []


def test_disk_that_fills_up_while_converting(run, names, small_files, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "_largest_file", lambda: float("inf"))
    with small_files(100_000):
        said = run("convert", TINY / "stage2.pt", tmp_path / "new.safetensors", code=1)
    assert "new.safetensors failed" in said.err
    assert names(tmp_path) == []


def test_no_space_at_the_last_step(generate, names, tmp_path, monkeypatch):
    def full(_self, _target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    said = generate("a ball", "-o", tmp_path / "out.mp4", code=1)
    assert "No space left on device" in said.err
    assert names(tmp_path) == []
