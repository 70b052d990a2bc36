"""Which picture of the source is laid on which of the video, and what is refused before any work."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from flashvideo import score_video
from flashvideo.scores.frames import Frames
from tests.unit.scores.clips import moving, write
from tests.unit.video.odd_videos import RATE, grey, make

LOSSLESS = {"crf": "0", "preset": "ultrafast"}


def greys(path: Path, count: int, **options: Any) -> Path:
    """A video whose pictures tell their numbers."""
    return make(path, [grey(number) for number in range(count)], options=LOSSLESS, **options)


def number_of(picture: torch.Tensor) -> int:
    return round((float(picture.float().mean()) - 16) / 8)


def pairs(video: Any, source: Any) -> list[tuple[int, int]]:
    """Numbers of the pictures of the video and of the source that are laid on each other."""
    with Frames(video, source) as frames:
        return [(number_of(frame.video), number_of(frame.source)) for frame in frames if frame.source is not None]


def remarks_on(video: Path, source: Path) -> str:
    with Frames(video, source) as frames:
        list(frames)
    return " ".join(frames.remarks)


@pytest.mark.parametrize("container", ["b.mp4", "b.mkv", "b.mov", "b.ts"])
def test_equal_rates_are_laid_picture_on_picture(tmp_path: Path, container: str) -> None:
    """Whatever their containers round, and whenever their clocks begin."""
    video = greys(tmp_path / "a.mp4", 7, times=[3 * n for n in range(7)], tick=Fraction(1, 90))
    source = greys(tmp_path / container, 7, times=list(range(7)), tick=Fraction(1, 30))
    assert pairs(video, source) == [(number, number) for number in range(7)]


def test_a_source_that_is_shown_later_is_laid_from_its_first_picture(tmp_path: Path) -> None:
    video, source = greys(tmp_path / "a.mkv", 5), greys(tmp_path / "b.mkv", 5, late=7000)
    assert pairs(video, source) == [(number, number) for number in range(5)]


def test_other_rates_are_laid_by_time(tmp_path: Path) -> None:
    video = greys(tmp_path / "a.mp4", 7)
    slow = greys(tmp_path / "b.mp4", 3, times=[0, 3, 6], tick=Fraction(1, RATE))
    assert pairs(video, slow) == [(number, number // 3) for number in range(7)]
    fast = greys(tmp_path / "c.mp4", 14, times=list(range(14)), tick=Fraction(1, 2 * RATE))
    assert pairs(video, fast) == [(number, 2 * number) for number in range(7)]


def test_what_is_longer_is_left_out_in_words(tmp_path: Path) -> None:
    long, short = greys(tmp_path / "a.mp4", 9), greys(tmp_path / "b.mp4", 4)
    assert len(pairs(long, short)) == len(pairs(short, long)) == 4
    assert "ends earlier: the first 4 frames" in remarks_on(long, short)
    assert not remarks_on(short, short)


def test_another_shape_is_told(tmp_path: Path) -> None:
    video, turned = write(tmp_path / "a.mp4", moving(3)), write(tmp_path / "b.mp4", moving(3, 128, 96))
    assert "of another shape" in remarks_on(video, turned)


def test_binary_files_are_read(tmp_path: Path) -> None:
    path = greys(tmp_path / "a.mp4", 3)
    video, source = (io.BytesIO(path.read_bytes()) for _ in range(2))
    assert pairs(video, source) == [(number, number) for number in range(3)]


def test_what_cannot_be_scored_is_refused_before_any_work(tmp_path: Path) -> None:
    video = write(tmp_path / "a.mp4", moving(4))
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:-1000])
    small, tiny = write(tmp_path / "s.mp4", moving(4, 48, 64)), write(tmp_path / "t.mp4", moving(4, 16, 64))
    told: list[object] = []
    for words, files in (
        ("none.mp4", {"against": tmp_path / "none.mp4"}),
        ("text.mp4", {"against": tmp_path / "text.mp4"}),
        ("cut.mp4 is cut short", {"against": tmp_path / "cut.mp4"}),
        ("cut.mp4 is cut short", {"true": tmp_path / "cut.mp4"}),
        ("same size", {"true": small}),
        ("32 pixels", {"against": tiny}),
        ("read as a video", {"against": io.BytesIO(b"no video")}),
    ):
        with pytest.raises(ValueError, match=words):
            score_video(video, progress=lambda *said: told.append(said), **files)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cut short"):
        score_video(tmp_path / "cut.mp4", progress=lambda *said: told.append(said))
    assert not told


def test_scores_over_time_have_a_value_a_frame_and_few_bins(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", moving(6))
    told: list[tuple[str, int, int]] = []
    scores = score_video(path, against=path, progress=lambda *said: told.append(said))
    assert [done for _, done, _ in told] == list(range(1, 7))
    assert {total for _, _, total in told} == {6}
    assert {len(values) for values in scores.series.values()} == {6}
