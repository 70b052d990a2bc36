"""PIQE: noise and flattened blocks without a reference (Venkatanath et al., "Blind image quality evaluation using
perception based features", NCC 2015), with the constants and the rounding of the published implementations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .frames import Frame
from .sampling import Evenly

FRAMES = 16  # of a video, at most
_GRAY = (9798, 19235, 3735)  # of 2^15: BT.601 in whole numbers, as published; not the luma of the other measures
_BLOCK, _SEGMENT = 16, 6  # pixels: of a block's side, of a part of its edge
_ACTIVE, _FLAT = 0.1, 0.1  # variance from which a block counts; deviation below which a part of its edge is flat
_SIGMA, _TAPS = 7 / 6, 7  # of the window that contrast is normalised in
_MIDDLE = 127.5  # taken off before squares, whose differences single precision would lose


class PiqeMeasure:
    """Of evenly spaced frames (:class:`~flashvideo.scores.sampling.Evenly`)."""

    def __init__(self, expected: int = 0) -> None:
        self._frames = Evenly(FRAMES, expected)

    def add(self, frame: Frame) -> None:
        if self._frames.wants(frame.index):
            self._frames.add(piqe(frame.video))

    def result(self) -> float | None:
        """0 (best) to 100; None where no frame has anything in it."""
        return self._frames.mean()


def piqe(pixels: Tensor) -> float | None:
    """Of a picture ``[3, H, W]`` uint8: 0 (best) to 100; None if it has no active block, where nothing can be said."""
    blocks = _blocks(_normalised(_stretched(pixels)))
    variance = blocks.var(dim=(1, 2))
    is_active = variance > _ACTIVE
    if not is_active.any():
        return None
    blocks, variance = blocks[is_active], variance[is_active]
    faults = _is_flattened(blocks) * (1 - variance) + _is_noisy(blocks, variance.sqrt()) * variance
    return float((faults.sum() + 1) / (len(blocks) + 1)) * 100


def _stretched(pixels: Tensor) -> Tensor:
    """Gray ``[H, W]`` fp32 of whole levels, the brightest of which is 255; sides are mirrored up to whole blocks."""
    red, green, blue = (plane.int() for plane in pixels)
    weighted = red.mul_(_GRAY[0]).add_(green, alpha=_GRAY[1]).add_(blue, alpha=_GRAY[2])
    gray = weighted.add_(1 << 14).bitwise_right_shift_(15)
    levels = torch.arange(256, device=gray.device).double()
    gray = (255 * (levels / gray.max().clamp(min=1))).round().float()[gray]  # ties fall as in published ones
    for axis in (0, 1):
        missing = -gray.shape[axis] % _BLOCK
        gray = torch.cat([gray, gray.narrow(axis, gray.shape[axis] - missing, missing).flip(axis)], axis)
    return gray


def _normalised(gray: Tensor) -> Tensor:
    """By the mean and deviation around each pixel."""
    gray = gray - _MIDDLE
    mean, square = _smooth(gray), _smooth(gray * gray)
    return (gray - mean) / (square - mean * mean).abs_().sqrt_().add_(1)


def _smooth(picture: Tensor) -> Tensor:
    half = _TAPS // 2
    taps = torch.exp(-((torch.arange(_TAPS) - half).double() ** 2) / (2 * _SIGMA**2))
    weights = (taps / taps.sum()).tolist()
    for axis in (0, 1):  # sums of shifted pictures: several times as fast as a convolution of one channel
        side = picture.shape[axis]
        wide = picture.index_select(axis, torch.arange(-half, side + half).clamp(0, side - 1))
        picture = wide.narrow(axis, 0, side) * weights[0]
        for shift, weight in enumerate(weights[1:], start=1):
            picture.add_(wide.narrow(axis, shift, side), alpha=weight)
    return picture


def _blocks(picture: Tensor) -> Tensor:
    """``[blocks, 16, 16]``."""
    return picture.unfold(0, _BLOCK, _BLOCK).unfold(1, _BLOCK, _BLOCK).reshape(-1, _BLOCK, _BLOCK)


def _is_flattened(blocks: Tensor) -> Tensor:
    """Whether a part of any edge is flat, as compression leaves it."""
    edges = torch.stack([blocks[:, 0], blocks[:, -1], blocks[:, :, 0], blocks[:, :, -1]], dim=1)
    sums, squares = (F.avg_pool1d(power, _SEGMENT, 1) * _SEGMENT for power in (edges, edges * edges))
    variance = (squares - sums * sums / _SEGMENT) / (_SEGMENT - 1)
    return (variance < _FLAT**2).flatten(1).any(dim=1)


def _is_noisy(blocks: Tensor, deviation: Tensor) -> Tensor:
    """Whether the middle deviates as the whole does, as in noise and hardly elsewhere."""
    middle = _BLOCK // 2 - 1
    # The published implementations count columns after the first was taken out: the surroundings lack 7 and 9, not 8.
    around = [column for column in range(_BLOCK) if column not in (middle, middle + 2)]
    ratio = blocks[:, :, middle : middle + 2].flatten(1).std(dim=1) / blocks[:, :, around].flatten(1).std(dim=1)
    ratio = ratio.nan_to_num(0)
    return deviation > 2 * (deviation - ratio).abs() / torch.maximum(deviation, ratio)
