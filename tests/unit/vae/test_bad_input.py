"""Videos and latents that the VAE cannot take are refused in words."""

from __future__ import annotations

import pytest
import torch

from flashvideo import (
    decode_latents,
    encode_video,
)


def latents(*shape):
    return torch.zeros(shape or (1, 16, 2, 4, 4))


def test_encode_and_decode_refuse(tiny_vae):
    video = torch.zeros(1, 3, 5, 32, 32)
    for wrong, options, message in (
        (video[:, :, :4], {}, "4 frames"),
        (video[:, :, :0], {}, "shape"),
        (video[..., :30], {}, "multiples of 8"),
        (video[:, :1], {}, r"expected floating point \[B, 3, F, H, W\]"),
        (video[0], {}, r"expected floating point \[B, 3, F, H, W\]"),
        (video.to(torch.uint8), {}, "torch.uint8"),
        (video, {"noise": latents(1, 16, 1, 4, 4)}, "noise has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            encode_video(tiny_vae, wrong, **options)
    for wrong, options, message in (
        (latents(1, 4, 2, 4, 4), {}, r"shape \[1, 4, 2, 4, 4\]; expected floating point \[B, 16, T, h, w\]"),
        (latents(16, 2, 4, 4), {}, "expected floating point"),
        (latents(1, 16, 0, 4, 4), {}, "shape"),
        (latents(), {"method": "magic"}, "method is 'magic'"),
    ):
        with pytest.raises(ValueError, match=message):
            decode_latents(tiny_vae, wrong, **options)
