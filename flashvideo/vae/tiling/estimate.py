"""What a decode or an encode takes, before it starts, and the tiles that fit a budget.

Two numbers make the forecast. The *store*, waiting activations and causal caches, is found by going through the motions
of a run with shapes only. The *working set* of a tile, on the computing device, is the sum below; for one layer with C
channels in and K out, a tile of a by b pixels, T frames and e bytes per number:

    input with halo and two leading frames    (T + 2) (a + 2) (b + 2) C e      one buffer, as large as any layer needs
    output                                     T a b K e
    residual block's straight path             a b (C' + K) e                   a frame, if a convolution is in it
    the latents' scale and shift               4 numbers of fp32 per latent and channel, 2 per pixel of one latent row
    tiles on their way from and to the host    2 x what is read, 2 a b C e of cache       if the store is elsewhere
    the convolution's own scratch memory       a quarter of its input           on a GPU
    copies of a small input, and their output  3 (3 (a + 2) (b + 2) C + a b K) e    of 3 frames and 16 rows, on a CPU
    a piece of a large input, and its output   at most 2 x 2^30 e                   where a convolution is cut

The line of the convolution's scratch memory is an allowance: what cuDNN takes depends on the algorithm it picks. (On an
H200, in bf16 and channels-last, it took none.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ...tensors.sizes import TEMPORAL_FACTOR, video_frames
from ..limits import Size
from .layers import SLICE_ELSEWHERE, SLICE_ON_CPU, WINDOW_ROWS, Pieces, goes_in_windows
from .modules import ConvLayer, Layer, Module, ResampleLayer
from .mover import SLOTS, Mover
from .store import LENT, DryStore, Plane, Room
from .walker import DryWalker, Tiler

_CACHE_SHARES = (0.0, 0.1, 0.2, 0.4, 0.6, 1.0)
_SMALLER_TILES = 4


@dataclass(frozen=True)
class Job:
    """A run to forecast.

    Attributes:
        layers: the network.
        chunks: frames that its first layer reads, chunk by chunk.
        size: rows and columns of the latents.
        batch: videos.
        device: where it is computed.
        dtype: of weights and activations.
        encode: frames in and latents out.
    """

    layers: tuple[Layer, ...]
    chunks: tuple[int, ...]
    size: Size
    batch: int
    device: torch.device
    dtype: torch.dtype
    encode: bool

    @property
    def grid(self) -> int:
        """Pixels per latent, along each side."""
        return self.layers[0 if self.encode else -1].grid


@dataclass(frozen=True)
class Estimate:
    """Bytes a run takes beside the weights and the video itself.

    Attributes:
        tile: rows and columns of a tile, in latents.
        working_bytes: the largest tile's working set on the computing device.
        device_bytes: working set and what waits on the device (on a CPU: the working set).
        host_bytes: what waits in host memory, pinned buffers included.
        file_bytes: what waits in a scratch file.
        room: where waiting tensors go.
    """

    tile: Size
    working_bytes: int
    device_bytes: int
    host_bytes: int
    file_bytes: int
    room: Room


def working_bytes(job: Job, tile: Size, *, copies: bool = True) -> int:
    """Bytes of the largest tile's working set on the computing device (the sum in the module's docstring).

    Args:
        copies: some of what the run reads waits elsewhere than on the device.
    """
    elsewhere = job.device.type != "cpu"
    buffers, others = [0], [0]
    for index, chunk in enumerate(job.chunks[:2]):
        frames = chunk
        for layer in job.layers:
            rows, columns = (min(tile[axis], job.size[axis]) * layer.grid for axis in (0, 1))
            if isinstance(layer, ConvLayer):
                buffer, rest, copied = _convolution_bytes(layer, frames, chunk, rows, columns, job.dtype.itemsize)
                if goes_in_windows(job.device, frames + 2, rows + 2, layer.channels[0]):
                    channels, out = layer.channels
                    band = min(rows, WINDOW_ROWS)
                    each = 3 * (band + 2) * (columns + 2) * channels + band * columns * out
                    rest += min(3, frames) * each * job.dtype.itemsize
            else:
                after = _resampled(frames, layer, index == 0)
                buffer, rest, copied = _resampling_bytes(layer, frames, after, rows, columns, job.dtype.itemsize)
                frames = after
            buffers.append(buffer)
            scratch = buffer // 4 if job.device.type == "cuda" else 0
            others.append(rest + (copied if elsewhere and copies else 0) + scratch)
    slices = 3 * max(4, job.dtype.itemsize) * (SLICE_ELSEWHERE if elsewhere else SLICE_ON_CPU)
    return max(buffers) + max(others) + slices


def _convolution_bytes(
    layer: ConvLayer, frames: int, latent_frames: int, rows: int, columns: int, item: int
) -> tuple[int, int, int]:
    """A causal convolution's input buffer, what else it holds, and what is copied from and to the host."""
    channels, out = layer.channels
    core, halo = rows * columns, (rows + 2) * (columns + 2)
    rest = (frames * core * out + _piece(layer.conv, (frames + 2, rows + 2, columns + 2, channels))) * item
    if layer.shortcut is not None:
        straight = layer.shortcut.in_channels
        rest += (core * (straight + out) + _piece(layer.shortcut, (1, rows, columns, straight))) * item
    if layer.norm and layer.norm.scale:
        down, across = (-(-side // layer.grid) + 2 for side in (rows, columns))
        rest += (4 * latent_frames * across + 2 * (columns + 2)) * down * channels * max(4, item)
    read = (frames + 2) * halo * channels + (frames * core * out if layer.ends_block else 0)
    return (frames + 2) * halo * channels * item, rest, 2 * (read + core * channels) * item


def _resampling_bytes(
    layer: ResampleLayer, frames: int, after: int, rows: int, columns: int, item: int
) -> tuple[int, int, int]:
    """The same for a resampling; a tile of ``rows`` by ``columns`` is read, ``after`` frames come out."""
    channels, out = layer.channels
    copied = 2 * frames * (rows + 2) * (columns + 2) * channels * item
    shape = _resampling_shape(layer, frames, after, rows, columns)
    written = (frames * 4 * rows * columns if layer.up else after * rows * columns // 4) * out
    return math.prod(shape) * item, (written + _piece(layer.conv, shape)) * item, copied


def _resampling_shape(
    layer: ResampleLayer, frames: int, after: int, rows: int, columns: int
) -> tuple[int, int, int, int]:
    """What its convolution reads."""
    channels = layer.channels[0]
    if layer.up:
        return frames, 2 * rows + 2, 2 * columns + 2, channels
    return after, rows + 1, columns + 1, channels


def _piece(conv: Module, shape: tuple[int, int, int, int]) -> int:
    """Elements that a convolution of ``[T, h, w, C]`` holds beside its input and its result, if it is cut."""
    return Pieces.of(conv, shape).extra_elements(*shape[2:])


def _largest_piece(job: Job, tile: Size) -> int:
    """Bytes of the largest tile of any plane, with its halo: what one pinned buffer holds."""
    longest = max(video_frames(job.chunks[0]), TEMPORAL_FACTOR * max(job.chunks[1:], default=0))
    frames = max(job.chunks) if job.encode else longest
    sides = ((layer.grid * min(tile[0], job.size[0]), layer.grid * min(tile[1], job.size[1])) for layer in job.layers)
    areas = (
        (rows + 2) * (columns + 2) * max(layer.channels)
        for (rows, columns), layer in zip(sides, job.layers, strict=True)
    )
    return frames * max(areas) * job.dtype.itemsize


def _resampled(frames: int, layer: ResampleLayer, first_alone: bool) -> int:
    if not layer.time:
        return frames
    return 2 * frames - first_alone if layer.up else (frames + first_alone) // 2


def dry_run(job: Job, room: Room) -> DryStore:
    """The store after a run with shapes only: what waited in each place, and what was moved."""
    store = DryStore(job.device, job.dtype, room)
    tiler = Tiler(job.size, job.size)
    mover = Mover(torch.device("meta"))
    walkers = [DryWalker(job.layers, store, tiler, mover=mover) for _ in range(job.batch)]
    pixels = (job.size[0] * job.layers[0].grid, job.size[1] * job.layers[0].grid)
    channels = job.layers[0].channels[0]
    for index, frames in enumerate(job.chunks):
        for walker in walkers:
            if job.encode:
                source = store.allocate(frames, pixels, channels)
                latents = None
            else:
                latents = torch.empty((frames, *job.size, channels), dtype=job.dtype, device="meta")
                source = Plane(latents, LENT)
            walker.run(source, latents=latents, first=index == 0, last=index == len(job.chunks) - 1)
    return store


def forecast(job: Job, tile: Size, room: Room) -> Estimate:
    """The estimate for given tiles and places."""
    stored = dry_run(job, room).peak
    copies = stored["host"] + stored["file"] > 0
    working = working_bytes(job, tile, copies=copies)
    ring = SLOTS * _largest_piece(job, tile) if copies and job.device.type == "cuda" else 0
    return Estimate(tile, working, working + stored["device"], stored["host"] + ring, stored["file"], room)


def choose(job: Job, tile: Size | bool | None, device_budget: int, room: Room) -> Estimate:
    """Tiles and places for a run.

    Args:
        job: the run.
        tile: a size to keep to, False for one tile, None to find the largest that fits.
        device_budget: bytes of the computing device that the run may take beside the weights.
        room: the host's share and the scratch folder; the device's share is decided here.

    Returns:
        The forecast. With ``tile=None`` it fits ``device_budget``, unless a tile of one latent does not.
    """
    on_cpu = job.device.type == "cpu"
    if not on_cpu and tile in (None, False):
        roomy = replace(room, device=1 << 62, cache_share=1.0)
        everything = forecast(job, job.size if tile is False else uncut_tile(job), roomy)
        if everything.device_bytes <= device_budget:
            return everything
    if tile is None:
        # Of the budget a quarter at most: pinned buffers on the host are as large as its pieces.
        size = largest_tile(job, device_budget if on_cpu else device_budget // 4)
        size = size or largest_tile(job, device_budget) or (1, 1)
    else:
        size = job.size if isinstance(tile, bool) else (min(tile[0], job.size[0]), min(tile[1], job.size[1]))
    if on_cpu:
        return forecast(job, size, replace(room, device=0))
    return _least_moved(job, size, tile is not None, device_budget, room)


def _least_moved(job: Job, size: Size, fixed: bool, device_budget: int, room: Room) -> Estimate:
    """The tile and the share of caches with which the least is copied between device and host.

    A smaller tile leaves more of the device to what waits; the more of it is caches, the less is planes.

    Args:
        size: the largest tile, or the only one if it is ``fixed``.
    """
    tiler, best = Tiler(job.size, size), None
    for _ in range(1 if fixed else _SMALLER_TILES):
        rows, columns = tiler.tile
        left = max(0, device_budget - working_bytes(job, tiler.tile))
        halo = (1 + 2 / rows) * (1 + 2 / columns)
        for share in _CACHE_SHARES:
            places = replace(room, device=left, cache_share=share)
            moved = dry_run(job, places).moved * halo
            if best is None or moved < best[0]:
                best = moved, tiler.tile, places
        if not tiler.halve():
            break
    assert best is not None
    return forecast(job, best[1], best[2])


def largest_tile(job: Job, budget: int) -> Size | None:
    """The largest tile, by halving the frame's longer side, whose working set fits ``budget``; None if none does."""
    tiler = Tiler(job.size, job.size if job.device.type == "cpu" else uncut_tile(job))
    while working_bytes(job, tiler.tile) > budget:
        if not tiler.halve():
            return None
    return tiler.tile


def uncut_tile(job: Job) -> Size:
    """The tallest tile of whole rows that no convolution is cut in, which would take copies of its input and result.

    Where planes wait on the device, a larger tile gains nothing.
    """
    low, high = 0, job.size[0]
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _is_uncut(job, middle) else (low, middle - 1)
    bands = -(-job.size[0] // max(1, low))
    return -(-job.size[0] // bands), job.size[1]


def _is_uncut(job: Job, tall: int) -> bool:
    for index, chunk in enumerate(job.chunks[:2]):
        frames = chunk
        for layer in job.layers:
            rows, columns = tall * layer.grid, job.size[1] * layer.grid
            shape: tuple[int, ...] = (frames + 2, rows + 2, columns + 2, layer.channels[0])
            if isinstance(layer, ResampleLayer):
                after = _resampled(frames, layer, index == 0)
                shape = _resampling_shape(layer, frames, after, rows, columns)
                frames = after
            if not Pieces.of(layer.conv, shape).whole:
                return False
    return True


def stretch(chunks: Sequence[int], limit: int = 4) -> tuple[int, ...]:
    """The chunks that matter for a forecast: memory does not grow after the first few of a long video."""
    return tuple(chunks) if len(chunks) <= limit else (*chunks[: limit - 1], chunks[-1])
