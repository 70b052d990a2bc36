"""Counting live bytes, so that what tiling saves can be seen where there is no GPU to ask."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from .store import Store


class LiveBytes(TorchDispatchMode):
    """Bytes of tensors made while the mode is on, until they are freed; scratch memory inside kernels is unseen.

    Attributes:
        live: bytes now, what a `Store` allocated apart from the rest.
        peak: the most so far, of the rest (`computing`) and of the store (`stored`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = {"computing": 0, "stored": 0}
        self.peak = dict(self.live)
        self._known: dict[int, weakref.ref[Any]] = {}
        self._kind = "computing"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor) and value.device.type != "meta":
                self._see(value.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, kind, size = storage._cdata, self._kind, storage.nbytes()
        if key in self._known:
            return

        def gone(_: object) -> None:
            self._known.pop(key, None)
            self.live[kind] -= size

        self._known[key] = weakref.ref(storage, gone)
        self.live[kind] += size
        self.peak[kind] = max(self.peak[kind], self.live[kind])

    def ignore(self, *tensors: Tensor) -> None:
        """Do not count these, which were there before."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._known[storage._cdata] = weakref.ref(storage)

    @contextmanager
    def storing(self) -> Iterator[None]:
        """What comes into being meanwhile belongs to the store."""
        before, self._kind = self._kind, "stored"
        try:
            yield
        finally:
            self._kind = before


@contextmanager
def live_bytes(*present: Tensor) -> Iterator[LiveBytes]:
    """Count everything allocated in the block, stores apart; `present` tensors do not count."""
    mode = LiveBytes()
    mode.ignore(*present)
    allocate = Store._new

    def marked(self: Store, place: str, shape: tuple[int, ...]) -> Tensor:
        with mode.storing():
            return allocate(self, place, shape)

    Store._new = marked  # type: ignore[method-assign]
    try:
        with mode:
            yield mode
    finally:
        Store._new = allocate  # type: ignore[method-assign]
