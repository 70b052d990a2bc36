"""Videos that were cut short are told from whole ones, wherever they were cut."""

from __future__ import annotations

import pytest
import torch

from flashvideo.video.files import write_video
from flashvideo.video.whole import is_cut_short


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_cut_anywhere(tmp_path, suffix):
    path = write_video(tmp_path / f"a.{suffix}", torch.rand(3, 2, 16, 16), metadata={"comment": "x" * 300})
    data = path.read_bytes()
    assert not is_cut_short(path)
    for length in sorted({*range(60), *range(60, len(data), 17), *range(len(data) - 60, len(data))}):
        path.write_bytes(data[:length])
        assert is_cut_short(path), length


def test_what_is_no_video_is_somebodys(tmp_path):
    for content in (b"mine", b"\xffmine and more", b"RIFF....AVI "):
        (tmp_path / "a.mp4").write_bytes(content)
        assert not is_cut_short(tmp_path / "a.mp4")
