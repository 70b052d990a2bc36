"""DEG_pixel: deterministic by seed, alike for all frames, weak as a formula says, strong within its ranges."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flashvideo.method.pixel_degradation import (
    DegradationRound,
    PixelDegradation,
    _Dice,
    _draw_steps,
)
from flashvideo.method.pixel_degradation import degrade_pixels as degrade_without_codecs
from flashvideo.method.pixel_degradation import shrink_pixels as shrink_without_codecs
from flashvideo.method.pixel_steps import H264, Blur, Jpeg, Noise, Resize
from flashvideo.video.compression import CODECS

degrade_pixels, shrink_pixels = (
    partial(degrade_without_codecs, codecs=CODECS),
    partial(shrink_without_codecs, codecs=CODECS),
)
WEAK, STRONG = PixelDegradation(strong_share=0.0), PixelDegradation(strong_share=1.0)


@pytest.fixture
def clip() -> Tensor:
    """``[3, 5, 48, 80]``, detail in every pixel."""
    return torch.rand(3, 5, 48, 80, generator=torch.Generator().manual_seed(1))


def everything(share: float = 1.0) -> PixelDegradation:
    return replace(STRONG, noise_probability=share, jpeg_probability=share, h264_probability=share)


@pytest.mark.parametrize("settings", [WEAK, STRONG, everything()], ids=["weak", "strong", "everything"])
@pytest.mark.parametrize("shape", [(3, 1, 33, 47), (2, 3, 3, 32, 48), (1, 3, 2, 9, 7)])
def test_any_shape_comes_back_in_range(settings: PixelDegradation, shape: tuple[int, ...]) -> None:
    video = torch.rand(shape)
    degraded = degrade_pixels(video, settings, seed=3)
    assert degraded.shape == video.shape
    assert degraded.dtype == torch.float32
    assert 0 <= float(degraded.min()) <= float(degraded.max()) <= 1
    assert not torch.equal(degraded, video)


@pytest.mark.parametrize("settings", [PixelDegradation(), everything(0.5)], ids=["default", "everything"])
def test_a_seed_gives_the_same_bytes(settings: PixelDegradation, clip: Tensor) -> None:
    before = clip.clone()
    first = [degrade_pixels(clip, settings, seed=seed) for seed in range(4)]
    torch.manual_seed(99)
    again = [degrade_pixels(clip, settings, seed=seed) for seed in range(4)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(first[0], other) for other in first[1:])
    assert torch.equal(clip, before)


def test_a_generator_is_what_everything_is_drawn_from(clip: Tensor) -> None:
    source = torch.Generator().manual_seed(5)
    first, second = (degrade_pixels(clip, everything(0.5), generator=source) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, degrade_pixels(clip, everything(0.5), generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("seed", range(6))
def test_all_frames_are_degraded_alike(seed: int, clip: Tensor) -> None:
    still = clip[:, :1].expand(-1, 5, -1, -1)
    degraded = degrade_pixels(still, STRONG, seed=seed)
    assert all(torch.equal(degraded[:, :1], degraded[:, k : k + 1]) for k in range(5))
    noisy = degrade_pixels(still, replace(STRONG, noise_probability=1.0), seed=seed)
    assert not torch.equal(noisy[:, 0], noisy[:, 1])


def test_clips_of_a_batch_are_degraded_by_themselves(clip: Tensor) -> None:
    degraded = degrade_pixels(torch.stack([clip, clip]), STRONG, seed=1)
    assert not torch.equal(degraded[0], degraded[1])


def test_the_weak_form_is_an_antialiased_reduction_and_back(clip: Tensor) -> None:
    settings = replace(WEAK, weak_factor=(4.0, 4.0))
    small = F.interpolate(clip.transpose(0, 1), size=(12, 20), mode="bilinear", antialias=True)
    expected = F.interpolate(small, size=(48, 80), mode="bilinear", antialias=True).transpose(0, 1)
    assert torch.allclose(degrade_pixels(clip, settings, seed=0), expected, atol=1e-6)
    assert torch.allclose(shrink_pixels(clip, settings, seed=0), small.transpose(0, 1), atol=1e-6)


def test_the_weak_factor_fills_its_range(clip: Tensor) -> None:
    widths = [shrink_pixels(clip[:, :1], WEAK, seed=seed).shape[-1] for seed in range(60)]
    assert min(widths) == 10
    assert max(widths) in (19, 20)


def test_strong_is_another_and_softer(clip: Tensor) -> None:
    weak = degrade_pixels(clip, replace(WEAK, weak_factor=(4.0, 4.0)), seed=0)
    strong = [degrade_pixels(clip, STRONG, seed=seed) for seed in range(20)]
    roughness = [float(video.diff(dim=3).abs().mean()) for video in strong]
    assert sum(roughness) / len(roughness) < float(weak.diff(dim=3).abs().mean())
    assert {tuple(shrink_pixels(clip, STRONG, seed=seed).shape[2:]) for seed in range(20)} == {(12, 20)}


def test_half_of_the_draws_are_strong() -> None:
    dice = _Dice(torch.Generator().manual_seed(0))
    weak = sum(len(_draw_steps(PixelDegradation(), (96, 160), dice)) == 1 for _ in range(1000))
    assert 440 < weak < 560


def test_strong_draws_stay_within_their_ranges() -> None:
    dice = _Dice(torch.Generator().manual_seed(0))
    drawn = [step for _ in range(400) for step in _draw_steps(everything(0.5), (96, 160), dice)]
    blurs = [step for step in drawn if isinstance(step, Blur)]
    assert {blur.side for blur in blurs} == set(range(7, 22, 2))
    assert all(0.2 <= blur.sigma_x <= 3 and 0.2 <= blur.sigma_y <= 3 for blur in blurs)
    isotropic = sum(blur.sigma_x == blur.sigma_y for blur in blurs) / len(blurs)
    assert isotropic == pytest.approx(0.64, abs=0.06)
    resizes = [step for step in drawn if isinstance(step, Resize)]
    assert {step.mode for step in resizes} == {"area", "bilinear", "bicubic"}
    assert max(step.width for step in resizes) <= 160 * 1.5 * 1.2 + 1
    assert sum(isinstance(step, H264) for step in drawn) == pytest.approx(400, abs=60)
    assert all(30 <= step.quality <= 95 for step in drawn if isinstance(step, Jpeg))
    assert {step.kind for step in drawn if isinstance(step, Noise)} == {"gaussian", "poisson"}


def test_nothing_but_blur_and_resize_by_default() -> None:
    """The paper names no noise and no compression."""
    dice = _Dice(torch.Generator().manual_seed(0))
    kinds = {type(step) for _ in range(100) for step in _draw_steps(PixelDegradation(), (96, 160), dice)}
    assert kinds == {Blur, Resize}


def test_a_blur_has_its_deviation() -> None:
    point = torch.zeros(1, 3, 41, 41)
    point[:, :, 20, 20] = 1
    axis = torch.arange(41.0) - 20
    for blur, expected in ((Blur(21, 2.0, 2.0, 0.0), (4.0, 4.0)), (Blur(21, 2.0, 1.0, 0.0), (4.0, 1.0))):
        spread = blur(point, 0)[0, 0]
        assert float(spread.sum()) == pytest.approx(1, abs=1e-5)
        along_x, along_y = float((spread.sum(0) * axis**2).sum()), float((spread.sum(1) * axis**2).sum())
        assert (along_x, along_y) == pytest.approx(expected, rel=0.02)
    turned = Blur(21, 2.0, 1.0, torch.pi / 2)(point, 0)
    assert torch.allclose(turned, Blur(21, 2.0, 1.0, 0.0)(point, 0).transpose(2, 3), atol=1e-6)


@pytest.mark.parametrize(("kind", "strength", "expected"), [("gaussian", 25.0, 25.0), ("poisson", 2.0, 2 * 127.5**0.5)])
def test_noise_has_its_strength(kind: str, strength: float, expected: float) -> None:
    grey = torch.full((2, 3, 64, 64), 0.5)
    noisy = Noise(kind, strength, False, 7)(grey, 0)
    assert float((noisy - grey).std()) * 255 == pytest.approx(expected, rel=0.03)
    assert torch.equal(noisy[1], Noise(kind, strength, False, 7)(grey[1:], 1)[0])  # whatever the frames come with
    same = Noise(kind, strength, True, 7)(grey, 0)
    assert torch.equal(same[:, 0], same[:, 1])
    assert not torch.equal(noisy[:, 0], noisy[:, 1])


def test_progress_counts_frames(clip: Tensor) -> None:
    seen: list[tuple[int, int]] = []
    degrade_pixels(torch.stack([clip, clip]), everything(), seed=0, progress=lambda *counts: seen.append(counts))
    assert seen[-1] == (10, 10)
    assert seen == sorted(seen)


def test_frames_go_through_in_parts_that_do_not_show(clip: Tensor, monkeypatch) -> None:
    whole = degrade_pixels(clip, everything(), seed=4)
    monkeypatch.setattr("flashvideo.method.pixel_degradation._PIXELS_AT_ONCE", 1)
    assert torch.equal(degrade_pixels(clip, everything(), seed=4), whole)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (PixelDegradation(strong_share=1.5), "strong_share is 1.5"),
        (PixelDegradation(weak_factor=(8.0, 4.0)), "weak_factor"),
        (PixelDegradation(strong_factor=(0.5, 4.0)), "strong_factor"),
        (PixelDegradation(noise_probability=-1), "noise_probability"),
        (PixelDegradation(rounds=(DegradationRound(blur_kernel=(6, 21)),)), r"rounds\[0\].blur_kernel.*odd"),
        (PixelDegradation(rounds=(DegradationRound(blur_sigma=(0.0, 3.0)),)), "blur_sigma"),
        (PixelDegradation(rounds=(DegradationRound(resize_shares=(0.7, 0.7)),)), "resize_shares"),
        (PixelDegradation(rounds=(DegradationRound(jpeg_quality=(0.0, 95.0)),)), "jpeg_quality"),
    ],
)
def test_settings_out_of_range_are_named(settings: PixelDegradation, said: str, clip: Tensor) -> None:
    with pytest.raises(ValueError, match=said):
        degrade_pixels(clip, settings, seed=0)


def test_wrong_calls_are_refused(clip: Tensor) -> None:
    with pytest.raises(ValueError, match="expected floating point"):
        degrade_pixels(clip[0], seed=0)
    with pytest.raises(ValueError, match="expected floating point"):
        degrade_pixels((clip * 255).byte(), seed=0)
    with pytest.raises(ValueError, match="one of them"):
        degrade_pixels(clip, seed=0, generator=torch.Generator())
    with pytest.raises(ValueError, match=r"expected floating point \[3, F, H, W\]"):
        shrink_pixels(clip[None])
    for share in ("jpeg_probability", "h264_probability"):
        with pytest.raises(ValueError, match="codecs=flashvideo"):
            degrade_without_codecs(clip, replace(WEAK, **{share: 0.1}), seed=0)
