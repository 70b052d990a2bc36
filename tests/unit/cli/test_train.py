"""The command line trains."""

from __future__ import annotations

import errno
import tempfile

import pytest

from flashvideo.checkpoints import outputs
from flashvideo.checkpoints.locks import claimed
from flashvideo.training import loop, runs


def test_the_command_line_trains_and_does_not_overwrite(run, write, tmp_path):
    config = write()
    said = run("train", config, "-o", tmp_path / "out", "--stop-after", 1)
    assert "1 of 6 steps are done" in said.out
    assert "--resume" in run("train", config, "-o", tmp_path / "out", code=2).err
    assert "6 of 6 steps" in run("train", config, "-o", tmp_path / "out", "--resume").out
    assert "There is no configuration" in run("train", tmp_path / "nothing.toml", "-o", tmp_path / "x", code=2).err


def test_two_do_not_train_in_one_folder(run, begun, tmp_path):
    before = files_in(tmp_path / "out")
    with claimed(tmp_path / "out" / "config.toml"):
        assert "Another process trains in" in run("train", begun, "-o", tmp_path / "out", "--resume", code=2).err
    assert files_in(tmp_path / "out") == before
    assert "6 of 6 steps" in run("train", begun, "-o", tmp_path / "out", "--resume").out
    assert not list((tmp_path / "out").glob("*.lock"))


@pytest.fixture
def begun(run, write, tmp_path):
    """A run with one checkpoint, which can go on."""
    config = write()
    run("train", config, "-o", tmp_path / "out", "--stop-after", 1)
    return config


def files_in(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_cannot_be_written_to_is_told_before_models_are_opened(run, write, tmp_path, monkeypatch):
    def closed(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    config = write()
    monkeypatch.setattr(runs, "read_toml", lambda _: pytest.fail("it began"))
    (tmp_path / "file").write_text("")
    assert "cannot be written to" in run("train", config, "-o", tmp_path / "file" / "out", code=2).err
    monkeypatch.setattr(tempfile, "TemporaryFile", closed)
    said = run("train", config, "-o", tmp_path / "out" / "below", code=2).err
    assert "cannot be written to (Read-only file system). The disk is read-only: write to another one." in said
    assert not (tmp_path / "out").exists()


def test_room_for_a_checkpoint_is_asked_for_before_the_first_step(run, write, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_bytes_of_checkpoint", lambda _: 10**15)
    assert "GB free; a checkpoint takes" in run("train", write(), "-o", tmp_path / "out", code=2).err
    assert not (tmp_path / "out" / "log.jsonl").exists()


@pytest.mark.parametrize("size", [100, 1_000, 20_000])
def test_a_disk_that_fills_up_while_saving(run, begun, tmp_path, monkeypatch, small_files, size):
    """By the system's own limit on files: weights, optimiser or the log do not fit. The checkpoint before stays."""
    monkeypatch.setattr(outputs, "_largest_file", lambda: float("inf"))
    before = files_in(tmp_path / "out" / "checkpoints")
    with small_files(size):
        said = run("train", begun, "-o", tmp_path / "out", "--resume", "--stop-after", 2, code=1).err
    assert "failed: OSError: " in said
    assert "writing " in said
    assert files_in(tmp_path / "out" / "checkpoints") == before
    assert "6 of 6 steps" in run("train", begun, "-o", tmp_path / "out", "--resume").out
