"""Colours of the small video in the refined one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from flashvideo import match_colors
from flashvideo.video.resize import resize_video


def clip(frames: int, height: int, width: int, cells: int, seed: int) -> torch.Tensor:
    """``[1, 3, F, H, W]`` around a half, of blobs of the given size."""
    grid = torch.randn(3 * frames, 1, height // cells, width // cells, generator=torch.Generator().manual_seed(seed))
    large = F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False)
    return 0.5 + 0.1 * large.reshape(1, 3, frames, height, width)


def reduced(video: torch.Tensor, factor: int) -> torch.Tensor:
    return resize_video(video, video.shape[3] // factor, video.shape[4] // factor)


def test_a_shift_of_colour_goes_and_detail_stays():
    scene, detail = clip(5, 64, 96, 16, 0), 0.3 * (clip(5, 64, 96, 1, 1) - 0.5)
    detail -= resize_video(reduced(detail, 4), 64, 96)
    cast = torch.tensor([0.05, -0.04, 0.02]).view(1, 3, 1, 1, 1)
    small = reduced(scene, 4)
    found = match_colors(scene + detail + cast, small)
    wanted = scene + detail
    assert (found - wanted).abs().max() < 0.05
    assert (found - wanted).square().mean() < 0.02 * cast.square().mean()


@pytest.mark.parametrize("coarseness", [1, 2.5, 8, 1000])
def test_a_video_that_fits_stays_as_it_is(coarseness):
    large = resize_video(clip(2, 16, 24, 8, 2), 64, 96)
    assert torch.allclose(match_colors(large, reduced(large, 4), coarseness), large, atol=0.02)


def test_one_cell_is_one_shift_of_the_whole_frame():
    video, small = clip(1, 64, 96, 4, 3), 0.9 * clip(1, 16, 24, 4, 4)
    found = match_colors(video, small, 1000)
    shift = found - video
    assert shift.std(dim=(3, 4)).max() < 1e-6
    assert shift.abs().max() > 0.01
    assert torch.allclose(resize_video(found, 1, 1), resize_video(small, 1, 1), atol=1e-5)


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_every_way_to_the_videos_shape(resize):
    small = clip(3, 32, 32, 8, 5)
    large = resize_video(small, 64, 128, mode=resize)
    found = match_colors(large - 0.1, small, resize=resize)
    assert (found - large).abs().mean() < 0.01
    if resize != "stretch":
        other = match_colors(large - 0.1, small)
        assert (other - large).abs().mean() > 3 * (found - large).abs().mean(), "it does matter"


@pytest.mark.parametrize("coarseness", [1, 2.5, 8, 1000])
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_the_low_band_can_be_replaced_exactly(coarseness, resize):
    video, small = clip(2, 64, 96, 2, 3), 0.9 * clip(2, 18, 20, 2, 4)
    found = match_colors(video, small, coarseness, resize=resize, exact=True)
    again = match_colors(found, small, coarseness, resize=resize, exact=True)
    assert (found - again).abs().max() < 3e-4, "nothing is left to be replaced"
    if resize == "stretch":
        rows, columns = (max(1, round(side / coarseness)) for side in (18, 20))
        low, wanted = (resize_video(each, rows, columns) for each in (found, small))
        assert (low - wanted).abs().max() < 2e-4
        weaker = resize_video(match_colors(video, small, coarseness), rows, columns)
        assert coarseness == 1000 or (weaker - wanted).abs().max() > 5e-3, "which it is not without"


def test_what_is_clipped_is_made_up_for():
    video, small = torch.full((1, 3, 1, 64, 64), 0.05), torch.zeros(1, 3, 1, 8, 8)
    video[..., ::2] = 1.0
    small[..., :4] = 0.5
    found = match_colors(video, small, exact=True)
    assert found.min() >= 0
    assert found.max() <= 1
    error = (resize_video(found, 8, 8) - small).abs().max()
    assert error < 0.06
    assert error < 0.5 * (resize_video(match_colors(video, small), 8, 8) - small).abs().max()


def test_frames_are_matched_one_by_one():
    video, small = clip(6, 64, 96, 4, 6), clip(6, 16, 24, 4, 7)
    whole = match_colors(video, small, 2)
    parts = [match_colors(video[:, :, k : k + 2], small[:, :, k : k + 2], 2) for k in (0, 2, 4)]
    assert torch.equal(whole, torch.cat(parts, dim=2))


def test_it_stays_in_range_and_zero_is_off():
    video = torch.rand(1, 3, 1, 32, 32).round()
    found = match_colors(video, torch.rand(1, 3, 1, 8, 8).round())
    assert found.min() >= 0
    assert found.max() <= 1
    assert torch.equal(match_colors(video, torch.rand(1, 3, 1, 8, 8), 0), video)


@pytest.mark.parametrize(
    ("video", "small", "more", "said"),
    [
        ((1, 3, 2, 32, 32), (1, 3, 3, 8, 8), {}, "as many videos and frames"),
        ((1, 3, 2, 32, 32), (3, 2, 8, 8), {}, "expected floating point [B, 3, F, H, W]"),
        ((1, 3, 2, 32, 32), (1, 3, 2, 8, 8), {"coarseness": 0.5}, "0 (off) or 1 to 1024"),
        ((1, 3, 2, 32, 32), (1, 3, 2, 8, 8), {"resize": "fit"}, "expected one of stretch"),
    ],
)
def test_bad_input(video, small, more, said):
    with pytest.raises(ValueError, match="expected") as error:
        match_colors(torch.rand(video), torch.rand(small), **more)
    assert said in str(error.value)
