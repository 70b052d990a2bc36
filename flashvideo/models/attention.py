"""Attention over all tokens, in pieces where a kernel could not count its elements.

Kernels of attention keep offsets in 32 bits somewhere: torch's memory-efficient one multiplies a token's number by its
stride, cuDNN's and Metal's refuse tensors of 4 GiB. Samples and heads do not know each other, so pieces of them give
the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# attention(q, k, v, heads, **options): q, k, v [B, heads, S, head_dim] -> [B, S, heads * head_dim]
AttentionFunction = Callable[..., Tensor]

LARGEST_BYTES = 2**32 - 1
"""That a tensor may span: 2^31 - 1 elements of half precision, the bound of Metal in all."""
_SHORT = 512  # tokens


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
    """Torch's scaled dot product attention. ``q, k, v`` ``[B, heads, S, head_dim]`` -> ``[B, S, heads * head_dim]``."""
    return in_pieces(_sdpa, q, k, v, heads)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, _: int) -> Tensor:
    if q.shape[2] <= _SHORT and q.device.type == "cpu" and q.dtype == torch.bfloat16:
        with torch.autocast("cpu", enabled=False):  # torch's bf16 kernel takes three times as long on so few tokens
            mixed = F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)
    else:
        mixed = F.scaled_dot_product_attention(q, k, v)
    return mixed.transpose(1, 2).flatten(2)


def in_pieces(attend: AttentionFunction, q: Tensor, k: Tensor, v: Tensor, heads: int, **options: Any) -> Tensor:
    """``attend(q, k, v, heads, **options)``, called for some samples and heads at a time if all are too large."""
    if max(_span(tensor) for tensor in (q, k, v)) <= LARGEST_BYTES:
        return attend(q, k, v, heads, **options)
    count = max(1, LARGEST_BYTES // max(tensor[0, 0].numel() * tensor.element_size() for tensor in (q, k, v)))
    mixed = q.new_empty(q.shape[0], q.shape[2], heads, v.shape[3])
    for sample in range(q.shape[0]):
        for first in range(0, heads, count):
            part = slice(first, first + count)
            few = [tensor[sample : sample + 1, part].contiguous() for tensor in (q, k, v)]
            out = attend(*few, few[0].shape[1], **options)
            mixed[sample : sample + 1, :, part] = out.unflatten(2, (-1, v.shape[3]))
    return mixed.flatten(2)


def _span(tensor: Tensor) -> int:
    """Bytes from the first to the last element."""
    steps = ((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (1 + sum(steps)) * tensor.element_size()
