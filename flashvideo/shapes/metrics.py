"""Measures of refined clips against true ones, and intervals around what was measured.

Clips are ``[3, F, H, W]`` in 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from ..tensors.checks import check_video
from .render import low_resolution

_RINGS_PER_CYCLE = 64  # rings of the spectrum are 1/64 cycle per pixel wide
_STEP_POWER = 1 / (12 * 255**2)  # power that rounding to 8 bits adds per pixel: nothing below it can be seen
_RESAMPLES = 10_000
_Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Interval:
    """A mean, or a share, and the 95 % interval around it."""

    mean: float
    low: float
    high: float


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio ``-10 log10 mean((a - b)^2)`` in dB over a whole clip; infinite for equal clips.

    Raises:
        ValueError: clips of different or other shapes.
    """
    _check_pair(a, b)
    error = float((a.double() - b.double()).square().mean())
    return -10 * math.log10(error) if error else math.inf


def low_passed_psnr(a: Tensor, b: Tensor, factor: int = 4) -> float:
    """``psnr`` in dB of both clips as ``low_resolution`` shows them: whether a refinement keeps what it was given.

    Args:
        a, b: ``[3, F, H, W]``.
        factor: between the clips' resolution and the input's; divides H and W.

    Raises:
        ValueError: clips of different or other shapes; sides that the factor does not divide.
    """
    _check_pair(a, b)
    if factor < 1 or a.shape[2] % factor or a.shape[3] % factor:
        raise ValueError(f"clips of {a.shape[2]}x{a.shape[3]}; expected multiples of the factor {factor}.")
    return psnr(low_resolution(a.float(), factor), low_resolution(b.float(), factor))


def spectrum_error(a: Tensor, b: Tensor, factor: int = 4) -> float:
    """How different the fine detail's strength is, wherever it is: mean over frames and rings of ``|S_a - S_b|`` in dB.

    ``S(f, r) = 10 log10 (P(f, r) + 1 / (12 * 255^2))``; P is the power per pixel of frame f (Hann-windowed, mean over
    colours) in ring r of frequencies, 1/64 cycle per pixel wide, from the low resolution's Nyquist frequency
    ``1 / (2 factor)`` up to ``1 / 2``; the constant is the noise of rounding to 8 bits.

    Args:
        a, b: ``[3, F, H, W]``.
        factor: between the low resolution and this one, at least 2.

    Raises:
        ValueError: clips of different or other shapes; a factor below 2.
    """
    _check_pair(a, b)
    if factor < 2:
        raise ValueError(f"factor is {factor}; expected 2 or more, or no frequency lies above the low resolution's.")
    return float((_ring_levels(a, factor) - _ring_levels(b, factor)).abs().mean())


def _ring_levels(video: Tensor, factor: int) -> Tensor:
    """``[F, rings]`` log power in dB."""
    height, width = video.shape[2:]
    window = torch.hann_window(height, periodic=False)[:, None] * torch.hann_window(width, periodic=False)
    centred = video.float() - video.float().mean(dim=(2, 3), keepdim=True)
    power = torch.fft.rfft2(centred * window).abs().square().mean(dim=0) / window.square().sum()
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])
    # Columns but the first (and the last of an even width) stand for two mirrored frequencies each.
    twice = torch.full((width // 2 + 1,), 2.0)
    twice[0] = 1
    if width % 2 == 0:
        twice[-1] = 1
    weight = (twice * ((frequency > 0.5 / factor) & (frequency <= 0.5))).flatten()
    ring = (frequency * _RINGS_PER_CYCLE).floor().long().flatten()
    count = torch.zeros(int(ring.max()) + 1).index_add_(0, ring, weight)
    total = torch.zeros(len(power), len(count)).index_add_(1, ring, power.flatten(1) * weight)
    return 10 * torch.log10(total[:, count > 0] / count[count > 0] + _STEP_POWER)


def flicker_error(a: Tensor, b: Tensor) -> float:
    """Unfaithful change over time: ``mean |(a_{f+1} - a_f) - (b_{f+1} - b_f)|`` in units of the range 0..1.

    Zero for a clip that differs from the true one by a still picture only.

    Raises:
        ValueError: clips of different or other shapes, or of one frame.
    """
    _check_pair(a, b)
    if a.shape[1] < 2:
        raise ValueError("clips of one frame; expected two frames or more to see changes.")
    return float((a.float().diff(dim=1) - b.float().diff(dim=1)).abs().mean())


def interval95(values: Sequence[float]) -> Interval:
    """Mean of independent values (one a clip) with its percentile bootstrap interval; the same at every call.

    Raises:
        ValueError: fewer than two values.
    """
    return ratio_interval(values, [1.0] * len(values))


def ratio_interval(parts: Sequence[float], wholes: Sequence[float]) -> Interval:
    """``sum(parts) / sum(wholes)`` with its percentile bootstrap interval over clips; the same at every call.

    For attributes right of attributes asked, one pair a clip: attributes of one clip fail together, so clips are drawn
    again and not attributes.

    Raises:
        ValueError: fewer than two clips, unequal numbers, wholes that are negative or all zero.
    """
    if len(parts) != len(wholes) or len(parts) < 2:
        raise ValueError(f"{len(parts)} and {len(wholes)} values; expected two or more, and equally many.")
    part, whole = np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)
    if whole.min() < 0 or whole.sum() == 0:
        raise ValueError("the wholes are negative or all zero; expected a positive sum.")
    generator = np.random.default_rng(0)
    drawn = generator.integers(len(part), size=(_RESAMPLES, len(part)))
    resampled = whole[drawn].sum(axis=1)
    ratios = part[drawn].sum(axis=1)[resampled > 0] / resampled[resampled > 0]
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Interval(float(part.sum() / whole.sum()), float(low), float(high))


def proportion_interval(right: int, total: int) -> Interval:
    """``right / total`` with Wilson's score interval, which stays within 0..1 and is honest at both ends.

    ``(p + z^2 / 2n ± z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)`` with ``z = 1.96``.

    Raises:
        ValueError: a total below one, or more right than there are.
    """
    if total < 1 or not 0 <= right <= total:
        raise ValueError(f"{right} right of {total}; expected 0 <= right <= total and a total of 1 or more.")
    share, square = right / total, _Z95**2 / total
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    return Interval(share, max(centre - half, 0.0), min(centre + half, 1.0))


def _check_pair(a: Tensor, b: Tensor) -> None:
    check_video("the first clip", a, "[3, F, H, W]")
    check_video("the second clip", b, "[3, F, H, W]")
    if a.shape != b.shape:
        raise ValueError(f"clips are {list(a.shape)} and {list(b.shape)}; expected two equal shapes [3, F, H, W].")
