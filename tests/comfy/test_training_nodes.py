"""Pixel Degradation in a real ComfyUI: what the library gives, in IMAGE's layout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flashvideo.method.pixel_degradation import PixelDegradation, degrade_pixels
from flashvideo.video.compression import CODECS
from tests.comfy.conftest import Bench, saved


@pytest.fixture
def picture() -> Tensor:
    """IMAGE ``[5, 48, 80, 3]``."""
    return torch.rand(5, 48, 80, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("widgets", "settings"),
    [
        ({}, PixelDegradation()),
        ({"strength": "weak", "noise": True}, PixelDegradation(strong_share=0.0)),
        ({"strength": "strong"}, PixelDegradation(strong_share=1.0)),
        (
            {"strength": "strong", "noise": True, "compression": True},
            PixelDegradation(strong_share=1.0, noise_probability=1.0, jpeg_probability=1.0, h264_probability=1.0),
        ),
    ],
    ids=["default", "weak", "strong", "everything"],
)
def test_pixels_are_degraded_as_in_training(
    bench: Bench, picture: Tensor, widgets: dict[str, Any], settings: PixelDegradation
) -> None:
    image = bench.tensor("ProbeImage", picture)
    seeds = (3, 2**64 - 1)
    outs = [
        bench.save(bench.add("FlashVideoDegradePixels", image=image, seed=seed, **widgets), "ProbeSaveImage", "image")
        for seed in seeds
    ]
    bench.run()
    for seed, out in zip(seeds, outs, strict=True):
        expected = degrade_pixels(picture.movedim(-1, 0), settings, seed=seed, codecs=CODECS).movedim(0, -1)
        degraded = saved(out, "image")
        assert degraded.shape == picture.shape
        assert torch.allclose(degraded, expected, atol=1e-4)


def test_a_picture_with_alpha_is_a_clip_of_one_frame(bench: Bench, picture: Tensor) -> None:
    image = bench.tensor("ProbeImage", torch.cat([picture[:1], torch.ones(1, 48, 80, 1)], dim=-1))
    out = bench.save(bench.add("FlashVideoDegradePixels", image=image), "ProbeSaveImage", "image")
    bench.run()
    assert saved(out, "image").shape == (1, 48, 80, 3)
