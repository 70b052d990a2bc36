"""Chains of a layer's operations in one pass each, where Triton's kernels run; see :mod:`flashvideo.tensors.fusing`.

Each returns ``None`` where the plain path has to do it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..tensors import fusing

_KERNELS = f"{__package__}.kernels"


def norm_modulate(norm: Any, x: Tensor, modulation: Tensor, text_length: int, first: int) -> Tensor | None:
    """``norm(x) * (1 + scale) + shift``.

    Args:
        norm: a LayerNorm with weight and bias.
        x: ``[B, S, dim]``.
        modulation: ``[B, 12 * dim]``, six chunks for video tokens and six for text tokens.
        text_length: how many of the tokens are text; they come first.
        first: the shift's chunk of the six; the scale's follows it.
    """
    weights = _weights(norm, x)
    if weights is None or x.stride(-1) != 1:
        return None
    out = x.new_empty(x.shape)
    done = fusing.run(_KERNELS, "norm_modulate", x, out, *weights, modulation, norm.eps, text_length, first)
    return None if done is None else out


def gated_add(x: Tensor, branch: Tensor, modulation: Tensor, text_length: int, gate: int) -> Tensor | None:
    """``x += gate * branch``, both ``[B, S, dim]``; ``gate`` is the number of its chunk of the modulation."""
    if not fusing.available(x) or x.stride(-1) != 1:
        return None
    done = fusing.run(_KERNELS, "gated_add", x, branch.contiguous(), modulation, text_length, gate)
    return None if done is None else x


def position(
    qkv: Tensor, into: tuple[Tensor, Tensor, Tensor], norms: tuple[Any, Any], rotary: Tensor, text_length: int
) -> bool | None:
    """Norm and rotate q and k of a projection, and put q, k and v where they belong.

    Args:
        qkv: ``[B, S, 3 * heads * head_dim]``.
        into: q, k and v ``[B, S, heads, head_dim]``, of ``qkv`` itself or parts of contiguous tensors.
        norms: q's and k's, over ``head_dim``.
        rotary: ``[2, S - text_length, head_dim // 2]``, the video tokens' cosines and sines.
        text_length: how many of the tokens are text; they come first and are not rotated.
    """
    weights = [_weights(norm, qkv) for norm in norms]
    dim = into[0].shape[3]
    if weights[0] is None or weights[1] is None or dim & (dim - 1) or not qkv.is_contiguous():
        return None
    eps = tuple(norm.eps for norm in norms)
    result: bool | None = fusing.run(
        _KERNELS, "position", qkv, into, (*weights[0], *weights[1]), eps, rotary, text_length
    )
    return result


def _weights(norm: Any, x: Tensor) -> tuple[Tensor, Tensor] | None:
    found = fusing.weights_of(norm, x) if fusing.available(x) else None
    return None if found is None or found[1] is None else (found[0], found[1])
