"""Compression as a degradation: lower quality loses more, and the scale is the usual one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flashvideo.video.compression import h264_clip, jpeg_frames, jpeg_quantiser


@pytest.fixture
def clip() -> Tensor:
    """``[3, 5, 48, 80]``, detail in every pixel."""
    return torch.rand(3, 5, 48, 80, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def smooth() -> Tensor:
    """``[3, 5, 48, 80]``, what compression keeps well."""
    cells = torch.rand(1, 3, 2, 4, 5, generator=torch.Generator().manual_seed(2))
    return F.interpolate(cells, size=(5, 48, 80), mode="trilinear")[0]


def psnr(found: Tensor, expected: Tensor) -> float:
    return float(-10 * (found - expected).square().mean().log10())


def test_compression_loses_more_at_lower_quality(smooth: Tensor) -> None:
    frames = smooth.transpose(0, 1)
    jpeg = [psnr(jpeg_frames(frames, quality), frames) for quality in (95, 50, 5)]
    h264 = [psnr(h264_clip(smooth, crf), smooth) for crf in (5, 30, 50)]
    assert jpeg == sorted(jpeg, reverse=True)
    assert h264 == sorted(h264, reverse=True)
    assert min(jpeg[0], h264[0]) > 38
    assert torch.equal(h264_clip(smooth, 30), h264_clip(smooth, 30))


def test_jpeg_quality_is_about_libjpegs(clip: Tensor, tmp_path) -> None:
    """Against Pillow's, on a picture with detail."""
    image = pytest.importorskip("PIL.Image")
    frame = F.avg_pool2d(clip[:, 0], 3, 1, 1)
    pixels = frame.mul(255).round().byte()
    for quality in (30, 60, 90):
        path = tmp_path / f"{quality}.jpg"
        image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path, quality=quality)
        theirs = torch.tensor(list(image.open(path).getdata())).view(48, 80, 3).permute(2, 0, 1) / 255
        assert psnr(jpeg_frames(frame[None], quality)[0], frame) == pytest.approx(psnr(theirs, frame), abs=2.0)
    assert (jpeg_quantiser(100), jpeg_quantiser(1)) == (2, 31)
