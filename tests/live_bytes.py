"""Counting the bytes of live tensors, so that what is saved can be seen where there is no GPU to ask."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from flashvideo.vae.tiling.store import Store


class LiveBytes(TorchDispatchMode):
    """Bytes of tensors made while the mode is on, until they are freed; scratch memory inside kernels is unseen.

    What operations read that was there before (weights, inputs) does not count.

    Attributes:
        counts_meta: count tensors of the meta device, which have shapes only, and no others.
        live: bytes now, what a ``Store`` of the VAE allocated apart from the rest.
        peak: the most so far, of the rest (``computing``) and of the store (``stored``).
    """

    counts_meta = False

    def __init__(self) -> None:
        super().__init__()
        self.live = {"computing": 0, "stored": 0}
        self.peak = dict(self.live)
        self._known: dict[int, weakref.ref[Any]] = {}
        self._kind = "computing"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_iter((args, kwargs)):
            if isinstance(value, Tensor):
                self._see(value, before=True)
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._see(value, before=False)
        return result

    def _see(self, tensor: Tensor, before: bool) -> None:
        storage = tensor.untyped_storage()
        key, kind, size = storage._cdata, self._kind, 0 if before else storage.nbytes()
        if (tensor.device.type == "meta") != self.counts_meta or key in self._known:
            return

        def gone(_: object) -> None:
            self._known.pop(key, None)
            self.live[kind] -= size

        self._known[key] = weakref.ref(storage, gone)
        self.live[kind] += size
        self.peak[kind] = max(self.peak[kind], self.live[kind])

    @contextmanager
    def storing(self) -> Iterator[None]:
        """What comes into being meanwhile belongs to the store."""
        before, self._kind = self._kind, "stored"
        try:
            yield
        finally:
            self._kind = before


@contextmanager
def live_bytes() -> Iterator[LiveBytes]:
    """Count everything allocated in the block, what the VAE's stores hold apart."""
    mode = LiveBytes()
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
