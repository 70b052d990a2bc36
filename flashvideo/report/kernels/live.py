"""Counting the bytes of live tensors, so that what is saved can be seen where there is no device to ask."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


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
        self.see_before(args, kwargs)
        result = func(*args, **(kwargs or {}))
        self.see_after(result)
        return result

    def see_before(self, *arguments: Any) -> None:
        """What an operation is given."""
        for value in tree_iter(arguments):
            if isinstance(value, Tensor):
                self._see(value, before=True)

    def see_after(self, result: Any) -> None:
        """What an operation gives."""
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._see(value, before=False)

    def counts(self, tensor: Tensor) -> bool:
        """Whether a tensor is on the device that is counted."""
        return (tensor.device.type == "meta") == self.counts_meta

    def _see(self, tensor: Tensor, before: bool) -> None:
        storage = tensor.untyped_storage()
        key, kind, size = storage._cdata, self._kind, 0 if before else storage.nbytes()
        if not self.counts(tensor) or key in self._known:
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
