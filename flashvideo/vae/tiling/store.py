"""Where activations and causal caches wait: on the device while there is room, else in host memory, else in a file."""

from __future__ import annotations

import logging
import math
import mmap
import os
import tempfile
from dataclasses import dataclass, field
from typing import BinaryIO

import torch
from torch import Tensor

from ...tensors.failures import is_too_large
from .statistics import Statistics

log = logging.getLogger(__name__)

_ZEROS = 1 << 20
LENT = "lent"  # the place of a plane whose memory belongs to the caller


@dataclass(frozen=True)
class Room:
    """Bytes that waiting tensors may take: on the device, then on the host, then in a scratch file without limit.

    On a CPU the device is the host, so ``device`` is 0. Of the device, caches get ``cache_share`` at most.
    """

    device: int = 0
    host: int = 1 << 62
    cache_share: float = 0.4
    scratch: str | os.PathLike[str] | None = None


@dataclass
class Plane:
    """One layer's whole output, ``data`` ``[frames, rows, columns, C]``, and its statistics once a norm will need them.

    A plane that is written over another one's memory names that one in ``over``.
    """

    data: Tensor
    place: str
    statistics: Statistics = field(default_factory=Statistics)
    over: Plane | None = None
    cache: bool = False

    @property
    def frames(self) -> int:
        return self.data.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        return self.data.shape[1], self.data.shape[2]

    @property
    def bytes(self) -> int:
        return storage_bytes(self.data)


def storage_bytes(tensor: Tensor) -> int:
    """Bytes of the memory behind ``tensor``, which a narrowed view keeps whole."""
    return tensor.untyped_storage().nbytes()


class Store:
    """Allocates planes within its :class:`Room` and counts them. ``close`` frees everything, files included.

    Attributes:
        used: bytes by place (``device``, ``host``, ``file``) now.
        peak: the most of each so far.
        moved: bytes put elsewhere than on the device, and read again from there.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, room: Room) -> None:
        self.device, self.dtype, self.room, self.host = device, dtype, room, torch.device("cpu")
        self.used = {"device": 0, "host": 0, "file": 0}
        self.peak = dict(self.used)
        self.moved = 0
        self._spare: list[Tensor] = []
        self._spilled = False
        self._device_is_full = False
        self._cached = 0  # bytes of caches on the device

    def allocate(self, frames: int, size: tuple[int, int], channels: int, cache: bool = False) -> Plane:
        """A plane with undefined contents, ``[frames, *size, channels]``, in the first place with room for it."""
        shape = (frames, *size, channels)
        needed = math.prod(shape) * self.dtype.itemsize
        if self._fits_device(needed, cache):
            try:
                plane = Plane(self._new("device", shape), "device", cache=cache)
            except (RuntimeError, MemoryError) as error:
                if not is_too_large(error):
                    raise
                log.warning("no room for %.2f GiB on %s; activations wait in host memory", needed / 2**30, self.device)
                self._device_is_full = True
            else:
                self._cached += needed if cache else 0
                return self._counted(plane)
        fitting = [index for index, spare in enumerate(self._spare) if storage_bytes(spare) == needed]
        if fitting:
            return self._counted(Plane(self._spare.pop(fitting[0]).view(shape), "host"))
        self._spare.clear()
        place = "file" if self.used["host"] + needed > self.room.host else "host"
        return self._counted(Plane(self._new(place, shape), place))

    def _fits_device(self, needed: int, cache: bool) -> bool:
        if self.device.type == self.host.type or self._device_is_full:
            return False
        if cache and self._cached + needed > self.room.device * self.room.cache_share:
            return False
        return self.used["device"] + needed <= self.room.device

    def _new(self, place: str, shape: tuple[int, ...]) -> Tensor:
        if place == "file":
            return self._in_file(shape)
        return torch.empty(shape, dtype=self.dtype, device=self.device if place == "device" else self.host)

    def _in_file(self, shape: tuple[int, ...]) -> Tensor:
        folder = self.room.scratch or tempfile.gettempdir()
        if not self._spilled:
            log.info("host memory limit reached; activations wait in a scratch file in %s", folder)
            self._spilled = True
        size = math.prod(shape) * self.dtype.itemsize
        try:
            with tempfile.TemporaryFile(prefix="flashvideo-", dir=folder) as file:  # goes with the mapping
                _reserve(file, size)
                mapped = mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise OSError(
                error.errno or 0,
                f"a scratch file of {size / 2**30:.2f} GiB cannot be made in {folder}: {error.strerror or error}. Make "
                "room there, raise limits on files, or set TMPDIR to a folder with more room",
            ) from error
        return torch.frombuffer(mapped, dtype=self.dtype).view(shape)

    def release(self, plane: Plane) -> None:
        """Free a plane. Host memory is kept for the next plane of the same size, if that comes at once."""
        if plane.place == LENT:
            return
        self.used[plane.place] -= plane.bytes
        if plane.cache:
            self._cached -= plane.bytes
        data = plane.data
        plane.data = data.new_empty(0)
        if plane.place == "host" and data.device.type != "meta" and data.is_contiguous():
            flat = data.view(-1)
            if storage_bytes(data) == flat.numel() * flat.element_size():
                self._spare = [flat]

    def hand_over(self, plane: Plane) -> Tensor:
        """A plane's values, from now on the caller's."""
        if plane.place != LENT:
            self.used[plane.place] -= plane.bytes
        return plane.data

    def _counted(self, plane: Plane) -> Plane:
        self.used[plane.place] += plane.bytes
        self.moved += 0 if plane.place == "device" else 2 * plane.bytes
        self.peak[plane.place] = max(self.peak[plane.place], self.used[plane.place])
        return plane

    def close(self) -> None:
        """Forget spare memory; planes that are still referenced, and their files, live until they are dropped."""
        self._spare.clear()
        self.used = dict.fromkeys(self.used, 0)


def _reserve(file: BinaryIO, size: int) -> None:
    """Give a file its room at once: a process that writes to a mapped file on a full disk is ended by the system."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    elif os.name == "nt":  # room comes with the size
        file.truncate(size)
    else:
        for start in range(0, size, _ZEROS):
            file.write(bytes(min(_ZEROS, size - start)))
        file.flush()


class DryStore(Store):
    """Counts like a store and allocates nothing: its planes have shapes only."""

    def _new(self, place: str, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device="meta")
