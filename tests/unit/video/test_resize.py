"""The resize between the stages, side-by-side videos and contact sheets."""

from __future__ import annotations

import pytest
import torch

from flashvideo.video.resize import contact_sheet, resize_video, resize_words, side_by_side


def test_stretch_is_the_authors_resize(golden, within):
    pipeline = golden("pipeline")
    video = pipeline["stage1.video_255"].permute(3, 0, 1, 2)[None] / 255
    resized = resize_video(video, 48, 256) * 2 - 1  # the authors resize in -1..1
    kept = pipeline["resized_keep_frames"]
    within(resized[0][:, kept].transpose(0, 1), pipeline["stage2.resized_keep_frames"], 1e-5)
    within(resized[0].mean(dim=(0, 2, 3)), pipeline["stage2.resized_frame_mean"], 1e-5)


def test_all_modes_give_fp32_of_the_asked_size(seeded):
    video = torch.rand(2, 3, 3, 10, 20, generator=seeded, dtype=torch.float64)
    for mode in ("stretch", "crop", "pad"):
        resized = resize_video(video, 32, 48, mode=mode)
        assert resized.shape == (2, 3, 3, 32, 48)
        assert resized.dtype == torch.float32
        assert resized.min() >= 0
        assert resized.max() <= 1 + 1e-6


def test_equal_size_changes_nothing_and_copies(seeded):
    video = torch.rand(1, 3, 2, 16, 32, generator=seeded)
    for mode in ("stretch", "crop", "pad"):
        resized = resize_video(video, 16, 32, mode=mode)
        assert torch.equal(resized, video)
        assert resized.data_ptr() != video.data_ptr()


def ramp() -> torch.Tensor:
    """Height 16, width 32; red rises with x, green with y."""
    video = torch.zeros(1, 3, 1, 16, 32)
    video[:, 0] = torch.linspace(0, 1, 32)
    video[:, 1] = torch.linspace(0, 1, 16)[:, None]
    return video


def test_crop_keeps_the_centre():
    resized = resize_video(ramp(), 32, 32, mode="crop")[0, :, 0]
    assert torch.allclose(resized[0, 5], ramp()[0, 0, 0, 0].repeat_interleave(2)[16:48], atol=0.02)
    assert resized[1, 0, 0] < 0.05
    assert resized[1, -1, 0] > 0.95


def test_pad_repeats_the_edges():
    resized = resize_video(ramp(), 32, 32, mode="pad")[0, :, 0]
    assert torch.equal(resized[:, 8:24], ramp()[0, :, 0])
    assert torch.equal(resized[:, :8], ramp()[0, :, 0, :1].expand(3, 8, 32))
    assert torch.equal(resized[:, 24:], ramp()[0, :, 0, -1:].expand(3, 8, 32))


@pytest.mark.parametrize(
    ("shape", "size", "mode", "words"),
    [
        ((3, 4, 8, 8), (16, 16), "stretch", r"\[B, 3, F, H, W\]"),
        ((1, 4, 4, 8, 8), (16, 16), "stretch", r"\[B, 3, F, H, W\]"),
        ((1, 3, 0, 8, 8), (16, 16), "stretch", r"\[B, 3, F, H, W\]"),
        ((1, 3, 4, 8, 8), (0, 16), "stretch", "0x16"),
        ((1, 3, 4, 8, 8), (16, 16), "fill", "stretch, crop, pad"),
    ],
)
def test_bad_input_is_refused(shape, size, mode, words):
    with pytest.raises(ValueError, match=words):
        resize_video(torch.zeros(shape), *size, mode=mode)


def test_side_by_side(seeded):
    left, right = torch.rand(1, 3, 2, 16, 30, generator=seeded), torch.rand(1, 3, 2, 64, 100, generator=seeded)
    joined = side_by_side(left, right)
    assert joined.shape == (1, 3, 2, 64, 220)
    assert torch.equal(joined[..., 120:], right)
    assert (joined[..., :120].mean() - left.mean()).abs() < 0.01
    assert joined.min() >= 0
    assert joined.max() <= 1
    with pytest.raises(ValueError, match="2 frames and the right one 1"):
        side_by_side(left, right[:, :, :1])


def test_contact_sheet(seeded):
    video = torch.rand(1, 3, 9, 4, 6, generator=seeded)
    sheet = contact_sheet(video, 4)
    assert sheet.shape == (3, 12, 24)
    assert torch.equal(sheet[:, 4:8, 6:12], video[0, :, 5])
    assert not sheet[:, 8:, 6:].any()
    few = contact_sheet(video[0], 3, count=3, tile_width=6)
    assert torch.equal(few, torch.cat([video[0, :, i] for i in (0, 4, 8)], dim=2))
    assert contact_sheet(video, 2, count=1, tile_width=12).shape == (3, 8, 24)
    with pytest.raises(ValueError, match="0 columns"):
        contact_sheet(video, 0)


@pytest.mark.parametrize(
    ("shapes", "mode", "said"),
    [
        ((256, 480, 1072, 1920), "stretch", "480x256 becomes 1920x1072, stretched by 5 % in height."),
        ((64, 32, 64, 64), "stretch", "32x64 becomes 64x64, stretched by 100 % in width."),
        ((64, 32, 128, 64), "stretch", "32x64 becomes 64x128."),
        ((64, 32, 64, 64), "crop", "32x64 becomes 64x64: 50 % of its height are cut off, half on each side."),
        ((32, 64, 64, 64), "crop", "64x32 becomes 64x64: 50 % of its width are cut off, half on each side."),
        ((64, 32, 64, 64), "pad", "32x64 becomes 64x64: 50 % of the width are borders, half on each side."),
        ((32, 64, 64, 64), "pad", "64x32 becomes 64x64: 50 % of the height are borders, half on each side."),
        ((64, 64, 32, 32), "crop", "64x64 becomes 32x32."),
    ],
)
def test_what_becomes_of_the_shape_in_words(shapes, mode, said):
    assert resize_words(*shapes, mode) == said
