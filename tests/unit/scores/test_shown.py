"""Parts of files and pictures that no file holds are scored as the files would be that held just them."""

from __future__ import annotations

import io
from collections.abc import Generator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flashvideo import score_video
from flashvideo.scores.frames import Frames
from flashvideo.scores.shown import Footage, Given, Part, eight_bits, given
from tests.unit.scores.clips import moving
from tests.unit.scores.test_frames import greys, number_of
from tests.unit.video.odd_videos import RATE


def pictures_of(footage: Footage) -> list[tuple[int, float]]:
    """Number and seconds of each picture."""
    with Frames(footage) as frames:
        return [(number_of(frame.video), frame.seconds) for frame in frames]


def test_a_part_begins_at_its_own_first_picture(tmp_path: Path) -> None:
    path = greys(tmp_path / "a.mp4", 12)
    wanted = [(number, pytest.approx((number - 3) / RATE)) for number in range(3, 8)]
    for file in (path, io.BytesIO(path.read_bytes())):
        assert pictures_of(Part(file, Fraction(3, RATE), Fraction(8, RATE))) == wanted
    assert [number for number, _ in pictures_of(Part(path, Fraction(9, RATE)))] == [9, 10, 11]


@pytest.mark.parametrize(
    ("start", "stop", "count"), [(3, 8, 5), (0, 8, 8), (9, None, 3), (9, 99, 3), (0, None, 12), (0, 12, 12)]
)
def test_a_part_tells_its_length(tmp_path: Path, start: int, stop: int | None, count: int) -> None:
    path = greys(tmp_path / "a.mp4", 12)
    part = Part(path, Fraction(start, RATE), None if stop is None else Fraction(stop, RATE))
    with Frames(part) as frames:
        assert frames.total == count
        assert len(list(frames)) == count
        assert not frames.remarks


def test_a_part_without_pictures_is_refused(tmp_path: Path) -> None:
    part = Part(greys(tmp_path / "a.mp4", 4), Fraction(3), name="source")
    with pytest.raises(ValueError, match="source has no frames"):
        score_video(part)


def test_a_tensor_is_scored_like_its_file(tmp_path: Path) -> None:
    """A file's pictures, given."""
    path = greys(tmp_path / "a.mp4", 6)
    with Frames(path) as frames:
        pictures = torch.stack([frame.video for frame in frames], 1)
    ours, known = (score_video(each).to_dict() for each in (given(pictures / 255, RATE), path))
    assert ours == known


def test_given_pictures_are_laid_by_time(tmp_path: Path) -> None:
    video, source = given(moving(8), 8), given(moving(4), 4)
    with Frames(video, source) as frames:
        laid = [(frame.video, frame.source) for frame in frames]
    assert len(laid) == 8
    for number, (picture, shown) in enumerate(laid):
        assert torch.equal(picture, eight_bits(moving(8)[:, number]))
        assert shown is not None
        assert torch.equal(shown, eight_bits(moving(4)[:, number // 2]))


def test_values_outside_are_clipped() -> None:
    assert eight_bits(torch.tensor([-1.0, 0.5, 2.0])).tolist() == [0, 128, 255]


def test_what_goes_on_is_told() -> None:
    with Frames(given(moving(4), 8, "video"), given(moving(9), 8, "source")) as frames:
        assert len(list(frames)) == 4
    assert frames.remarks == ["source goes on after 0.50 s, where video ends."]
    with Frames(given(moving(4), 8), given(moving(8), 16)) as frames:
        list(frames)
    assert not frames.remarks


def test_pictures_are_let_go_of_when_reading_ends_early() -> None:
    closed: list[str] = []

    def pictures() -> Generator[Tensor, None, None]:
        try:
            yield from eight_bits(moving(9)).unbind(1)
        finally:
            closed.append("video")

    with Frames(Given(pictures, Fraction(8), 9)) as frames:
        next(iter(frames))
        assert not closed
    assert closed == ["video"]


def test_progress_of_given_pictures() -> None:
    told: list[Any] = []
    score_video(given(moving(3), 8), progress=lambda *said: told.append(said))
    assert told == [("Score", done, 3) for done in (1, 2, 3)]
