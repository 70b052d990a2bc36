"""Measures of refinement against their formulas; intervals against known values."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from flashvideo.shapes.metrics import (
    flicker_error,
    interval95,
    low_passed_psnr,
    proportion_interval,
    psnr,
    ratio_interval,
    spectrum_error,
)
from flashvideo.shapes.render import low_resolution, render_clip
from flashvideo.shapes.scenes import sample_scene


@pytest.fixture
def clip():
    return render_clip(sample_scene(3), 96, 160, 3)


def enlarged(video: torch.Tensor, mode: str = "bicubic") -> torch.Tensor:
    frames = F.interpolate(low_resolution(video, 4).transpose(0, 1), scale_factor=4, mode=mode)
    return frames.clamp(0, 1).transpose(0, 1)


def white_noise(shape: tuple[int, ...], sigma: float, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * sigma


def test_psnr_is_its_formula(clip):
    assert psnr(clip, clip + 0.1) == pytest.approx(20, abs=1e-3)
    assert psnr(clip, clip) == math.inf
    assert psnr(clip, clip + white_noise(clip.shape, 0.01)) == pytest.approx(40, abs=0.05)


def test_low_passed_psnr_ignores_fine_detail_only(clip):
    fine = 0.2 * (torch.arange(160) % 2 - 0.5)
    assert psnr(clip, clip + fine) == pytest.approx(20, abs=1e-3)
    assert low_passed_psnr(clip, clip + fine) > 40  # what is left comes from the repeated edges
    assert low_passed_psnr(clip, clip + 0.1) == pytest.approx(20, abs=1e-3)
    exact = psnr(low_resolution(clip), low_resolution(clip + white_noise(clip.shape, 0.1)))
    assert low_passed_psnr(clip, clip + white_noise(clip.shape, 0.1)) == pytest.approx(exact, abs=1e-3)


def test_spectrum_error_counts_decibels():
    """Noise of twice the deviation has four times the power, 6.02 dB, in every ring."""
    noise = white_noise((3, 4, 96, 160), 0.05)
    assert spectrum_error(noise, 2 * noise) == pytest.approx(20 * math.log10(2), abs=0.01)
    assert spectrum_error(noise, noise) == 0
    assert spectrum_error(noise, white_noise(noise.shape, 0.05, seed=1)) < 0.6


def test_spectrum_error_sees_only_what_lies_above_the_low_resolution():
    """A wave of one twelfth of a cycle per pixel lies below 1/8, one of a quarter above."""
    base = white_noise((3, 2, 96, 160), 0.01)
    waves = {cycles: 0.2 * torch.sin(2 * math.pi * cycles * torch.arange(160)) for cycles in (1 / 12, 1 / 4)}
    assert spectrum_error(base, base + waves[1 / 12]) < 0.02
    assert spectrum_error(base, base + waves[1 / 4]) > 1


def test_spectrum_error_ignores_place_and_prefers_detail_to_blur(clip):
    assert spectrum_error(clip, clip.flip(3)) < 0.1
    soft, halfway = enlarged(clip), (clip + enlarged(clip)) / 2
    assert spectrum_error(clip, soft) > spectrum_error(clip, halfway) + 3
    assert spectrum_error(clip, enlarged(clip, "bilinear")) > 6


def test_what_8_bits_cannot_show_is_no_spectrum_error():
    flat = torch.full((3, 2, 48, 80), 0.5)
    assert spectrum_error(flat, flat + white_noise(flat.shape, 1e-5)) < 0.01


def test_flicker_error_ignores_still_differences(clip):
    assert flicker_error(clip, clip + torch.rand(3, 1, 96, 160)) == pytest.approx(0, abs=1e-6)
    flashing = clip.clone()
    flashing[:, 1] += 0.1
    assert flicker_error(clip, flashing) == pytest.approx(0.1, abs=1e-4)


@pytest.mark.parametrize("measure", [psnr, low_passed_psnr, spectrum_error, flicker_error])
def test_unequal_clips_are_refused(measure, clip):
    with pytest.raises(ValueError, match=r"expected two equal shapes \[3, F, H, W\]"):
        measure(clip, clip[:, :2])


def test_bad_factors_and_single_frames_are_refused(clip):
    with pytest.raises(ValueError, match="multiples of the factor 7"):
        low_passed_psnr(clip, clip, 7)
    with pytest.raises(ValueError, match="expected 2 or more"):
        spectrum_error(clip, clip, 1)
    with pytest.raises(ValueError, match="two frames or more"):
        flicker_error(clip[:, :1], clip[:, :1])


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(0, 10, 0.0, 0.27753), (5, 10, 0.23659, 0.76341), (10, 10, 0.72247, 1.0), (198, 200, 0.96428, 0.99725)],
)
def test_wilson_interval(right, count, low, high):
    interval = proportion_interval(right, count)
    assert interval.mean == right / count
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=2e-5)


def test_bootstrap_of_many_values_is_nearly_normal_and_repeats():
    values = white_noise((200,), 1.0).tolist()
    interval = interval95(values)
    error = torch.tensor(values).std().item() / math.sqrt(200)
    assert interval.mean == pytest.approx(sum(values) / 200)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert interval == interval95(values)


def test_ratio_is_drawn_by_clips():
    """Ten attributes that fail together say no more than one."""
    one = ratio_interval([1, 0] * 20, [1] * 40)
    ten = ratio_interval([10, 0] * 20, [10] * 40)
    assert one == ten
    assert ratio_interval([3, 1], [4, 4]).mean == 0.5
    assert one.high - one.low > 3 * (proportion_interval(200, 400).high - proportion_interval(200, 400).low) / 1.05


def test_impossible_counts_are_refused():
    for right, count in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="0 <= right <= total"):
            proportion_interval(right, count)
    with pytest.raises(ValueError, match="two or more"):
        interval95([1.0])
    with pytest.raises(ValueError, match="equally many"):
        ratio_interval([1, 1], [1])
    with pytest.raises(ValueError, match="positive sum"):
        ratio_interval([1, 1], [0, 0])
