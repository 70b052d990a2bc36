"""Copies between waiting planes and the computing device, a tile at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ...tensors.failures import is_too_large
from .plan import Region
from .store import Plane

ALL_FRAMES = slice(None)
SLOTS = 4  # pinned buffers, each as large as the largest piece of a tile


class Want(NamedTuple):
    """A part of a plane that a tile is going to read."""

    plane: Plane
    region: Region


def _part(plane: Plane, region: Region, frames: slice = ALL_FRAMES) -> Tensor:
    return plane.data[frames, region.top : region.bottom, region.left : region.right]


class Mover:
    """Reads and writes at once; what lies on the computing device already is read in place, without a copy."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def ahead(self, wanted: Iterable[Want]) -> None:
        """Tell what the next tile will read, so that it can be fetched while the current one computes."""

    def read(self, plane: Plane, region: Region) -> Tensor:
        """``[frames, rows, columns, C]`` on the computing device; to be read only."""
        part = _part(plane, region)
        return part if part.device == self.device else part.contiguous().to(self.device)

    def place(self, plane: Plane, region: Region, frames: slice = ALL_FRAMES) -> Tensor | None:
        """The part of a plane itself, to write into, if it lies on the computing device."""
        part = _part(plane, region, frames)
        return part if part.device == self.device else None

    def write(self, plane: Plane, region: Region, values: Tensor, frames: slice = ALL_FRAMES) -> None:
        """Put ``values`` into a plane, which a later ``flush`` completes."""
        _part(plane, region, frames).copy_(values)

    def flush(self) -> None:
        """Wait until every write has arrived."""

    def drop(self) -> None:
        """Forget what was fetched ahead and every buffer, after a failure or at the end."""


class _Slot:
    """A pinned host buffer and the event after which it may be used again."""

    def __init__(self) -> None:
        self.buffer: Tensor | None = None
        self.event = torch.cuda.Event()

    def room(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        self.event.synchronize()
        count = shape.numel()
        if self.buffer is None or self.buffer.dtype != dtype or self.buffer.numel() < count:
            self.buffer = None
            self.buffer = torch.empty(count, dtype=dtype, pin_memory=True)
        return self.buffer[:count].view(shape)


class CudaMover(Mover):
    """The same through a small ring of pinned buffers on a copy stream, beside the computation.

    The store itself is pageable: pinning tens of GiB takes minutes and starves the system. The processor gathers a
    tile into a pinned slot, the copy stream carries it over while the previous tile still computes, and results go
    back the same way; they are scattered into their plane when their slot is needed again, at the latest in ``flush``.
    """

    SLOTS = SLOTS

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._stream = torch.cuda.Stream(device)
        self._free = deque(_Slot() for _ in range(self.SLOTS))
        self._returning: deque[tuple[_Slot, Tensor, Tensor]] = deque()
        self._fetched: dict[tuple[int, Region], tuple[Tensor, torch.cuda.Event]] = {}

    def ahead(self, wanted: Iterable[Want]) -> None:
        try:
            for plane, region in wanted:
                if plane.data.device != self.device and (id(plane), region) not in self._fetched:
                    self._fetched[id(plane), region] = self._fetch(plane, region)
        except RuntimeError as error:
            if not is_too_large(error):
                raise
            self._fetched.clear()  # the next tile fetches for itself, or is halved

    def read(self, plane: Plane, region: Region) -> Tensor:
        if plane.data.device == self.device:
            return _part(plane, region)
        key = (id(plane), region)
        values, event = self._fetched.pop(key) if key in self._fetched else self._fetch(plane, region)
        current = torch.cuda.current_stream(self.device)
        current.wait_event(event)
        values.record_stream(current)
        return values

    def _fetch(self, plane: Plane, region: Region) -> tuple[Tensor, torch.cuda.Event]:
        part = _part(plane, region)
        slot = self._slot()
        host = slot.room(part.shape, part.dtype)
        host.copy_(part)
        with torch.cuda.stream(self._stream):
            values = host.to(self.device, non_blocking=True)
            slot.event.record(self._stream)
            ready = torch.cuda.Event()
            ready.record(self._stream)
        self._free.append(slot)
        return values, ready

    def write(self, plane: Plane, region: Region, values: Tensor, frames: slice = ALL_FRAMES) -> None:
        target = _part(plane, region, frames)
        if target.device == self.device:
            target.copy_(values)
            return
        values = values.contiguous()
        slot = self._slot()
        host = slot.room(values.shape, values.dtype)
        computed = torch.cuda.Event()
        computed.record(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(computed)
            host.copy_(values, non_blocking=True)
            values.record_stream(self._stream)
            slot.event.record(self._stream)
        self._returning.append((slot, host, target))

    def _slot(self) -> _Slot:
        # Slots in flight to the device come back by themselves (their event); those returning hold results.
        if not self._free or len(self._returning) >= self.SLOTS - 1:
            self._land()
        return self._free.popleft()

    def _land(self) -> None:
        slot, host, target = self._returning.popleft()
        slot.event.synchronize()
        target.copy_(host)
        self._free.append(slot)

    def flush(self) -> None:
        while self._returning:
            self._land()

    def drop(self) -> None:
        torch.cuda.synchronize(self.device)
        self._fetched.clear()
        self._returning.clear()
        self._free = deque(_Slot() for _ in range(self.SLOTS))


def mover_for(device: torch.device) -> Mover:
    """The mover for a device."""
    return CudaMover(device) if device.type == "cuda" else Mover(device)
