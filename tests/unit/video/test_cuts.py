"""Where scenes change: what is found, and what is not taken for a cut."""

from __future__ import annotations

import pytest
import torch

from flashvideo.video.cuts import find_cuts
from flashvideo.video.files import VideoWriter
from flashvideo.video.frames import look_at


def picture(seed: int, brightness: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 6, generator=generator).mul(brightness)
    return torch.nn.functional.interpolate(coarse, (48, 64), mode="bilinear")[:, :, None]


def pan(seed: int, frames: int, step: int = 1) -> list[torch.Tensor]:
    return [picture(seed).roll(index * step, 4) for index in range(frames)]


def fade(frames: int) -> list[torch.Tensor]:
    return [picture(1) * (1 - index / frames) + picture(2) * index / frames for index in range(frames + 1)]


@pytest.mark.parametrize(
    ("frames", "cuts"),
    [
        (pan(1, 6) + pan(2, 5) + pan(3, 4), [6, 11]),
        (pan(1, 12, step=4), []),
        (fade(8), []),
        ([picture(1)] * 4, []),
        ([picture(index % 2) for index in range(6)], [1]),  # flickering is no scene a frame
        ([picture(1, 0.1), picture(2, 0.1)], []),  # in the dark nothing is found
        ([picture(1), picture(2)], [1]),
    ],
)
def test_cuts(tmp_path, frames, cuts):
    with VideoWriter(tmp_path / "a.mp4", 8) as writer:
        writer.write(torch.cat(frames, dim=2))
    told: list[int] = []
    assert find_cuts(look_at(tmp_path / "a.mp4"), told.append) == cuts
    assert told == list(range(len(frames)))
