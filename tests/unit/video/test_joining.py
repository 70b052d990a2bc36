"""Parts become one file: every picture once, in its place, whatever the parts' lengths."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from flashvideo.video.files import VideoWriter, read_metadata, read_video
from flashvideo.video.frames import look_at, read_frames
from flashvideo.video.joining import frames_in, join_parts
from tests.coded_videos import write_coded


def moving(frames: int) -> torch.Tensor:
    picture = torch.rand(1, 3, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    return torch.cat([picture.roll(3 * index, 4) for index in range(frames)], dim=2)


def parts_of(folder, lengths, fps, **how):
    video, start, paths = moving(sum(lengths)), 0, []
    for number, length in enumerate(lengths):
        paths.append(folder / f"{number}.mp4")
        with VideoWriter(paths[-1], fps, **how) as writer:
            writer.write(video[:, :, start : start + length])
        start += length
    return paths


@pytest.mark.parametrize(
    ("lengths", "fps", "suffix"),
    [
        ([12], Fraction(8), ".mp4"),
        ([9, 8, 5], Fraction(24000, 1001), ".mp4"),
        ([1, 7, 1, 2, 11], Fraction(30), ".mov"),
        ([1, 12, 3], Fraction(24000, 1001), ".mkv"),
        ([1], Fraction(25), ".mkv"),
    ],
)
def test_every_picture_in_its_place(tmp_path, lengths, fps, suffix):
    parts = parts_of(tmp_path, lengths, fps)
    assert [frames_in(part) for part in parts] == lengths
    output = join_parts(parts, tmp_path / f"out{suffix}", fps, {"title": "Parts"})
    video, rate = read_video(output)
    assert torch.equal(video, torch.cat([read_video(part)[0] for part in parts], dim=2))
    assert abs(rate - fps) < Fraction(1, 1000)
    assert read_metadata(output)["title"] == "Parts"
    shown = look_at(output)
    assert (shown.frames, shown.start, shown.repeats) == (sum(lengths), 0, {})
    again = join_parts(parts, tmp_path / f"again{suffix}", fps, {"title": "Parts"})
    assert again.read_bytes() == output.read_bytes()


def test_parts_of_other_settings_are_refused(tmp_path):
    (tmp_path / "other").mkdir()
    parts = parts_of(tmp_path, [3], 8) + parts_of(tmp_path / "other", [3], 8, preset="ultrafast")
    with pytest.raises(ValueError, match="was made with other settings than the parts before it"):
        join_parts(parts, tmp_path / "out.mp4", Fraction(8), {})
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("start", [0, 1, 4, 5, 6])
def test_frames_from_any_place_on(tmp_path, start):
    path = write_coded(tmp_path / "a.mkv", moving(5), "libx264", "yuv444p", 10, [0, 100, 300, 400, 500])
    shown = look_at(path)
    assert (shown.frames, shown.rate, shown.repeats) == (6, 10, {1: 2})
    every = list(read_frames(shown))
    assert torch.equal(every[1], every[2])
    assert not torch.equal(every[2], every[3])
    later = list(read_frames(shown, start))
    assert len(later) == 6 - start
    assert all(torch.equal(one, other) for one, other in zip(later, every[start:], strict=True))
