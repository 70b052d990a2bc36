"""What goes on around a convolution, in one pass before and one after it, where Triton's kernels run.

See :mod:`flashvideo.tensors.fusing`. Tensors are ``[frames, rows, columns, C]``. Each function tells whether it did the
work; where it did not, the plain path does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...tensors import fusing
from .statistics import Statistics

_KERNELS = f"{__package__}.kernels"
_WIDEST = 4096  # channels, which one program takes at once
_BLOCK = 4096  # elements that a program works on at a time
VOXELS = 1024  # that one program of `finish` gathers statistics of, about


def modulate(
    source: Tensor, target: Tensor, scale: Tensor, shift: Tensor, offset: tuple[int, int], grid: int, alone: bool
) -> bool:
    """``silu(source * scale + shift)`` into ``target``.

    Args:
        scale, shift: fp32, ``[C]`` or ``[latent frames, latent rows, latent columns, C]``.
        offset: rows and columns of the first latent that lie before the tile.
        grid: pixels per latent.
        alone: the first latent frame stands for the first frame.
    """
    if not _fits(source, target) or scale.dtype != torch.float32:
        return False
    scale, shift = scale.contiguous(), shift.contiguous()
    return bool(fusing.run(_KERNELS, "modulate", source, target, scale, shift, offset, grid, alone))


def enlarge(source: Tensor, target: Tensor, offset: tuple[int, int]) -> bool:
    """Nearest neighbour twice as large with a border of one pixel, see :func:`.layers.enlarge`."""
    return _fits(source, target) and bool(fusing.run(_KERNELS, "enlarge", source, target, offset))


def bias_of(conv: Any, values: Tensor) -> Tensor | None:
    """The bias of a convolution, if :func:`finish` can add it so that the convolution need not."""
    found = fusing.weights_of(conv, values) if _fits(values) else None
    return None if found is None or found[0].dtype != values.dtype else found[1]


def finish(
    result: Tensor, bias: Tensor | None, straight: Tensor | None, target: Tensor, statistics: Statistics | None
) -> bool:
    """``result + bias + straight`` into ``target``, in fp32, and its statistics.

    Args:
        result: contiguous; may be ``target``.
        straight: the residual block's straight path; may share ``target``'s memory.
        statistics: get those of what was written, once it is asked for: nothing is allocated after the writing.
    """
    if not _fits(result, target) or not result.is_contiguous() or not (straight is None or _fits(straight)):
        return False
    gathered = None
    if statistics is not None:
        number, each = programs(result[..., 0].numel(), result.shape[-1])
        gathered = tuple(result.new_empty((number, result.shape[-1]), dtype=torch.float32) for _ in range(2))
    if not fusing.run(_KERNELS, "finish", result, bias, straight, target, gathered):
        return False
    if statistics is not None and gathered is not None:
        means, squares = gathered
        statistics.gather(result[..., 0].numel(), each, means, squares)
    return True


def block(channels: int) -> tuple[int, int]:
    """Pixels and channels that a program works on at a time, both powers of two."""
    wide = 1 << (channels - 1).bit_length()
    return max(1, _BLOCK // wide), wide


def programs(count: int, channels: int) -> tuple[int, int]:
    """How many programs finish ``count`` voxels, and the voxels of each but the last."""
    pixels, _ = block(channels)
    each = max(1, VOXELS // pixels) * pixels
    return -(-count // each), each


def _fits(*tensors: Tensor) -> bool:
    return all(
        fusing.available(tensor) and tensor.stride(-1) == 1 and tensor.shape[-1] <= _WIDEST and tensor.numel() > 0
        for tensor in tensors
    )
