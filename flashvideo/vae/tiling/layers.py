"""The arithmetic of one tile. Tensors are ``[frames, rows, columns, C]``, contiguous: convolutions run channels-last.

Convolutions are those of :mod:`.modules`, which pad nothing: halos and borders are in their input already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import fused
from .modules import Module
from .plan import Region, latent_frame_of
from .statistics import math_dtype

# Elements normalised in one go: on a CPU what stays in its cache, elsewhere enough to keep it busy.
SLICE_ON_CPU = 1 << 17
SLICE_ELSEWHERE = 1 << 24
# Elements of what one convolution reads or writes: kernels index with 32 bits, some of them bytes of half precision.
CONVOLUTION_LIMIT = 1 << 30
# On CPUs, torch gives a 3D convolution to oneDNN if its batch is more than one or channels x frames x rows are more
# than this, and to a kernel three times as slow otherwise. So small inputs get a batch.
_SMALL_ON_CPU = 20480
WINDOW_ROWS = 16  # of the result, at a time


def convolve_3d(conv: Module, values: Tensor, bias: bool = True) -> Tensor:
    """A causal convolution of ``[T + k - 1, h + k - 1, w + k - 1, C]``, halo and frames in front included.

    ``bias=False`` leaves the bias out, of a convolution of torch that has its weights in place.
    """
    kernel, call = conv.kernel_size[0], _called(conv, bias)
    if goes_in_windows(values.device, values.shape[0], values.shape[1], values.shape[3], kernel):
        return _convolve_windows(conv, call, values, kernel)
    # The batch axis goes in front of contiguous frames: only then its stride is that of channels-last.
    return _convolve_pieces(conv, values, lambda part: call(part[None].permute(0, 4, 1, 2, 3))[0].permute(1, 2, 3, 0))


def convolve_2d(conv: Module, values: Tensor, bias: bool = True) -> Tensor:
    """A convolution frame by frame of ``values`` ``[T, h, w, C]``, borders included; ``bias`` as above."""
    call = _called(conv, bias)
    return _convolve_pieces(conv, values, lambda part: call(part.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def _called(conv: Module, bias: bool) -> Callable[[Tensor], Tensor]:
    if bias:
        return conv
    convolve: Any = F.conv3d if len(conv.kernel_size) == 3 else F.conv2d
    return lambda values: convolve(values, conv.weight, None, conv.stride)


@dataclass(frozen=True)
class Pieces:
    """How a convolution is cut so that no call reads or writes more than ``CONVOLUTION_LIMIT`` elements.

    Frames are cut first, which takes no copies, then rows. Attributes are those of the result.

    Attributes:
        shape: frames, rows, columns and channels.
        frames: frames of a piece.
        rows: rows of a piece.
        reads: frames and rows that a piece reads.
    """

    shape: tuple[int, int, int, int]
    frames: int
    rows: int
    reads: tuple[int, int]

    @classmethod
    def of(cls, conv: Module, shape: tuple[int, ...]) -> Pieces:
        """The largest pieces for an input of ``shape`` ``[T, h, w, C]``, borders included."""
        (*time, tall, wide), stride, channels = conv.kernel_size, conv.stride[-1], conv.out_channels
        before = time[0] - 1 if time else 0
        frames, rows = shape[0] - before, (shape[1] - tall) // stride + 1
        columns = (shape[2] - wide) // stride + 1
        read_line, written_line = shape[2] * shape[3], columns * channels
        count = min(
            frames,
            CONVOLUTION_LIMIT // (shape[1] * read_line) - before,
            CONVOLUTION_LIMIT // (rows * written_line),
        )
        lines = rows
        if count < 1:
            count = 1
            readable = (CONVOLUTION_LIMIT // ((before + 1) * read_line) - tall) // stride + 1
            lines = max(1, min(rows, readable, CONVOLUTION_LIMIT // written_line))
        reads = (count + before, (lines - 1) * stride + tall)
        return cls((frames, rows, columns, channels), count, lines, reads)

    @property
    def whole(self) -> bool:
        """Whether one piece is all."""
        return (self.frames, self.rows) == self.shape[:2]

    def extra_elements(self, columns: int, channels: int) -> int:
        """Elements that a piece of an input of ``columns`` and ``channels`` holds beside the input and the result."""
        if self.whole:
            return 0
        copied = 0 if self.rows == self.shape[1] else self.reads[0] * self.reads[1] * columns * channels
        return copied + self.frames * self.rows * self.shape[2] * self.shape[3]


def _convolve_pieces(conv: Module, values: Tensor, convolve: Callable[[Tensor], Tensor]) -> Tensor:
    """``convolve(values)``, called on as many pieces of ``values`` as it takes."""
    pieces = Pieces.of(conv, values.shape)
    if pieces.whole:
        return convolve(values).contiguous()
    result = values.new_empty(pieces.shape)
    before, stride = pieces.reads[0] - pieces.frames, conv.stride[-1]
    for start in range(0, pieces.shape[0], pieces.frames):
        for top in range(0, pieces.shape[1], pieces.rows):
            target = result[start : start + pieces.frames, top : top + pieces.rows]
            first = top * stride
            part = values[start : start + len(target) + before, first : first + pieces.reads[1]]
            target.copy_(convolve(part.contiguous()))
    return result


def added(result: Tensor, bias: Tensor | None, straight: Tensor | None) -> Tensor:
    """``result``, which is overwritten, plus a bias ``[C]`` and a residual block's straight path."""
    for other in (bias, straight):
        if other is not None:
            result += other
    return result


