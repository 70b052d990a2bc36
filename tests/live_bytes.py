"""Live bytes with those of the VAE's stores apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from flashvideo.report.kernels.live import LiveBytes
from flashvideo.vae.tiling.store import Store


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
