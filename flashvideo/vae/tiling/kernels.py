"""Triton kernels around the convolutions, see :mod:`.fused`. Tensors are ``[frames, rows, columns, C]``, C adjacent.

Sizes that differ from tile to tile are not specialised, or every tile would have kernels of its own compiled.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .fused import block, programs


@triton.jit(do_not_specialize=["columns", "frames", "latent_frames", "above", "left", "grid"])
def _modulate(
    source, target, scale, shift, columns, channels, frames, latent_frames, above, left, grid,
    of_frame, of_row, of_column, to_frame, to_row, to_column, map_frame, map_row, map_column,
    ALONE: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    row, frame = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    column = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.arange(0, CHANNELS)[None, :]
    inside = (column[:, None] < columns) & (channel < channels)
    if ALONE:
        later = 1 + (frame - 1) * (latent_frames - 1) // tl.maximum(frames - 1, 1)
        latent = tl.where(frame == 0, 0, later)
    else:
        latent = frame * latent_frames // frames
    at = latent * map_frame + (above + row) // grid * map_row + (left + column[:, None]) // grid * map_column + channel
    values = tl.load(source + frame * of_frame + row * of_row + column[:, None] * of_column + channel, mask=inside)
    values = values.to(tl.float32) * tl.load(scale + at, mask=inside) + tl.load(shift + at, mask=inside)
    values = values / (1 + tl.exp(-values))
    to = target + frame * to_frame + row * to_row + column[:, None] * to_column + channel
    tl.store(to, values.to(target.dtype.element_ty), mask=inside)


def modulate(
    source: Tensor, target: Tensor, scale: Tensor, shift: Tensor, offset: tuple[int, int], grid: int, alone: bool
) -> bool:
    """``silu(source * scale + shift)`` into ``target``.

    Args:
        scale, shift: ``[C]``, or ``[latent frames, latent rows, latent columns, C]``, of one layout.
        offset: rows and columns of the first latent that lie before the tile.
        grid: pixels per latent.
        alone: the first latent frame stands for the first frame.
    """
    frames, rows, columns, channels = source.shape
    maps = (0, 0, 0) if scale.dim() == 1 else scale.stride()[:3]
    pixels, wide = block(channels)
    _modulate[(triton.cdiv(columns, pixels), rows, frames)](
        source, target, scale, shift, columns, channels, frames, 1 if scale.dim() == 1 else len(scale), *offset, grid,
        *source.stride()[:3], *target.stride()[:3], *maps, ALONE=alone, PIXELS=pixels, CHANNELS=wide, num_warps=4,
    )  # fmt: skip
    return True


@triton.jit(do_not_specialize=["count", "rows", "columns"])
def _finish(
    result, bias, straight, target, means, squares, count, rows, columns, channels,
    of_frame, of_row, of_column, to_frame, to_row, to_column,
    BIAS: tl.constexpr, STRAIGHT: tl.constexpr, MEASURED: tl.constexpr,
    BLOCKS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    start = program * BLOCKS * PIXELS
    channel = tl.arange(0, CHANNELS)
    known = channel < channels
    added = tl.zeros((CHANNELS,), tl.float32)
    if BIAS:
        added = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
    if MEASURED:  # deviations are taken from the first voxel, which loses next to nothing and needs one pass
        origin = tl.load(result + start * channels + channel, mask=known, other=0.0).to(tl.float32) + added
        sums, squared = tl.zeros((PIXELS, CHANNELS), tl.float32), tl.zeros((PIXELS, CHANNELS), tl.float32)
    for number in range(BLOCKS):
        voxel = start + number * PIXELS + tl.arange(0, PIXELS)
        inside = (voxel < count)[:, None] & known[None, :]
        line, column = voxel // columns, voxel % columns
        frame, row = line // rows, line % rows
        values = tl.load(result + voxel[:, None] * channels + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        values += added[None, :]
        if STRAIGHT:
            at = (frame * of_frame + row * of_row + column * of_column)[:, None] + channel[None, :]
            values += tl.load(straight + at, mask=inside, other=0.0).to(tl.float32)
        stored = values.to(target.dtype.element_ty)
        to = (frame * to_frame + row * to_row + column * to_column)[:, None] + channel[None, :]
        tl.store(target + to, stored, mask=inside)
        if MEASURED:
            away = tl.where(inside, stored.to(tl.float32) - origin[None, :], 0.0)
            sums += away
            squared += away * away
    if MEASURED:
        here = tl.minimum(count - start, BLOCKS * PIXELS).to(tl.float32)
        total = tl.sum(sums, 0)
        tl.store(means + program * channels + channel, origin + total / here, mask=known)
        spread = tl.sum(squared, 0) - total * total / here
        tl.store(squares + program * channels + channel, tl.maximum(spread, 0.0), mask=known)


def finish(
    result: Tensor,
    bias: Tensor | None,
    straight: Tensor | None,
    target: Tensor,
    statistics: tuple[Tensor, Tensor] | None,
) -> bool:
    """``result + bias + straight`` into ``target``, and its channels' statistics.

    Args:
        result: contiguous; may be the target.
        straight: may be the target's memory.
        statistics: means and sums of squared deviations, fp32 ``[programs, C]`` to be filled, see :func:`programs`.
    """
    frames, rows, columns, channels = result.shape
    count = frames * rows * columns
    pixels, wide = block(channels)
    number, each = programs(count, channels)
    means, squares = statistics or (result, result)
    of = (0, 0, 0) if straight is None else straight.stride()[:3]
    _finish[(number,)](
        result, result if bias is None else bias, result if straight is None else straight, target, means, squares,
        count, rows, columns, channels, *of, *target.stride()[:3],
        BIAS=bias is not None, STRAIGHT=straight is not None, MEASURED=statistics is not None,
        BLOCKS=each // pixels, PIXELS=pixels, CHANNELS=wide, num_warps=4,
    )  # fmt: skip
    return True


@triton.jit(do_not_specialize=["columns", "wide_rows", "wide_columns", "above", "left"])
def _enlarge(
    source, target, columns, wide_rows, wide_columns, channels, above, left,
    of_frame, of_row, of_column, to_frame, to_row, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    row, frame = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    column = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)[:, None]
    channel = tl.arange(0, CHANNELS)[None, :]
    inside = (column < columns) & (channel < channels)
    from_row, from_column = (row + 1) // 2 - 1 + above, (column + 1) // 2 - 1 + left
    end = tl.where((from_row >= 0) & (from_row < wide_rows), wide_columns, 0)
    there = (from_column >= 0) & (from_column < end)
    at = frame * of_frame + from_row * of_row + from_column * of_column + channel
    values = tl.load(source + at, mask=inside & there, other=0.0)
    tl.store(target + frame * to_frame + row * to_row + column * channels + channel, values, mask=inside)


def enlarge(source: Tensor, target: Tensor, offset: tuple[int, int]) -> bool:
    """Nearest neighbour twice as large, with a border of one enlarged pixel, zero where ``source`` has nothing.

    Args:
        source: the tile with what there is of its halo.
        target: ``[T, 2 rows + 2, 2 columns + 2, C]`` of the tile, contiguous.
        offset: rows and columns of the halo before the tile, 0 or 1.
    """
    frames, rows, columns, channels = target.shape
    pixels, wide = block(channels)
    _enlarge[(triton.cdiv(columns, pixels), rows, frames)](
        source, target, columns, *source.shape[1:3], channels, *offset, *source.stride()[:3], *target.stride()[:2],
        PIXELS=pixels, CHANNELS=wide, num_warps=4,
    )  # fmt: skip
    return True
