"""Frames that wait on disk come back as they were, or are not kept, in words and without harm."""

from __future__ import annotations

import errno
import gc
import logging
import shutil
from types import SimpleNamespace

import pytest
import torch

from flashvideo.video.spool import FrameSpool

SHAPE = (4, 6, 3)


@pytest.fixture
def frames():
    return torch.rand(21, *SHAPE, generator=torch.Generator().manual_seed(0))


def test_frames_come_back_as_they_were(tmp_path, frames):
    spool = FrameSpool(tmp_path / "made", SHAPE)
    for part in (
        frames[:1],
        frames[1:9].movedim(-1, 1).contiguous().movedim(1, -1),
        frames[9:],
    ):
        assert spool.add(part)
    assert spool.count == 21
    for stop in (21, 8, 9, 1):
        parts = list(spool.read(stop))
        assert torch.equal(torch.cat(parts), frames[:stop])
        assert max(map(len, parts)) <= 8


def test_other_precisions_are_kept_as_fp32(tmp_path, frames):
    spool = FrameSpool(tmp_path, SHAPE)
    spool.add(frames.bfloat16())
    assert torch.equal(torch.cat(list(spool.read(21))), frames.bfloat16().float())


def test_the_file_goes_with_the_spool(tmp_path, frames):
    spool = FrameSpool(tmp_path, SHAPE)
    spool.add(frames)
    del spool
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_only_where_there_is_room(tmp_path, monkeypatch):
    size = 10 * 4 * 6 * 3 * 4
    for free, kept in ((2 * size, True), (2 * size - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _folder, free=free: SimpleNamespace(free=free))
        assert (FrameSpool.where_there_is_room(tmp_path, 10, SHAPE) is not None) is kept
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    with caplog.at_level(logging.INFO):
        assert FrameSpool.where_there_is_room(tmp_path / "file" / "temp", 1, SHAPE) is None
    assert "are not kept in" in caplog.text


def test_a_disk_that_fills_up_costs_the_spool_only(tmp_path, frames, monkeypatch, caplog):
    spool = FrameSpool(tmp_path, SHAPE)

    class Full:
        def write(self, _content):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spool, "_file", Full())
    with caplog.at_level(logging.INFO):
        assert not spool.add(frames)
    assert "No space left" in caplog.text
