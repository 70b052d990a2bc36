"""Files appear whole, on the disk and in their place, or not at all; leftovers of killed processes go."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flashvideo.checkpoints import outputs
from flashvideo.checkpoints.locks import claimed
from flashvideo.checkpoints.outputs import check_writable, make_folder, naming_disk_errors, replacing, write_text
from flashvideo.checkpoints.writing import tensor_plan, write_safetensors
from flashvideo.video.files import write_image, write_video

WRITERS = {
    "a.txt": lambda path: write_text(path, "words"),
    "a.safetensors": lambda path: write_safetensors(path, tensor_plan({"a": torch.ones(3)}), {}),
    "a.mp4": lambda path: write_video(path, torch.rand(3, 2, 16, 16)),
    "a.mkv": lambda path: write_video(path, torch.rand(3, 2, 16, 16)),
    "a.png": lambda path: write_image(path, torch.rand(3, 16, 16)),
}


def process(*lines: str, folder: Path) -> subprocess.Popen[str]:
    """A process that runs the lines in the folder and is told to go on by a line on its standard input."""
    code = "\n".join(
        ["import sys, pathlib, os", "from flashvideo.checkpoints import locks, outputs", *lines, "sys.stdin.readline()"]
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (Path(outputs.__file__).parents[2], *sys.path)))},
    )  # fmt: skip


def first_line(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    return running.stdout.readline().strip()


def killed(running: subprocess.Popen[str]) -> None:
    running.kill()
    running.communicate()


@pytest.mark.parametrize("name", WRITERS)
def test_data_are_on_the_disk_before_the_name_is_given(name, tmp_path, monkeypatch):
    done = []
    fsync, place = os.fsync, Path.replace

    def noted_sync(handle):
        fsync(handle)
        done.append(("synced", os.fstat(handle).st_ino, os.fstat(handle).st_size))

    def noted_replace(self, target):
        done.append(("named", self.stat().st_ino, self.stat().st_size))
        return place(self, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    WRITERS[name](tmp_path / name)
    file, folder = (tmp_path / name).stat(), tmp_path.stat()
    assert file.st_size > 0
    assert [entry[:2] for entry in done] == [
        ("synced", file.st_ino),
        ("named", file.st_ino),
        ("synced", folder.st_ino),
    ]
    assert {size for what, inode, size in done if inode == file.st_ino} == {file.st_size}


def test_a_disk_that_fails_at_the_last_moment_leaves_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("old")

    def failing(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match=r"writing .*a\.txt failed: No space.*Free some space, or write to another disk"):
        write_text(tmp_path / "a.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_folder_that_cannot_be_brought_onto_the_disk(tmp_path, monkeypatch):
    """Some network disks know no such thing; the file has its name by then."""

    def unknown(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):  # noqa: PTH112
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", unknown)
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "Your quota is used up"),
        (errno.EFBIG, "raise the limit (ulimit -f)"),
        (errno.EMFILE, "raise the limit (ulimit -n)"),
        (errno.EROFS, "The disk is read-only"),
        (errno.EACCES, "Change the permissions"),
        (errno.EIO, "write to another disk"),
    ],
)
def test_what_ran_out_is_said(code, said, tmp_path):
    with pytest.raises(OSError, match="Nothing half-written was left") as raised, naming_disk_errors(tmp_path / "a"):
        raise OSError(code, os.strerror(code))
    assert said in str(raised.value)
    assert raised.value.errno == code


def test_no_more_file_handles_is_not_a_matter_of_permissions(tmp_path, monkeypatch):
    def none_left(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(outputs.tempfile, "TemporaryFile", none_left)
    with pytest.raises(ValueError, match=r"Too many open files\)\. This process may open no more files"):
        check_writable(tmp_path / "a", overwrite=True)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/below"):
        with pytest.raises(ValueError, match=r"The folder .* cannot be made \(.*\)\. Choose another place\."):
            make_folder(tmp_path / folder)


def test_leftovers_of_a_killed_process_go_and_those_of_a_living_one_stay(tmp_path):
    lines = (
        "with outputs.replacing(pathlib.Path('a.txt')) as partial:",
        "    print(partial.name, flush=True)",
        "    sys.stdin.readline()",
    )
    dying, living = process(*lines, folder=tmp_path), process(*lines, folder=tmp_path)
    try:
        gone, there = tmp_path / first_line(dying), tmp_path / first_line(living)
        assert gone.exists()
        killed(dying)
        assert gone.exists(), "nobody was left to remove it"
        write_text(tmp_path / "b.txt", "words")
        assert not gone.exists()
        assert there.exists()
        living.communicate("\n\n")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]
    finally:
        killed(living)


def test_leftovers_are_swept_by_the_look_before_work(tmp_path):
    (tmp_path / ".flashvideo-0123456789ab.part").write_bytes(b"half")
    (tmp_path / ".flashvideo-mine.txt").write_bytes(b"mine")
    check_writable(tmp_path / "a", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [".flashvideo-mine.txt"]


def test_one_process_alone_has_a_name(tmp_path):
    a, b = tmp_path / "a.mp4", tmp_path / "b.mp4"
    with claimed(a) as mine, claimed(a) as again, claimed(b) as other:
        assert (mine, again, other) == (True, False, True)
    with claimed(tmp_path / "a.mp4") as mine:
        assert mine
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_hinders_nobody(tmp_path):
    lines = (
        "claim = locks.claimed(pathlib.Path('a.mp4').absolute())",
        "print(claim.__enter__(), flush=True)",
    )
    running = process(*lines, folder=tmp_path)
    try:
        assert first_line(running) == "True"
        with claimed(tmp_path / "a.mp4") as mine:
            assert not mine
        killed(running)
        with claimed(tmp_path / "a.mp4") as mine:
            assert mine
    finally:
        killed(running)
    assert list(tmp_path.iterdir()) == []


def test_interrupted_writing_leaves_nothing(tmp_path):
    def interrupted():
        with replacing(tmp_path / "a.txt") as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
