"""GroupNorm statistics gathered tile by tile, and the scale and shift they amount to."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .modules import weights_in_place

# Rows ([voxels, C]) summed in one go: few enough that fp32 sums stay exact to 1e-7 and that a half-precision
# tile is never copied to fp32 as a whole, many enough that a GPU is kept busy.
ROWS_ON_CPU = 1 << 14
ROWS_ELSEWHERE = 1 << 16
LANES = 512


def math_dtype(dtype: torch.dtype) -> torch.dtype:
    """Precision of sums and of the normalisation itself: fp32 for fp32 and halves, fp64 for fp64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Statistics:
    """Count, mean and sum of squared deviations of every channel, over any number of parts (Chan's rule)."""

    def __init__(self) -> None:
        self._counts: list[int] = []
        self._means: list[Tensor] = []
        self._squares: list[Tensor] = []
        self._gathered: list[tuple[int, int, Tensor, Tensor, int]] = []

    def gather(self, count: int, each: int, means: Tensor, squares: Tensor, weight: int = 1) -> None:
        """Take the statistics of ``count`` voxels in pieces, to be merged when they are asked for.

        Args:
            each: voxels of every piece but the last.
            means, squares: of the pieces' channels, ``[pieces, C]``.
            weight: how often every voxel counts.
        """
        self._gathered.append((count, each, means, squares, weight))

    def weighted(self, weight: int) -> Statistics:
        """The same, every voxel counted ``weight`` times; of what was gathered."""
        whole = Statistics()
        whole._gathered = [(*part[:4], weight * part[4]) for part in self._gathered]
        return whole

    def add(self, part: Statistics) -> None:
        self._counts += part._counts
        self._means += part._means
        self._squares += part._squares
        self._gathered += part._gathered

    def group(self, groups: int) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each group, ``[groups]`` each."""
        self._take_gathered()
        counts, means, squares = self._merged(_wide(self._means[0]))
        per_group = means.unflatten(0, (groups, -1))
        mean = per_group.mean(1)
        within = squares.unflatten(0, (groups, -1)).mean(1) / counts
        return mean, within + (per_group - mean[:, None]).square().mean(1)

    def merge(self) -> None:
        """Replace the parts by their sum, so that a plane of many tiles keeps three small vectors."""
        if len(self._counts) > 1:
            counts, means, squares = self._merged(_wide(self._means[0]))
            self._counts, self._means, self._squares = [counts], [means], [squares]

    def _take_gathered(self) -> None:
        for count, each, means, squares, weight in self._gathered:
            wide = _wide(means)
            counts = torch.full((len(means), 1), each, dtype=wide, device=means.device)
            counts[-1] = count - each * (len(means) - 1)
            mean = (means * (counts / count)).sum(0)
            self._counts.append(weight * count)
            self._means.append(mean)
            self._squares.append((squares + counts * (means - mean).square()).sum(0) * weight)
        self._gathered.clear()

    def _merged(self, dtype: torch.dtype) -> tuple[int, Tensor, Tensor]:
        device = self._means[0].device
        total = sum(self._counts)
        if len(self._counts) == 1:
            return total, self._means[0].to(dtype), self._squares[0].to(dtype)
        weights = torch.tensor(self._counts, dtype=dtype)[:, None]
        if device.type == "cuda":
            weights = weights.pin_memory()  # or the copy would wait for all that the device has to do
        weights = weights.to(device, non_blocking=True)
        means = torch.stack([mean.to(dtype) for mean in self._means])
        mean = (means * (weights / total)).sum(0)
        squares = torch.stack([square.to(dtype) for square in self._squares]).sum(0)
        return total, mean, squares + (weights * (means - mean).square()).sum(0)


def measure(values: Tensor, weight: int = 1) -> Statistics:
    """Statistics of ``values`` ``[..., C]``, every voxel counted ``weight`` times."""
    whole = Statistics()
    rows = values.reshape(-1, values.shape[-1])
    limit = ROWS_ON_CPU if values.device.type == "cpu" else ROWS_ELSEWHERE
    for part in rows.split(limit):
        part = part.to(math_dtype(part.dtype))
        even = len(part) // LANES * LANES
        for piece, lanes in ((part[:even], LANES), (part[even:], 1)):
            if len(piece):
                mean, variance = _lanes_merged(piece, lanes)
                whole._counts.append(weight * len(piece))
                whole._means.append(mean)
                whole._squares.append(variance * (weight * len(piece)))
    whole.merge()
    return whole


def _lanes_merged(rows: Tensor, lanes: int) -> tuple[Tensor, Tensor]:
    """Mean and variance over rows that are summed in ``lanes`` interleaved sums, each that many times shorter.

    A long fp32 sum is the largest error of a norm; short ones, merged in fp64, cost nothing more.
    """
    mean, variance = _mean_and_variance(rows.reshape(len(rows) // lanes, -1))
    wide = _wide(mean)
    means, variances = (tensor.to(wide).view(lanes, -1) for tensor in (mean, variance))
    mean = means.mean(0)
    return mean, variances.mean(0) + (means - mean).square().mean(0)


def _mean_and_variance(rows: Tensor) -> tuple[Tensor, Tensor]:
    if rows.device.type in ("cpu", "cuda"):
        # The statistics kernel of batch norm: several times faster than var_mean along the outer dimension.
        return torch.batch_norm_update_stats(rows, None, None, 0.0)
    variance, mean = torch.var_mean(rows, dim=0, correction=0)
    return mean, variance


def _wide(sample: Tensor) -> torch.dtype:
    return torch.float32 if sample.device.type == "mps" else torch.float64


def affine(group_norm: Any, statistics: Statistics, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """``(scale, shift)``, ``[C]`` each in ``dtype``: the norm of x is ``x * scale + shift``."""
    mean, variance = statistics.group(group_norm.num_groups)
    weight, bias = norm_weights(group_norm, mean.device, mean.dtype)
    inverse = (variance + group_norm.eps).rsqrt()
    each = len(weight) // group_norm.num_groups
    scale = weight * inverse.repeat_interleave(each)
    return scale.to(dtype), (bias - mean.repeat_interleave(each) * scale).to(dtype)


def norm_weights(group_norm: Any, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias of a GroupNorm, the only weights that are read instead of used by calling their module.

    ComfyUI streams weights when a module is called and may not have them in place before. There the norm is called on
    -1, 0 and 1, whose outputs tell both.
    """
    if not getattr(group_norm, "comfy_cast_weights", False):
        with weights_in_place(group_norm):
            return group_norm.weight.to(device, dtype), group_norm.bias.to(device, dtype)
    probe = torch.tensor([-1.0, 0.0, 1.0], device=device).expand(1, group_norm.num_channels, 3)
    low, bias, high = group_norm(probe).to(dtype)[0].unbind(1)
    return (high - low) / 2 * math.sqrt(2 / 3 + group_norm.eps), bias.clone()
