"""The authors' VAE, number by number: chunks, caches, posterior, and their two-tile decode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flashvideo.vae.codec import decode_latents, encode_moments, encode_video
from flashvideo.vae.limits import Limits

VIDEO_LIMIT = 2e-3 / 255
MOMENTS_LIMIT = 2e-5


def frames(video_255: Tensor) -> Tensor:
    """`[T, H, W, 3]` 0..255 as `[1, 3, T, H, W]` 0..1."""
    return video_255.permute(3, 0, 1, 2)[None] / 255


@pytest.fixture(scope="module")
def vae(tiny_vae):
    return tiny_vae


@pytest.fixture(scope="module")
def data(golden):
    return golden("vae")


@pytest.mark.parametrize("tile", [False, 1, (1, 2)])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 13])
def test_decoded_chunks(vae, data, within, count, tile):
    video = decode_latents(vae, data[f"dec{count}.z"], tile=tile)
    within(video, frames(data[f"dec{count}.video_255"]), VIDEO_LIMIT)


@pytest.mark.parametrize("count", [1, 3, 5, 13])
def test_decoded_in_one_go(vae, data, within, monkeypatch, count):
    monkeypatch.setattr("flashvideo.vae.codec.plan.decode_chunks", lambda frames: [frames])
    video = decode_latents(vae, data[f"dec{count}.z"], tile=False)
    within(video, (data[f"dec{count}.oneshot_raw"] / 2 + 0.5).clamp(0, 1), MOMENTS_LIMIT / 2)


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("tile", [False, 7])
def test_authors_tiles(vae, data, within, index, tile):
    video = decode_latents(vae, data[f"wide{index}.z"], method="authors", tile=tile)
    within(video, frames(data[f"wide{index}.tiled_video_255"]), VIDEO_LIMIT)


def test_untiled_where_the_authors_tile(vae, data, within):
    expected = frames(data["wide0.untiled_video_255"])
    within(decode_latents(vae, data["wide0.z"], tile=9), expected, VIDEO_LIMIT)
    apart = decode_latents(vae, data["wide0.z"], method="authors") - expected
    assert apart.abs().max() > 0.01  # theirs does change the picture


def test_authors_drop_the_last_of_an_even_count(vae, data, within):
    latents = data["dec5.z"][:, :, :4]
    video = decode_latents(vae, latents, method="authors")
    assert video.shape[2] == 9
    within(video, decode_latents(vae, latents[:, :, :3], method="authors"), 0)
    assert decode_latents(vae, latents).shape[2] == 13


@pytest.mark.parametrize("count", [1, 5, 9, 17, 49])
def test_encoded_in_one_go(vae, data, within, monkeypatch, count):
    video = data[f"enc{count}.x"] / 2 + 0.5
    within(encode_moments(vae, video, [count]), data[f"enc{count}.moments_oneshot"], MOMENTS_LIMIT)
    monkeypatch.setattr("flashvideo.vae.codec.plan.encode_chunks", lambda frames: [frames])
    latents = encode_video(vae, video, noise=data[f"enc{count}.noise_oneshot"])
    within(latents, data[f"enc{count}.z_oneshot"], MOMENTS_LIMIT)


@pytest.mark.parametrize("tile", [False, 1, (2, 1)])
def test_encoded_in_the_authors_chunks(vae, data, within, tile):
    video = data["enc49.x"] / 2 + 0.5
    moments = data["enc49split.moments"]
    within(encode_moments(vae, video, limits=Limits(tile)), moments, MOMENTS_LIMIT)
    within(encode_video(vae, video, sample=False, tile=tile), moments[:, :16], MOMENTS_LIMIT)
    latents = encode_video(vae, video, noise=data["enc49split.noise"], tile=tile)
    within(latents * 1.15258426, data["enc49split.z_times_scale"], MOMENTS_LIMIT)


def test_log_variance_is_clamped(vae, data):
    from unittest.mock import patch

    huge = torch.cat([torch.zeros(1, 16, 1, 2, 3), torch.full((1, 16, 1, 2, 3), 1e4)], dim=1)
    with patch("flashvideo.vae.codec._encoded", lambda video, session: (part for part in [huge])):
        latents = encode_video(vae, torch.rand(1, 3, 1, 16, 24), noise=torch.ones(1, 16, 1, 2, 3))
    assert torch.allclose(latents, torch.full_like(latents, torch.e**10))
