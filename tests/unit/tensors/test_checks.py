"""The sizes of the VAE, and the one check of a video and of latents."""

from __future__ import annotations

import pytest
import torch

from flashvideo.tensors.checks import check_latents, check_video
from flashvideo.tensors.sizes import latent_frames, video_frames


def test_frames_become_latents_and_back():
    assert [latent_frames(count) for count in (1, 5, 17, 49)] == [1, 2, 5, 13]
    assert [video_frames(count) for count in (1, 2, 5, 13)] == [1, 5, 17, 49]


@pytest.mark.parametrize(("count", "words"), [(-3, "1 or 5"), (0, "1 or 5"), (4, "1 or 5"), (48, "45 or 49")])
def test_other_frames_are_refused(count, words):
    with pytest.raises(ValueError, match=rf"^{count} frames: .*Use {words}"):
        latent_frames(count)


@pytest.mark.parametrize(
    ("shape", "forms", "expected"),
    [
        ((3, 2, 4, 6), (), "[B, 3, F, H, W] in"),
        ((2, 2, 3, 4, 6), (), "[B, 3, F, H, W] in"),
        ((2, 3, 0, 4, 6), (), "[B, 3, F, H, W] in"),
        ((2, 3, 2, 4, 6), ("[1, 3, F, H, W]", "[3, F, H, W]"), "[1, 3, F, H, W] or [3, F, H, W] in"),
        ((1, 3, 2, 4, 6), ("[3, F, H, W]",), "[3, F, H, W] in"),
    ],
)
def test_other_videos_are_refused(shape, forms, expected):
    with pytest.raises(ValueError, match="expected floating point") as error:
        check_video("the clip", torch.zeros(shape), *forms)
    assert str(error.value).startswith(f"the clip is torch.float32 of shape {list(shape)}; ")
    assert expected in str(error.value)


def test_videos_pass():
    check_video("video", torch.zeros(2, 3, 1, 1, 1))
    check_video("video", torch.zeros(1, 3, 2, 4, 6, dtype=torch.float16), "[1, 3, F, H, W]", "[3, F, H, W]")
    check_video("video", torch.zeros(3, 2, 4, 6), "[1, 3, F, H, W]", "[3, F, H, W]")
    with pytest.raises(ValueError, match=r"torch\.uint8 .* divide 8-bit values by 255"):
        check_video("video", torch.zeros(2, 3, 1, 1, 1, dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(16, 2, 4, 4), (1, 8, 2, 4, 4), (1, 16, 0, 4, 4), (1, 16, 2, 4, 4, 4)])
def test_other_latents_are_refused(shape):
    with pytest.raises(ValueError, match=r"noise is torch\.float32 .*; expected floating point \[B, 16, T, h, w\]"):
        check_latents("noise", torch.zeros(shape))


def test_latents_pass():
    check_latents("latents", torch.zeros(2, 16, 3, 4, 6))
    check_latents("latents", torch.zeros(2, 8, 3, 4, 6), channels=8)
    check_latents("latents", torch.zeros(2, 16, 3, 3, 5), even=False)
    with pytest.raises(ValueError, match="must be even"):
        check_latents("latents", torch.zeros(2, 16, 3, 4, 5))
    with pytest.raises(ValueError, match=r"torch\.int64"):
        check_latents("latents", torch.zeros(2, 16, 3, 4, 6, dtype=torch.int64))
