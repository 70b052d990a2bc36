"""Change from frame to frame that neither the source nor motion explains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .detail import fine_weights, patches_of
from .frames import Frame

_STILL = 2.0  # levels: places that change less between three frames stand still
_CODEC = 0.5  # levels of boiling that codecs and rounding bring
_NOISE = 1.0  # without a source, a camera's noise too
_TO_DEVIATION = 1.4826  # of a normal distribution, from the median of distances
_ENOUGH = 0.02  # of the picture has to stand still
_CUT = 20.0  # levels: a change of scene is none of a video's faults
_REFINED = 2  # times that a patch's motion is measured more finely
_UNEVEN = 0.01  # of a patch's power: motion that is no shift
_AREAS = 6  # down the picture


@dataclass(frozen=True)
class Flicker:
    """Of a video, in levels of 255.

    Attributes:
        flicker: both parts together.
        brightness: of areas and of the whole picture.
        boiling: of detail where the picture stands still.
    """

    flicker: float
    brightness: float
    boiling: float


class FlickerMeasure:
    """Three frames in a row at a time, in pictures reduced by four (areas) and by two (detail)."""

    def __init__(self) -> None:
        self._areas: list[Tensor] = []
        self._shown: list[Tensor] = []
        self._coarse: list[Tensor] = []
        self._detail: list[Tensor] = []
        self._patches: Tensor | None = None
        self._jumps: list[Tensor] = []  # of the areas, without a source
        self._brightness: list[float] = []  # mean squares, one a frame
        self._boiling: list[float] = []

    def add(self, frame: Frame) -> float | None:
        """Take a frame; gives the flicker around the one before it, None at both ends and at cuts."""
        source = frame.source_luma
        coarse = frame.coarse
        self._keep(self._coarse, coarse)
        self._keep(self._areas, _areas(coarse))
        if source is not None:
            self._keep(self._shown, _sized(source, coarse.shape))
            self._keep(self._detail, _detail(frame.luma, coarse))
        boiling = _boil_of_patches(self._patches, after := _spectra(frame.luma)) if source is None else None
        self._patches = after if source is None else None
        if len(self._coarse) < 3:
            return None
        first, middle, last = self._coarse
        if max(float((middle - first).abs().mean()), float((last - middle).abs().mean())) > _CUT:
            return None
        jump = _jump(self._areas)
        if source is None:
            self._jumps.append(jump)
            common = jump.median()  # what most areas have in common; in single ones it may be motion
            brightness = float(common.square())
        else:
            brightness = float((jump - _jump([_areas(shown) for shown in self._shown])).square().mean())
            boiling = self._boil()
        self._brightness.append(brightness)
        if boiling is not None:
            self._boiling.append(boiling)
        return math.sqrt(brightness + max(0.0, (boiling or 0.0) - _codec(source) ** 2))

    @staticmethod
    def _keep(frames: list[Tensor], new: Tensor) -> None:
        frames.append(new)
        del frames[:-3]

    def _boil(self) -> float | None:
        """Mean square of the detail's jumps where the source stands still; None where nothing does."""
        first, middle, last = self._shown
        moving = torch.maximum((middle - first).abs(), (last - middle).abs())
        moving = F.max_pool2d(moving[None, None], 3, stride=1, padding=1)
        still = F.interpolate((moving < _STILL).float(), size=self._detail[0].shape, mode="nearest")[0, 0]
        count = float(still.sum())
        if count < _ENOUGH * still.numel():
            return None
        return float((_jump(self._detail).square() * still).sum()) / count

    def result(self) -> Flicker:
        with_source = not self._jumps
        brightness = _mean(self._brightness)
        if self._jumps:  # an area that flickers does so in most frames; motion comes and goes
            usual = torch.stack(self._jumps).abs().median(dim=0).values * _TO_DEVIATION
            brightness = max(brightness, float(usual.square().mean()))
        boiling = max(0.0, _mean(self._boiling) - _codec(with_source or None) ** 2)
        return Flicker(math.sqrt(brightness + boiling), math.sqrt(brightness), math.sqrt(boiling))


def _codec(source: object) -> float:
    return _NOISE if source is None else _CODEC


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _detail(luma: Tensor, coarse: Tensor) -> Tensor:
    fine = F.avg_pool2d(luma[None, None], 2)
    return (fine - F.interpolate(coarse[None, None], size=fine.shape[2:], mode="bilinear"))[0, 0]


