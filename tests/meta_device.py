"""Running real modules on the meta device, where tensors have shapes only, and counting what they would take."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_iter

from flashvideo.models.transformer import FlashVideoTransformer3DModel
from flashvideo.report.kernels.networks import FULL_SIZE, META
from tests.live_bytes import LiveBytes


class Counted(LiveBytes):
    """Live bytes on the meta device, and the most elements that a tensor of each operation had.

    Attributes:
        largest: by the operation's name.
    """

    counts_meta = True

    def __init__(self) -> None:
        super().__init__()
        self.largest: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        sizes = (value.numel() for value in tree_iter((args, result)) if isinstance(value, Tensor))
        name = func.name().removeprefix("aten::")
        self.largest[name] = max(self.largest.get(name, 0), *sizes, 0)
        return result


@cache
def full_transformer(stage: str, layers: int | None = None, dtype: torch.dtype = torch.bfloat16) -> Any:
    """The published transformer on the meta device; or with fewer layers, which hold as much at their peak."""
    config = FULL_SIZE[stage] | ({} if layers is None else {"num_layers": layers})
    return FlashVideoTransformer3DModel(**config, device=META, dtype=dtype)


def _know_fused_attention() -> None:
    """PyTorch 2.4 has no such kernel for the meta device."""
    few = torch.empty(1, 1, 8, 8, device=META)
    try:
        torch.ops.aten._scaled_dot_product_flash_attention(few, few, few)
    except NotImplementedError:
        _KERNELS.impl("_scaled_dot_product_flash_attention", _fused)


def _fused(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> tuple[Any, ...]:
    sums, nothing = q.new_empty(q.shape[:3], dtype=torch.float32), q.new_empty(0)
    return torch.empty_like(q), sums, nothing, nothing, q.shape[2], k.shape[2], nothing, nothing, nothing


_KERNELS = torch.library.Library("aten", "IMPL", "Meta")
_know_fused_attention()


def fused_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention as GPUs run it: torch's function takes another way on the meta device, which holds all scores."""

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]

    monkeypatch.setattr(F, "scaled_dot_product_attention", fused)


def values_are_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is to say of tensors without values."""
    monkeypatch.setattr(torch, "isfinite", lambda _: torch.ones((), dtype=torch.bool))