def goes_in_windows(device: torch.device, frames: int, rows: int, channels: int, kernel: int = 3) -> bool:
    """Whether a 3D convolution of so small an input is given to oneDNN as a batch, which takes copies of it.

    Args:
        frames, rows: of the input, with what is around the tile.
    """
    return device.type == "cpu" and frames > kernel and channels * frames * rows <= _SMALL_ON_CPU


def _convolve_windows(conv: Module, call: Callable[[Tensor], Tensor], values: Tensor, kernel: int) -> Tensor:
    """:func:`convolve_3d`, two or three frames at a time: a batch of copies of the frames that each comes from."""
    frames, rows, columns = (size - kernel + 1 for size in values.shape[:3])
    result = values.new_empty((frames, rows, columns, conv.out_channels))
    starts = range(0, frames - 1, 2)
    for start in starts:
        end = frames if start == starts[-1] else start + 2
        for top in range(0, rows, WINDOW_ROWS):
            band = values[start : end + kernel - 1, top : min(top + WINDOW_ROWS, rows) + kernel - 1]
            windows = band.unfold(0, kernel, 1).permute(0, 4, 1, 2, 3).contiguous().permute(0, 4, 1, 2, 3)
            result[start:end, top : top + WINDOW_ROWS] = call(windows)[:, :, 0].permute(0, 2, 3, 1)
    return result


