"""PIQE rises with noise, blocks and compression of a soft picture, and is of a few frames of a video."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flashvideo import score_video
from flashvideo.scores import score
from flashvideo.scores.frames import Frame
from flashvideo.scores.piqe import piqe
from flashvideo.scores.sampling import Evenly
from tests.unit.scores.clips import moving, write
from tools.planted_faults import blur


@pytest.fixture(scope="module")
def soft() -> Tensor:
    """``[3, F, H, W]``, as sharp as usual footage."""
    return blur(moving(5, 160, 256, step=1), 1.0)


def noisy(video: Tensor, size: float) -> Tensor:
    return video + size / 255 * torch.randn(video.shape, generator=torch.Generator().manual_seed(1))


def blocky(video: Tensor, size: float) -> Tensor:
    """Squares of 8x8 pixels take so large a share of what is in them from their mean."""
    frames = video.movedim(1, 0)
    means = F.interpolate(F.avg_pool2d(frames, 8), scale_factor=8)
    return (frames + size * (means - frames)).movedim(0, 1)


@pytest.mark.parametrize(("fault", "sizes"), [(noisy, (4, 8, 16, 32)), (blocky, (0, 0.25, 0.5, 0.75))])
def test_it_rises_with_the_fault(soft: Tensor, fault: object, sizes: tuple[float, ...]) -> None:
    assert callable(fault)
    found = [piqe(fault(soft, size)[:, 0].clamp(0, 1).mul(255).round().byte()) for size in sizes]
    assert all(sooner + 2 < later for sooner, later in pairwise(found)), found


def test_it_rises_with_compression(tmp_path: Path, soft: Tensor) -> None:
    found = [score_video(write(tmp_path / "a.mp4", soft, crf=crf)).to_dict()["piqe"] for crf in (20, 30, 40, 50)]
    assert all(sooner + 2 < later for sooner, later in pairwise(found)), found


def test_evenly_spaced_frames_are_taken() -> None:
    def taken(length: int, expected: int) -> tuple[int, list[float | None]]:
        frames, asked = Evenly(16, expected), 0
        for index in range(length):
            if frames.wants(index):
                asked += 1
                frames.add(index)
        return asked, frames.values

    assert taken(0, 0) == (0, [])
    assert taken(16, 16) == taken(16, 0) == (16, list(range(16)))
    assert taken(49, 49) == (13, list(range(0, 49, 4)))
    assert taken(4800, 4800) == (16, list(range(0, 4800, 300)))
    for expected in (0, 100):  # as files that do not tell, or too few
        asked, frames = taken(4800, expected)
        assert 8 < len(frames) <= 16
        assert asked < 90
        assert len({later - sooner for sooner, later in pairwise(frames) if sooner is not None and later}) == 1


def test_a_long_video_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Watched(score.PiqeMeasure):
        def add(self, frame: Frame) -> None:
            super().add(frame)
            seen.append(len(self._frames.values))

    monkeypatch.setattr(score, "PiqeMeasure", Watched)
    path = write(tmp_path / "a.mp4", moving(40, 64, 64))
    assert score_video(path).piqe is not None
    assert (len(seen), seen[-1]) == (40, 14)