def _spectra(luma: Tensor) -> Tensor:
    patches = patches_of(luma)
    window = _window(patches.shape[-1])
    return torch.fft.rfft2((patches - patches.mean(dim=(1, 2), keepdim=True)) * window)


@lru_cache(maxsize=4)
def _window(size: int) -> Tensor:
    hann = torch.hann_window(size, periodic=False)
    return hann[:, None] * hann


def _boil_of_patches(before: Tensor | None, after: Tensor) -> float | None:
    """Half the power of what is new in the fine bands of a usual patch once its motion is taken back."""
    if before is None:
        return None
    size = after.shape[1]
    weights, window = fine_weights(size), _window(size)
    cross = after * before.conj()
    correlation = torch.fft.irfft2(cross / cross.abs().clamp_min(1e-6).sqrt(), s=(size, size))
    dy, dx = _peak(correlation)
    moved = _shifted(before, dy, dx)
    for _ in range(_REFINED):
        down, right = _left_over(moved, after, weights)
        dy, dx = dy + down, dx + right
        moved = _shifted(before, dy, dx)
    scale = size**2 * float(window.square().sum())
    new = ((after - moved).abs().square() * weights).sum(dim=(1, 2)) / scale
    power = ((after.abs().square() + before.abs().square()) / 2 * weights).sum(dim=(1, 2)) / scale
    entering = 2 * power * (1 - _overlap(size, dy, dx) + _UNEVEN)  # texture that came into the patch
    return float((new - entering).clamp_min(0).median()) / 2


def _shifted(spectra: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
    """Patches moved down and right by parts of pixels."""
    size = spectra.shape[1]
    fy, fx = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
    phase = -2 * math.pi * (dy[:, None, None] * fy + dx[:, None, None] * fx)
    return spectra * torch.polar(torch.ones_like(phase), phase)


def _left_over(moved: Tensor, after: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Shifts that still lie between patches, by least squares over the phases of their spectra."""
    size = after.shape[1]
    fy, fx = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
    cross = after * moved.conj()
    strength = cross.abs() * weights
    phase = -torch.angle(cross) / (2 * math.pi)
    yy, xx, xy = ((strength * f).sum(dim=(1, 2)) for f in (fy * fy, fx * fx, fy * fx))
    y, x = ((strength * phase * f).sum(dim=(1, 2)) for f in (fy.expand_as(phase), fx.expand_as(phase)))
    scale = (yy * xx - xy * xy).clamp_min(1e-12)
    return ((xx * y - xy * x) / scale).clamp(-0.5, 0.5), ((yy * x - xy * y) / scale).clamp(-0.5, 0.5)


def _peak(correlation: Tensor) -> tuple[Tensor, Tensor]:
    """Shifts (down, right) of the highest points of ``[n, size, size]``, between pixels by a parabola."""
    size = correlation.shape[-1]
    place = correlation.flatten(1).argmax(dim=1)
    y, x, n = place // size, place % size, torch.arange(len(place))

    def between(before: Tensor, at: Tensor, after: Tensor) -> Tensor:
        curve = before - 2 * at + after
        return torch.where(curve < 0, (before - after) / (2 * curve), 0.0).clamp(-0.5, 0.5)

    at = correlation[n, y, x]
    down = between(correlation[n, (y - 1) % size, x], at, correlation[n, (y + 1) % size, x])
    right = between(correlation[n, y, (x - 1) % size], at, correlation[n, y, (x + 1) % size])
    half = size // 2
    return ((y + half) % size - half) + down, ((x + half) % size - half) + right


def _overlap(size: int, dy: Tensor, dx: Tensor) -> Tensor:
    """How alike the windowed patch and its shifted self are: the Hann window's own correlation."""

    def along(shift: Tensor) -> Tensor:
        hann = torch.hann_window(size, periodic=False)
        table = torch.stack([(hann[: size - k] * hann[k:]).sum() for k in range(size)]) / hann.square().sum()
        return table[shift.abs().round().long().clamp_max(size - 1)]

    return along(dy) * along(dx)


def _jump(frames: list[Tensor]) -> Tensor:
    """How far the middle frame lies off the mean of its neighbours: nothing for what moves or fades steadily."""
    return frames[1] - (frames[0] + frames[2]) / 2


def _areas(coarse: Tensor) -> Tensor:
    height, width = coarse.shape
    rows = min(_AREAS, height)
    return F.adaptive_avg_pool2d(coarse[None], (rows, max(1, min(width, round(rows * width / height)))))[0]


def _sized(luma: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(luma[None, None], size=tuple(size), mode="bilinear", antialias=True)[0, 0]