def pixelwise(conv: Module, values: Tensor) -> Tensor:
    """A 1x1x1 convolution of one frame ``[h, w, C]``, maybe strided."""
    if values.device.type != "cpu":
        return convolve_3d(conv, values[None])[0]
    rows = values[:, None, None].permute(0, 4, 1, 2, 3)  # one by one, see _SMALL_ON_CPU
    count = max(1, CONVOLUTION_LIMIT // (values.shape[1] * max(values.shape[2], conv.out_channels)))
    parts = [conv(part)[:, :, 0, 0].permute(0, 2, 1) for part in rows.split(count)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True)
class Modulation:
    """What a norm does to one tile before SiLU: ``x * scale + shift``.

    ``scale`` and ``shift`` are ``[C]``, or ``[latent frames, latent rows, latent columns, C]`` for the latents that
    ``area``, the tile's pixels, touches; ``grid`` is the number of pixels per latent.
    """

    scale: Tensor
    shift: Tensor
    area: Region
    grid: int
    first_alone: bool

    def apply(self, source: Tensor, target: Tensor) -> None:
        """Write ``silu(source * scale + shift)`` into ``target``; both ``[frames, rows, columns, C]``."""
        offset = self.area.top % self.grid, self.area.left % self.grid
        if fused.modulate(source, target, self.scale, self.shift, offset, self.grid, self.first_alone):
            return
        if self.scale.dim() == 1:
            rows = max(1, _slice_limit(source) // source[0, 0].numel())
            for frame in range(source.shape[0]):
                for start in range(0, source.shape[1], rows):
                    lines = slice(start, start + rows)
                    _scale_shift_silu(source[frame, lines], self.scale, self.shift, target[frame, lines])
            return
        latents = self.area.coarse(self.grid)
        columns = torch.arange(self.area.left, self.area.right, device=source.device) // self.grid - latents.left
        frames, latent_frames = source.shape[0], self.scale.shape[0]
        owner = [latent_frame_of(t, frames, latent_frames, self.first_alone) for t in range(frames)]
        groups = list(self._row_groups(latents, max(1, _slice_limit(source) // source[0, 0].numel())))
        for latent_frame in dict.fromkeys(owner):
            scale = self.scale[latent_frame].index_select(1, columns)
            shift = self.shift[latent_frame].index_select(1, columns)
            for frame in (t for t in range(frames) if owner[t] == latent_frame):
                for pixels, tall, owners in groups:
                    _scale_shift_silu(
                        source[frame, pixels].unflatten(0, (-1, tall)),
                        scale[owners].unsqueeze(1),
                        shift[owners].unsqueeze(1),
                        target[frame, pixels].unflatten(0, (-1, tall)),
                    )

    def _row_groups(self, latents: Region, limit: int) -> Iterator[tuple[slice, int, slice]]:
        """Pixel rows of the tile, rows per latent among them, and those latents' rows; whole latents go together."""
        top, bottom, grid = self.area.top, self.area.bottom, self.grid
        row = top
        while row < bottom:
            latent = row // grid
            if row % grid or bottom - row < grid:
                end = min((latent + 1) * grid, bottom)
                count, tall = 1, end - row
            else:
                count = max(1, min(limit, bottom - row) // grid)
                end, tall = row + count * grid, grid
            first = latent - latents.top
            yield slice(row - top, end - top), tall, slice(first, first + count)
            row = end


def _slice_limit(values: Tensor) -> int:
    return SLICE_ON_CPU if values.device.type == "cpu" else SLICE_ELSEWHERE


def _scale_shift_silu(values: Tensor, scale: Tensor, shift: Tensor, target: Tensor) -> None:
    if values.dtype == scale.dtype:
        F.silu(torch.addcmul(shift, values, scale, out=target), inplace=True)
    else:
        target.copy_(F.silu(torch.addcmul(shift, values.to(scale.dtype), scale), inplace=True))


def modulate(scale: Tensor, shift: Tensor, spatial: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Fold the latents' own ``(scale, shift)`` maps into a norm's: ``(x a + b) Y + B = x (a Y) + (b Y + B)``."""
    if spatial is None:
        return scale, shift
    factor, offset = (part.to(math_dtype(part.dtype)) for part in spatial)
    return factor * scale, torch.addcmul(offset, factor, shift)


def bordered(
    area: Region, size: tuple[int, int], frames: int, channels: int, empty: Callable[[tuple[int, ...]], Tensor]
) -> tuple[Tensor, Tensor]:
    """A buffer for a tile with a border of one pixel all around, and its part that lies inside the plane.

    Args:
        area: the tile's core.
        size: rows and columns of the whole plane; what lies outside is zero.
        frames: frames of the buffer.
        channels: channels of the buffer.
        empty: allocates.
    """
    buffer = empty((frames, area.height + 2, area.width + 2, channels))
    zero_outside(buffer, area, size)
    wide = area.grown(*size)
    down, right = wide.top - area.top + 1, wide.left - area.left + 1
    return buffer, buffer[:, down : down + wide.height, right : right + wide.width]


def zero_outside(buffer: Tensor, area: Region, size: tuple[int, int]) -> None:
    """Zero the one-pixel border of ``buffer`` wherever the border of ``area`` lies outside a plane of ``size``."""
    for outside, line in (
        (area.top == 0, buffer[:, :1]),
        (area.bottom == size[0], buffer[:, -1:]),
        (area.left == 0, buffer[:, :, :1]),
        (area.right == size[1], buffer[:, :, -1:]),
    ):
        if outside:
            line.zero_()


def enlarge(source: Tensor, core: Region, wide: Region, buffer: Tensor, size: tuple[int, int]) -> None:
    """Nearest neighbour, twice as many rows and columns, of ``core`` and one enlarged pixel around it.

    What lies outside the plane is zero.

    Args:
        source: ``[T, rows, columns, C]`` of ``wide``, which is ``core`` with its halo of one where there is one.
        core: the tile.
        wide: what ``source`` covers.
        buffer: ``[T, 2 core.height + 2, 2 core.width + 2, C]``.
        size: rows and columns of the enlarged plane.
    """
    if fused.enlarge(source, buffer, (core.top - wide.top, core.left - wide.left)):
        return
    zero_outside(buffer, core.scaled(2), size)
    for odd_row in (0, 1):
        rows, from_rows = _enlarged_span(odd_row, core.top, core.height, wide.top, wide.height)
        for odd_column in (0, 1):
            columns, from_columns = _enlarged_span(odd_column, core.left, core.width, wide.left, wide.width)
            buffer[:, rows, columns].copy_(source[:, from_rows, from_columns])


def _enlarged_span(odd: int, start: int, count: int, wide_start: int, wide_count: int) -> tuple[slice, slice]:
    # Line j of the buffer shows line (j + 1) // 2 of the source, counted from one before the core.
    skip = 1 - (start - wide_start)
    low, high = max(odd, skip), min(odd + count + 1, skip + wide_count)
    return slice(2 * low - odd, 2 * high - odd, 2), slice(low - skip, high - skip)


def pool_frames(source: Tensor, first_alone: bool, target: Tensor) -> None:
    """Average pairs of frames of ``source`` into ``target``; the first frame is kept as it is if it stands alone."""
    if first_alone:
        target[:1].copy_(source[:1])
        source, target = source[1:], target[1:]
    if len(source):
        torch.add(source[0::2], source[1::2], out=target).mul_(0.5)
