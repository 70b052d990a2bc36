"""A video against the true one, pixel by pixel: PSNR and SSIM."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .likeness import decibel

_SIGMA, _TAPS = 1.5, 11  # of the window, as published (Wang et al. 2004)
_STABILISED = (0.01 * 255) ** 2, (0.03 * 255) ** 2


@dataclass(frozen=True)
class Reference:
    """Of a whole video.

    Attributes:
        psnr: in dB, of the mean squared error over all pixels and colours, capped.
        ssim: mean of the frames', of luma.
    """

    psnr: float
    ssim: float


class ReferenceMeasure:
    def __init__(self) -> None:
        self._error, self._ssim, self._count = 0.0, 0.0, 0

    def add(self, video: Tensor, true: Tensor, luma: Tensor, true_luma: Tensor) -> tuple[float, float]:
        """Take two frames ``[3, H, W]`` uint8 and their luma; gives their PSNR and SSIM."""
        error = float((video.float() - true.float()).square().mean())
        alike = ssim(luma, true_luma)
        self._error += error
        self._ssim += alike
        self._count += 1
        return decibel(error), alike

    def result(self) -> Reference | None:
        if not self._count:
            return None
        return Reference(decibel(self._error / self._count), self._ssim / self._count)


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity of two pictures ``[H, W]`` in 0..255: Gaussian window of 11 taps and deviation 1.5, without
    borders, covariances by the window's weights (scikit-image's with ``use_sample_covariance=False``).
    """
    taps = torch.exp(-((torch.arange(_TAPS) - _TAPS // 2).double() ** 2) / (2 * _SIGMA**2))
    taps = (taps / taps.sum()).to(a)
    stack = torch.stack([a, b, a * a, b * b, a * b])[:, None]
    smooth = F.conv2d(F.conv2d(stack, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))[:, 0]
    mean_a, mean_b, square_a, square_b, product = smooth
    first, second = _STABILISED
    covariance = product - mean_a * mean_b
    spread = square_a - mean_a**2 + square_b - mean_b**2
    value = (2 * mean_a * mean_b + first) * (2 * covariance + second)
    return float((value / ((mean_a**2 + mean_b**2 + first) * (spread + second))).mean())
