"""DOVER and FasterVQA: which frames and patches of a video they see, and what is made of their scores."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from flashvideo import score_video
from flashvideo.scores.frames import Frame
from flashvideo.scores.learned.videos import DoverMeter
from flashvideo.scores.learned.views import Fragments, View, spread, thumbnail
from flashvideo.scores.shown import given
from tests.unit.scores.clips import moving
from tests.unit.scores.stub_metrics import Stub

HEIGHT, WIDTH = 240, 300


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    return Stub(tmp_path / "stub", monkeypatch)


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_runs_of_frames_lie_in_their_parts() -> None:
    frames = torch.tensor(spread(300, 3, 32, 2, chance())).view(3, 32)
    assert (frames.diff() == 2).all()
    for index, run in enumerate(frames):
        assert 100 * index <= run[0] < 100 * index + 36
    assert len({int(run[0]) % 100 for run in frames}) > 1, "they are drawn"
    assert spread(300, 3, 32, 2, chance()) == frames.flatten().tolist()


def test_short_videos_begin_again() -> None:
    frames = spread(49, 3, 32, 2, chance())
    assert frames[:32] == [2 * index % 49 for index in range(32)]
    assert frames[32] == 16
    assert spread(1, 32, 1, 2, chance()) == [0] * 32


def test_fragments_are_patches_of_their_cells() -> None:
    """Of a picture whose pixels are their own places."""
    picture = torch.arange(HEIGHT * WIDTH, dtype=torch.int32).view(1, HEIGHT, WIDTH).expand(3, -1, -1)
    fragments = Fragments(64, 32, chance())
    first = fragments(picture, 0)
    for row in range(7):
        for column in range(7):
            patch = first[0, row * 32 : row * 32 + 32, column * 32 : column * 32 + 32]
            top, left = divmod(int(patch[0, 0]), WIDTH)
            assert torch.equal(patch, picture[0, top : top + 32, left : left + 32])
            assert 0 <= top - row * (HEIGHT // 7) <= HEIGHT // 7 - 32
            assert 0 <= left - column * (WIDTH // 7) <= WIDTH // 7 - 32
    assert torch.equal(fragments(picture, 31), first)
    assert not torch.equal(fragments(picture, 32), first)


def test_views_hold_their_frames_as_networks_take_them() -> None:
    view = View([2, 0, 2, 1], thumbnail)
    for index in range(3):
        view.add(Frame(index, 0.0, torch.full((3, 230, 250), 50 * index, dtype=torch.uint8)))
    clips = view.clips(2)
    assert clips.shape == (2, 3, 2, 224, 224)
    levels = clips[:, :, :, 0, 0] * torch.tensor([58.395, 57.12, 57.375])[:, None]
    levels = levels + torch.tensor([123.675, 116.28, 103.53])[:, None]
    assert levels[0, 0].tolist() == pytest.approx([100, 0], abs=1e-3)
    assert levels[1, 2].tolist() == pytest.approx([100, 50], abs=1e-3)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_dover_has_both_numbers_of_the_paper(stub: Stub) -> None:
    stub.put("dover")
    told = score_video(given(moving(40, HEIGHT, WIDTH), 8), learned="dover").to_dict()
    views = stub.seen("dover")
    assert {name: tuple(view.shape) for name, view in views.items()} == {
        "technical": (3, 3, 32, 224, 224),
        "aesthetic": (1, 3, 32, 224, 224),
    }
    technical, aesthetic = (float(views[name].mean()) + 0.1 for name in ("technical", "aesthetic"))
    assert told["dover_technical"] == pytest.approx(100 * sigmoid((technical - 0.1107) / 0.07355), abs=1e-3)
    assert told["dover_aesthetic"] == pytest.approx(100 * sigmoid((aesthetic + 0.08285) / 0.03774), abs=1e-3)
    assert told["paper"]["rows"][1] == {
        **{"table": 2, "row": "Stage II 1080p"},
        **{"dover_technical": 11.68, "dover_aesthetic": 97.87},
    }


def test_fastervqa_sees_eight_runs_of_four(stub: Stub) -> None:
    stub.put("fastervqa")
    told = score_video(given(moving(40, HEIGHT, WIDTH), 8), learned=["fastervqa"]).to_dict()
    (view,) = stub.seen("fastvqa").values()
    assert view.shape == (1, 3, 32, 224, 224)
    assert told["fastervqa"] == pytest.approx(sigmoid((float(view.mean()) + 0.1 - 0.14759505) / 0.03613452), abs=1e-4)
    assert told["remarks"] == []
    assert "paper" not in told, "it has no such column"


def test_videos_that_are_too_small_are_left_out_in_words(stub: Stub) -> None:
    stub.put("dover", "niqe")
    told = score_video(given(moving(5), 8), learned="dover,niqe").to_dict()
    assert told["dover_technical"] is told["dover_aesthetic"] is None
    assert told["niqe"] > 0
    assert told["remarks"] == ["DOVER was left out: it needs sides of 224 pixels or more."]


def test_a_video_that_ends_early_is_left_out_in_words(stub: Stub) -> None:
    stub.put("dover")
    video, short = moving(12, HEIGHT, WIDTH), moving(6, HEIGHT, WIDTH)
    remarks = score_video(given(video, 8), against=given(short, 8), learned="dover").remarks
    assert remarks[-1] == "DOVER was left out: the video ends before its frame 10."


def test_a_file_that_does_not_tell_its_length_is_left_out_in_words() -> None:
    meter = DoverMeter(torch.nn.Identity(), torch.device("cpu"), expected=0)
    with pytest.raises(ValueError, match="does not tell how many frames it has"):
        meter.add(Frame(0, 0.0, torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)))
