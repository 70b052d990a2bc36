"""Triton kernels of the transformer's layers, see :mod:`.fused`. Statistics and products are in fp32."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["text_length", "tokens", "first"])
def _norm_modulate(
    x, out, weight, bias, modulation, eps, text_length, tokens, dim, x_sample, x_token, first, of_sample,
    WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    sample, token = row // tokens, row % tokens
    at = tl.arange(0, WIDTH)
    inside = at < dim
    values = tl.load(x + sample * x_sample + token * x_token + at, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(values, 0) / dim
    centred = tl.where(inside, values - mean, 0.0)
    inverse = 1 / tl.sqrt(tl.sum(centred * centred, 0) / dim + eps)
    factor = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    offset = tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    chunk = modulation + sample * of_sample + (first + tl.where(token < text_length, 6, 0)) * dim + at
    shift = tl.load(chunk, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(chunk + dim, mask=inside, other=0.0).to(tl.float32)
    result = (centred * inverse * factor + offset) * (1 + scale) + shift
    tl.store(out + row * dim + at, result.to(out.dtype.element_ty), mask=inside)


def norm_modulate(
    x: Tensor, out: Tensor, weight: Tensor, bias: Tensor, modulation: Tensor, eps: float, text_length: int, first: int
) -> Tensor:
    """``norm(x) * (1 + scale) + shift`` of ``x`` ``[B, S, dim]`` into ``out``, contiguous.

    Args:
        modulation: ``[B, 12 * dim]``: six chunks for video tokens, six for text tokens.
        first: the shift's chunk; the scale's follows it.
    """
    batch, tokens, dim = x.shape
    width = triton.next_power_of_2(dim)
    strides = (x.stride(0), x.stride(1), first, modulation.stride(0))
    _norm_modulate[(batch * tokens,)](
        x, out, weight, bias, modulation, eps, text_length, tokens, dim, *strides,
        WIDTH=width, num_warps=8 if width > 2048 else 4,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["text_length", "tokens", "gate"])
def _gated_add(
    x, branch, modulation, text_length, tokens, dim, x_sample, x_token, gate, of_sample, WIDTH: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    sample, token = row // tokens, row % tokens
    at = tl.arange(0, WIDTH)
    inside = at < dim
    here = x + sample * x_sample + token * x_token + at
    chunk = modulation + sample * of_sample + (gate + tl.where(token < text_length, 6, 0)) * dim + at
    values = tl.load(here, mask=inside, other=0.0).to(tl.float32)
    added = tl.load(branch + row * dim + at, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(chunk, mask=inside, other=0.0).to(tl.float32)
    tl.store(here, (values + factor * added).to(x.dtype.element_ty), mask=inside)


def gated_add(x: Tensor, branch: Tensor, modulation: Tensor, text_length: int, gate: int) -> Tensor:
    """``x += gate * branch``; ``branch`` ``[B, S, dim]`` contiguous, ``gate`` the number of the chunk."""
    batch, tokens, dim = x.shape
    width = triton.next_power_of_2(dim)
    strides = (x.stride(0), x.stride(1), gate, modulation.stride(0))
    _gated_add[(batch * tokens,)](x, branch, modulation, text_length, tokens, dim, *strides, WIDTH=width, num_warps=4)
    return x


@triton.jit
def _turned(values, weight, bias, cosine, sine, eps, HEADS: tl.constexpr, DIM: tl.constexpr):
    mean = tl.sum(values, 1) / DIM
    centred = values - mean[:, None]
    inverse = 1 / tl.sqrt(tl.sum(centred * centred, 1) / DIM + eps)
    normed = centred * inverse[:, None] * weight[None, :] + bias[None, :]
    even, odd = tl.split(tl.reshape(normed, (HEADS, DIM // 2, 2)))
    pairs = tl.join(even * cosine - odd * sine, odd * cosine + even * sine)
    return tl.reshape(pairs, (HEADS, DIM))


@triton.jit(do_not_specialize=["text_length", "tokens"])
def _position(
    qkv, q, k, v, q_weight, q_bias, k_weight, k_bias, cosines, sines, q_eps, k_eps, text_length, tokens, heads,
    into_sample, into_token, turn_token, turn_pair,
    APART: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    sample, token = row // tokens, row % tokens
    at, pair = tl.arange(0, DIM), tl.arange(0, DIM // 2)
    head = tl.arange(0, HEADS)[:, None]
    inside = (head < heads) & (at[None, :] < DIM)
    source = qkv + row * 3 * heads * DIM + head * DIM + at[None, :]
    target = sample * into_sample + token * into_token + head * DIM + at[None, :]
    video = pair < tl.where(token >= text_length, DIM, 0)
    turn = (token - text_length) * turn_token + pair * turn_pair
    cosine = tl.load(cosines + turn, mask=video, other=1.0)[None, :]
    sine = tl.load(sines + turn, mask=video, other=0.0)[None, :]
    values = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    weight, bias = tl.load(q_weight + at).to(tl.float32), tl.load(q_bias + at).to(tl.float32)
    result = _turned(values, weight, bias, cosine, sine, q_eps, HEADS, DIM)
    tl.store(q + target, result.to(q.dtype.element_ty), mask=inside)
    values = tl.load(source + heads * DIM, mask=inside, other=0.0).to(tl.float32)
    weight, bias = tl.load(k_weight + at).to(tl.float32), tl.load(k_bias + at).to(tl.float32)
    result = _turned(values, weight, bias, cosine, sine, k_eps, HEADS, DIM)
    tl.store(k + target, result.to(k.dtype.element_ty), mask=inside)
    if APART:
        tl.store(v + target, tl.load(source + 2 * heads * DIM, mask=inside, other=0.0), mask=inside)


def position(
    qkv: Tensor,
    into: tuple[Tensor, Tensor, Tensor],
    norms: tuple[Tensor, Tensor, Tensor, Tensor],
    eps: tuple[float, float],
    rotary: Tensor,
    text_length: int,
) -> bool:
    """Norm and rotate q and k of ``qkv`` ``[B, S, 3 * heads * dim]``, contiguous, and write q, k and v apart.

    Args:
        into: q, k and v ``[B, S, heads, dim]``, heads and channels side by side; they may be parts of ``qkv``.
        norms: weight and bias of q's norm, then of k's.
        rotary: ``[2, S - text_length, dim // 2]``.
    """
    batch, tokens, heads, dim = into[0].shape
    strides = (into[0].stride(0), into[0].stride(1), rotary.stride(1), rotary.stride(2))
    _position[(batch * tokens,)](
        qkv, *into, *norms, rotary[0], rotary[1], *eps, text_length, tokens, heads, *strides,
        APART=into[0].data_ptr() != qkv.data_ptr(), HEADS=triton.next_power_of_2(heads), DIM=dim, num_warps=4,
    )  # fmt: skip
    return True
