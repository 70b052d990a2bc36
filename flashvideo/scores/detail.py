"""How sharp a video is: where its power lies among the frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

BANDS = ("1/4 to 1/2", "1/8 to 1/4", "1/16 to 1/8", "1/32 to 1/16")  # cycles a pixel, octaves, the finest first
_PATCH = 64  # pixels; smaller videos have smaller ones
_PATCHES = 24
_FINE = 0.8, 0.2  # weights of the finest octaves; the second one still differs where nothing is left in the first
_ROUNDING = 1 / 12  # power a pixel of rounding to whole levels


@dataclass(frozen=True)
class Detail:
    """Mean over a video.

    Attributes:
        sharpness: amplitude in the two finest octaves, the finest counting most, relative to the two below: about 1
            where amplitude falls as 1/f, as in the sharpest pictures, 0 for an enlargement. Contrast and brightness do
            not matter.
        bands: power of each of :data:`BANDS` in dB, of levels of 255 squared.
    """

    sharpness: float
    bands: dict[str, float]


class DetailMeasure:
    """Spectra of patches on a fixed grid, Hann-windowed."""

    def __init__(self) -> None:
        self._sum = torch.zeros(len(BANDS), dtype=torch.float64)
        self._count = 0

    def add(self, luma: Tensor) -> float:
        """Take a frame ``[H, W]``; gives its own sharpness."""
        powers = band_powers(luma)
        self._sum += powers
        self._count += 1
        return sharpness_of(powers)

    def result(self) -> Detail:
        powers = self._sum / max(1, self._count)
        bands = {name: 10 * math.log10(max(float(p), 1e-6)) for name, p in zip(BANDS, powers, strict=True)}
        return Detail(sharpness_of(powers), bands)


def sharpness_of(powers: Tensor) -> float:
    """Of the octaves' powers; rounding to whole levels is no detail."""
    coarse = float(powers[len(_FINE) :].mean())
    if coarse <= _ROUNDING:
        return 0.0
    fine = [max(0.0, float(power) - _ROUNDING / 4**number) for number, power in enumerate(powers[: len(_FINE)])]
    return sum(weight * math.sqrt(power / coarse) for weight, power in zip(_FINE, fine, strict=True))


def band_powers(luma: Tensor) -> Tensor:
    """``[H, W]`` -> power a pixel in each octave, levels squared, fp64."""
    patches = patches_of(luma)
    size = patches.shape[-1]
    window, rings = _rings(size)
    centred = patches - patches.mean(dim=(1, 2), keepdim=True)
    power = torch.fft.rfft2(centred * window).abs().square().mean(dim=0)
    return (rings @ power.flatten().double()) / (size**2 * float(window.square().sum()))


def patches_of(luma: Tensor) -> Tensor:
    """``[n, size, size]`` at places spread over the frame, the same in every one."""
    height, width = luma.shape
    size = min(_PATCH, 1 << (min(height, width).bit_length() - 1))
    rows = max(1, min(height // size, round(math.sqrt(_PATCHES * height / width))))
    columns = max(1, min(width // size, _PATCHES // rows))
    ys, xs = (
        [round(i * (side - size) / (count - 1)) for i in range(count)] if count > 1 else [(side - size) // 2]
        for side, count in ((height, rows), (width, columns))
    )
    xs = [
        round(i * (width - size) / max(1, columns - 1)) if columns > 1 else (width - size) // 2 for i in range(columns)
    ]
    return torch.stack([luma[y : y + size, x : x + size] for y in ys for x in xs])


@lru_cache(maxsize=4)
def _rings(size: int) -> tuple[Tensor, Tensor]:
    """The window, and ``[octaves, frequencies]`` weights that add up each octave's power."""
    hann = torch.hann_window(size, periodic=False)
    fy, fx = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
    frequency = torch.hypot(fy, fx).flatten()
    twice = torch.full((size, size // 2 + 1), 2.0, dtype=torch.float64)  # columns stand for mirrored frequencies too
    twice[:, 0] = twice[:, -1] = 1
    edges = [0.5 / 2**k for k in range(len(BANDS) + 1)]
    rings = [twice.flatten() * ((frequency > low) & (frequency <= high)).double() for high, low in pairwise(edges)]
    return hann[:, None] * hann, torch.stack(rings)


@lru_cache(maxsize=4)
def fine_weights(size: int) -> Tensor:
    """``[size, size // 2 + 1]`` of the three finest octaves of a patch's spectrum, mirrored frequencies counted."""
    return _rings(size)[1][:3].sum(dim=0).float().view(size, size // 2 + 1)
