"""One video's way through the network: chunk by chunk, layer by layer, tile by tile."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from functools import cached_property

import torch
from torch import Tensor

from ...tensors.failures import is_too_large
from . import fused
from . import layers as op
from .modules import ConvLayer, Layer, Norm, ResampleLayer
from .mover import Mover, Want, mover_for
from .plan import Region
from .statistics import Statistics, affine, math_dtype, measure
from .store import Plane, Store

log = logging.getLogger(__name__)

Progress = Callable[[int], None]


class Tiler:
    """The tile size in use, in latents. It shrinks when a tile does not fit, and stays small."""

    def __init__(self, size: tuple[int, int], tile: tuple[int, int]) -> None:
        self.size = size
        self.tile = (min(tile[0], size[0]), min(tile[1], size[1]))

    def regions(self) -> Iterable[Region]:
        return Region(0, self.size[0], 0, self.size[1]).split(*self.tile)

    def halve(self) -> bool:
        """Halve the longer side; False if a tile is a single latent already."""
        height, width = self.tile
        if max(height, width) == 1:
            return False
        self.tile = (height, -(-width // 2)) if width >= height else (-(-height // 2), width)
        return True


class Walker:
    """Runs chunks of one video through ``layers``, carrying the causal caches.

    Args:
        layers: the network.
        store: where planes wait; shared by the videos of a batch.
        tiler: tile sizes; shared too.
        progress: called after every tile with its area in latents; may raise to interrupt.
        mover: copies tiles; by default the one made for the store's device.
    """

    def __init__(
        self,
        layers: tuple[Layer, ...],
        store: Store,
        tiler: Tiler,
        progress: Progress = lambda area: None,
        mover: Mover | None = None,
    ) -> None:
        self.layers, self.store, self.tiler, self.progress = layers, store, tiler, progress
        self.latent_size = tiler.size
        self.device, self.dtype = store.device, store.dtype
        self._caches: dict[str, Plane] = {}
        self._mover = mover or mover_for(store.device)
        self._workspace: Tensor | None = None

    def run(self, chunk: Plane, *, latents: Tensor | None, first: bool, last: bool) -> Tensor:
        """All layers on one chunk.

        Args:
            chunk: ``[frames, rows, columns, C]``, what the first layer reads; released when it has been read.
            latents: ``[latent frames, h, w, C]`` that condition the norms, on the device; None in the encoder.
            first: this is the video's first chunk, whose first frame stands alone in time.
            last: no chunk follows, so no cache is kept.

        Returns:
            ``[frames, rows, columns, C]``, where the store put it.
        """
        plane, block_input = chunk, None
        for layer in self.layers:
            if isinstance(layer, ResampleLayer):
                result = self._resample(layer, plane, first)
            else:
                result = self._convolve(layer, plane, latents, first, last, block_input if layer.ends_block else None)
            if isinstance(layer, ConvLayer) and layer.starts_block:
                block_input = plane
            else:
                self.store.release(plane)
            if block_input is not None and isinstance(layer, ConvLayer) and layer.ends_block:
                if result.over is not block_input:
                    self.store.release(block_input)
                block_input = None
            plane = result
        return self.store.hand_over(plane)

    def close(self) -> None:
        """Drop caches and buffers."""
        self._mover.drop()
        self._workspace = None
        for plane in self._caches.values():
            self.store.release(plane)
        self._caches.clear()

    def _convolve(
        self,
        layer: ConvLayer,
        source: Plane,
        latents: Tensor | None,
        first: bool,
        last: bool,
        residual: Plane | None = None,
    ) -> Plane:
        """A causal convolution with what comes before (norm, SiLU) and after (the block's sum, statistics)."""
        channels = layer.channels
        norm = _ReadyNorm(self, layer, source, latents, first) if layer.norm else None
        old = self._caches.get(layer.name)
        new = None if last else self.store.allocate(2, source.size, channels[0], cache=True)
        target = self._target(layer, source, residual)

        def wants(tile: Region) -> list[Want]:
            core = tile.scaled(layer.grid)
            wide = core.grown(*source.size)
            planes = [Want(source, wide)] + ([Want(old, wide)] if old else [])
            planes += [Want(residual, core)] if residual else []
            return planes + (norm.wants(wide) if norm else [])

        def compute(tile: Region) -> None:
            core = tile.scaled(layer.grid)
            wide = core.grown(*source.size)
            buffer, inner = op.bordered(core, source.size, source.frames + 2, channels[0], self._empty)
            values = self._mover.read(source, wide)
            if norm:
                norm.modulation(wide).apply(values, inner[2:])
            else:
                inner[2:].copy_(values)
            inner[:2].copy_(self._mover.read(old, wide) if old else inner[2:3])
            straight = self._mover.read(residual, core) if residual else None
            if new:
                self._mover.write(new, core, buffer[-2:, 1:-1, 1:-1])
            self._finish(layer, buffer, straight, target, core)

        try:
            self._over_tiles(wants, compute)
        finally:
            if norm:
                norm.release()
        if old:
            self.store.release(old)
            del self._caches[layer.name]
        if new:
            self._caches[layer.name] = new
        return target

    def _finish(self, layer: ConvLayer, buffer: Tensor, straight: Tensor | None, target: Plane, core: Region) -> None:
        """Convolve ``buffer``, add the block's straight path, and write the result and its statistics.

        The last thing is the writing: it may overwrite the straight path, which a tile that is done again reads.
        """
        bias = fused.bias_of(layer.conv, buffer)
        result = op.convolve_3d(layer.conv, buffer, bias is None)
        statistics = Statistics() if layer.measured else None
        place = self._mover.place(target, core)
        if layer.shortcut is None and place is not None and fused.finish(result, bias, straight, place, statistics):
            if statistics:
                target.statistics.add(statistics)
            return
        if straight is not None and layer.shortcut is not None:
            for through, onto in zip(straight, result, strict=True):
                onto += op.pixelwise(layer.shortcut, through)
            straight = None
        if not fused.finish(result, bias, straight, result, statistics):
            result = op.added(result, bias, straight)
            statistics = measure(result) if layer.measured else None
        self._mover.write(target, core, result)
        if statistics:
            target.statistics.add(statistics)

    def _target(self, layer: ConvLayer, source: Plane, residual: Plane | None) -> Plane:
        """The plane to write: over the block's own input where that is wide enough, since a tile reads only its own."""
        channels = layer.channels[1]
        if residual is None or residual.data.shape[-1] < channels:
            return self.store.allocate(source.frames, source.size, channels)
        return Plane(residual.data[..., :channels], residual.place, over=residual)

    def _resample(self, layer: ResampleLayer, source: Plane, first: bool) -> Plane:
        channels = layer.channels[1]
        if layer.up:
            size = (source.size[0] * 2, source.size[1] * 2)
            frames = _frames_up(source.frames, first) if layer.time else source.frames
            target = self.store.allocate(frames, size, channels)
            self._over_tiles(*self._enlarging(layer, source, target, first))
            return target
        size = (source.size[0] // 2, source.size[1] // 2)
        frames = _frames_down(source.frames, first) if layer.time else source.frames
        target = self.store.allocate(frames, size, channels)
        self._over_tiles(*self._reducing(layer, source, target, first))
        return target

    def _enlarging(
        self, layer: ResampleLayer, source: Plane, target: Plane, first: bool
    ) -> tuple[Callable[[Region], list[Want]], Callable[[Region], None]]:
        def wants(tile: Region) -> list[Want]:
            return [Want(source, tile.scaled(layer.grid).grown(*source.size))]

        def compute(tile: Region) -> None:
            core = tile.scaled(layer.grid)
            wide, into = core.grown(*source.size), core.scaled(2)
            values = self._mover.read(source, wide)
            buffer = self._empty((source.frames, into.height + 2, into.width + 2, layer.channels[0]))
            op.enlarge(values, core, wide, buffer, target.size)
            # Frames that nearest neighbour repeats are convolved once and written twice.
            alone = source.frames if not layer.time else int(first)
            once, twice = slice(0, alone), slice(alone, None)
            repeated = slice(alone, None, 2), slice(alone + 1, None, 2)
            self._resampled(layer, buffer, target, into, [(once, (once,)), (twice, repeated)])

        return wants, compute

    def _reducing(
        self, layer: ResampleLayer, source: Plane, target: Plane, first: bool
    ) -> tuple[Callable[[Region], list[Want]], Callable[[Region], None]]:
        grid = layer.grid // 2

        def read_area(tile: Region) -> Region:
            core = tile.scaled(grid).scaled(2)
            bottom, right = min(core.bottom + 1, source.size[0]), min(core.right + 1, source.size[1])
            return Region(core.top, bottom, core.left, right)

        def wants(tile: Region) -> list[Want]:
            return [Want(source, read_area(tile))]

        def compute(tile: Region) -> None:
            core, area = tile.scaled(grid), read_area(tile)
            values = self._mover.read(source, area)
            shape = (target.frames, 2 * core.height + 1, 2 * core.width + 1, layer.channels[0])
            buffer = self._empty(shape)
            inner = buffer[:, : area.height, : area.width]
            # One row below and one column to the right of the frame are zero.
            buffer[:, area.height :].zero_()
            buffer[:, :, area.width :].zero_()
            if layer.time:
                op.pool_frames(values, first, inner)
            else:
                inner.copy_(values)
            self._resampled(layer, buffer, target, core, [(slice(None), (slice(None),))])

        return wants, compute

    def _resampled(
        self,
        layer: ResampleLayer,
        buffer: Tensor,
        target: Plane,
        area: Region,
        frames: list[tuple[slice, tuple[slice, ...]]],
    ) -> None:
        """Convolve ``buffer`` and write frames of the result, and their statistics, wherever they belong."""
        bias = fused.bias_of(layer.conv, buffer)
        result = op.convolve_2d(layer.conv, buffer, bias is None)
        whole: list[Statistics] = []
        for part, places in frames:
            values = result[part]
            if not len(values):
                continue
            statistics = Statistics()
            first = self._mover.place(target, area, places[0])
            onto = values if first is None else first
            if fused.finish(values, bias, None, onto, statistics):
                values = onto
                whole.append(statistics.weighted(len(places)))
            else:
                values = op.added(values, bias, None)
                whole.append(measure(values, len(places)))
            for place in places[0 if values is not first else 1 :]:
                self._mover.write(target, area, values, place)
        for statistics in whole:
            target.statistics.add(statistics)

    def _over_tiles(self, wants: Callable[[Region], list[Want]], compute: Callable[[Region], None]) -> None:
        """Every tile once. One that does not fit is halved, with all that are left, and done again."""
        left = deque(self.tiler.regions())
        while left:
            tile = left.popleft()
            failure = None
            try:
                compute(tile)
            except (RuntimeError, MemoryError) as error:
                if not is_too_large(error, _elements(wants(tile))):
                    raise
                failure = error.with_traceback(None)  # the traceback would keep the tile's tensors alive
            if failure is None:
                if left:
                    self._mover.ahead(wants(left[0]))
                self.progress(tile.area)
                continue
            self._recover(failure)
            left = deque(part for region in (tile, *left) for part in region.split(*self.tiler.tile))
        self._mover.flush()

    def _recover(self, failure: BaseException) -> None:
        self._mover.flush()
        self._mover.drop()
        self._workspace = None
        before = self.tiler.tile
        if not self.tiler.halve():
            raise failure
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning("tiles of %s latents are too large here; going on with %s", before, self.tiler.tile)

    def _empty(self, shape: tuple[int, ...]) -> Tensor:
        """A buffer for a convolution's input: one growing piece of memory for all tiles of all layers."""
        count = 1
        for length in shape:
            count *= length
        if self._workspace is None or self._workspace.numel() < count:
            self._workspace = None
            self._workspace = torch.empty(count, dtype=self.dtype, device=self.device)
        return self._workspace[:count].view(shape)

    def _latent_map(self, conv: object, latents: Tensor) -> Plane:
        """A 1x1x1 convolution of the latents at latent size: nearest upsampling commutes with it."""
        source = Plane(latents, "device")
        plane = self.store.allocate(latents.shape[0], self.latent_size, conv.out_channels)  # type: ignore[attr-defined]

        def compute(tile: Region) -> None:
            values = latents[:, tile.top : tile.bottom, tile.left : tile.right]
            self._mover.write(plane, tile, torch.stack([op.pixelwise(conv, frame) for frame in values]))

        self._over_tiles(lambda tile: [Want(source, tile)], compute)
        return plane


class _ReadyNorm:
    """A norm whose statistics are complete, ready to modulate any tile of its plane."""

    def __init__(self, walker: Walker, layer: ConvLayer, source: Plane, latents: Tensor | None, first: bool) -> None:
        norm = layer.norm
        assert isinstance(norm, Norm)
        self._mover, self._grid, self._first = walker._mover, layer.grid, first
        self._store, self._norm, self._source, self._dtype = walker.store, norm, source, math_dtype(walker.dtype)
        self._maps: list[Plane] = []
        if norm.scale is not None and norm.shift is not None and latents is not None:
            self._maps = [walker._latent_map(conv, latents) for conv in (norm.scale, norm.shift)]

    @cached_property
    def _affine(self) -> tuple[Tensor, Tensor]:
        return affine(self._norm.group, self._source.statistics, self._dtype)

    def wants(self, area: Region) -> list[Want]:
        return [Want(plane, area.coarse(self._grid)) for plane in self._maps]

    def modulation(self, area: Region) -> op.Modulation:
        """The modulation of the tile that covers ``area``, halo included."""
        spatial = None
        if self._maps:
            factor, offset = (self._mover.read(plane, area.coarse(self._grid)) for plane in self._maps)
            spatial = (factor, offset)
        scale, shift = op.modulate(*self._affine, spatial)
        return op.Modulation(scale, shift, area, self._grid, self._first)

    def release(self) -> None:
        for plane in self._maps:
            self._store.release(plane)


class DryWalker(Walker):
    """Goes through the same motions on a ``DryStore`` and computes nothing: what the store counts is the forecast."""

    def _over_tiles(self, wants: Callable[[Region], list[Want]], compute: Callable[[Region], None]) -> None:
        pass


def passes(layers: tuple[Layer, ...]) -> int:
    """How often a chunk goes over all tiles: once a layer, and twice more for a norm that the latents modulate."""
    modulated = sum(1 for layer in layers if isinstance(layer, ConvLayer) and layer.norm and layer.norm.scale)
    return len(layers) + 2 * modulated


def _elements(wanted: Iterable[Want]) -> int:
    """How many a tile reads."""
    return sum(plane.frames * region.area * plane.data.shape[-1] for plane, region in wanted)


def _frames_up(frames: int, first_alone: bool) -> int:
    return 2 * frames - 1 if first_alone else 2 * frames


def _frames_down(frames: int, first_alone: bool) -> int:
    return (frames + 1) // 2 if first_alone else frames // 2
