"""A layer of the transformer: joint attention over text and video tokens, then an MLP.

While sampling, a layer overwrites its activations and works on some tokens at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tensors import fusing
from . import fused
from .attention import LARGEST_BYTES, AttentionFunction
from .rope import rotate
from .windows import WindowPattern, windowed_attention

QK_NORM_EPS = 1e-6
TOKENS_ON_CPU = 2048  # what its cache holds
FEW_TOKENS = 16384  # elsewhere: cut, so few would take more in launches than they save in memory
LARGEST_INDEX = 2**31 - 1
"""Elements of an operation."""
QKV = tuple[Tensor, Tensor, Tensor]  # [B, S, heads, head_dim] each
_ATTENTION, _MLP = 0, 3  # where a branch's shift, scale and gate begin among the chunks of a modulation


@dataclass(frozen=True)
class Piece:
    """Tokens of a sequence of text and video: where they are, how many are text, and which of the video the others."""

    tokens: slice
    text_length: int
    video: slice


def cut(x: Tensor, text_length: int, width: int, least: int = 1) -> list[Piece]:
    """Pieces of the tokens ``x`` ``[B, S, ...]``, which a layer works on one after another.

    On a CPU they fit its cache. Elsewhere they are few, since each takes launches of its own.

    Args:
        width: elements that an operation makes of a token; none makes more than ``LARGEST_INDEX``.
        least: pieces of more than ``FEW_TOKENS``, not on a CPU; bounds what is held beside the whole.
    """
    batch, tokens = x.shape[:2]
    if x.device.type == "cpu":
        count = max(1, TOKENS_ON_CPU // batch)
    else:
        least = least if batch * tokens > FEW_TOKENS else 1
        count = max(1, -(-tokens // max(least, -(-batch * tokens * width // LARGEST_INDEX))))
    return [
        Piece(
            slice(start, start + count),
            max(0, min(count, text_length - start)),
            slice(max(0, start - text_length), max(0, start + count - text_length)),
        )
        for start in range(0, tokens, count)
    ]


class _Modulation:
    """What the time embedding does to a layer's branches: six chunks for video tokens, then six for text tokens.

    Args:
        whole: ``[B, 12 * dim]``.
        inplace: overwrite activations, in one pass where a fused kernel runs.
    """

    def __init__(self, whole: Tensor, inplace: bool) -> None:
        self.whole, self.inplace = whole, inplace
        chunks = whole[:, None].chunk(12, dim=-1)
        self.chunks = tuple(zip(chunks[6:], chunks[:6], strict=True))  # (text, video)
        self._weights: dict[int, tuple[Tensor, Tensor] | None] = {}

    def normed(self, norm: Any, x: Tensor, text_length: int, branch: int) -> Tensor:
        """``norm(x) * (1 + scale) + shift``."""
        shifts, scales = self.chunks[branch], self.chunks[branch + 1]
        if not self.inplace:
            parts = zip(shifts, _split(norm(x), text_length), scales, strict=True)
            return torch.cat([torch.addcmul(shift, part, 1 + scale) for shift, part, scale in parts], dim=1)
        in_one_pass = fused.norm_modulate(norm, x, self.whole, text_length, branch)
        if in_one_pass is not None:
            return in_one_pass
        if branch not in self._weights:
            self._weights[branch] = self._modulated_weights(norm, x, branch)
        weights = self._weights[branch]
        if weights is not None:
            return _layer_norm(x, weights, norm.eps, text_length)
        result: Tensor = norm(x)
        for shift, part, scale in zip(shifts, _split(result, text_length), scales, strict=True):
            if part.shape[1]:
                torch.addcmul(shift, part, 1 + scale, out=part)
        return result

    def _modulated_weights(self, norm: Any, x: Tensor, branch: int) -> tuple[Tensor, Tensor] | None:
        """A norm's weight and bias with the modulation in them, ``[2, dim]`` each, video's and text's.

        ``None`` for several samples, each with a modulation of its own, or where the norm is not torch's own.
        """
        found = fusing.weights_of(norm, x) if len(x) == 1 else None
        if found is None or found[1] is None or found[0].dtype != x.dtype:
            return None
        chunks = self.whole.view(2, 6, -1)
        factor = 1 + chunks[:, branch + 1]
        return factor * found[0], torch.addcmul(chunks[:, branch], factor, found[1])

    def gated_add(self, x: Tensor, added: Tensor, text_length: int, branch: int) -> Tensor:
        """``x + gate * added``."""
        gates = self.chunks[branch + 2]
        if self.inplace and fused.gated_add(x, added, self.whole, text_length, branch + 2) is not None:
            return x
        parts = zip(_split(x, text_length), _split(added, text_length), gates, strict=True)
        if not self.inplace:
            return torch.cat([torch.addcmul(part, more, gate) for part, more, gate in parts], dim=1)
        for part, more, gate in parts:
            if part.shape[1]:
                part.addcmul_(more, gate)
        return x


def _split(x: Tensor, text_length: int) -> tuple[Tensor, Tensor]:
    return x[:, :text_length], x[:, text_length:]


def _three(x: Tensor, dim: int) -> QKV:
    q, k, v = x.unbind(dim)
    return q, k, v


def _layer_norm(x: Tensor, weights: tuple[Tensor, Tensor], eps: float, text_length: int) -> Tensor:
    """The norm of one sample with weights ``[2, dim]``: of video tokens, and of text tokens, which come first."""
    (video, text), (video_bias, text_bias) = weights
    result = F.layer_norm(x, x.shape[2:], video, video_bias, eps)
    if text_length:
        result[:, :text_length] = F.layer_norm(x[:, :text_length], x.shape[2:], text, text_bias, eps)
    return result


class FlashVideoLayer(nn.Module):
    """Joint attention over text and video tokens, then an MLP; both modulated by the time embedding."""

    def __init__(
        self, dim: int, heads: int, embed_dim: int, eps: float, operations: Any, attention: AttentionFunction, **kw: Any
    ) -> None:
        super().__init__()
        self.heads = heads
        self.attention = attention
        self.modulation = operations.Linear(embed_dim, 12 * dim, **kw)
        self.attn_norm = operations.LayerNorm(dim, eps=eps, **kw)
        self.qkv = operations.Linear(dim, 3 * dim, **kw)
        self.q_norm = operations.LayerNorm(dim // heads, eps=QK_NORM_EPS, **kw)
        self.k_norm = operations.LayerNorm(dim // heads, eps=QK_NORM_EPS, **kw)
        self.attn_out = operations.Linear(dim, dim, **kw)
        self.mlp_norm = operations.LayerNorm(dim, eps=eps, **kw)
        self.mlp_up = operations.Linear(dim, 4 * dim, **kw)
        self.mlp_down = operations.Linear(4 * dim, dim, **kw)

    def forward(
        self,
        x: Tensor,
        embedding: Tensor,
        rotary: Tensor,
        text_length: int,
        attention_options: dict[str, Any],
        inplace: bool = False,
        pattern: WindowPattern | None = None,
    ) -> Tensor:
        """``x`` ``[B, text_length + N, dim]``, ``embedding`` ``[B, embed_dim]`` after SiLU -> like ``x``.

        ``inplace`` overwrites ``x`` and everything else, some tokens at a time; autograd cannot follow. ``pattern``
        confines attention to windows.
        """
        modulation = _Modulation(self.modulation(embedding), inplace)
        project = self._project_in_place if inplace else self._project
        attended = self._attend(project(x, rotary, text_length, modulation), text_length, attention_options, pattern)
        if not inplace:
            x = modulation.gated_add(x, self.attn_out(attended), text_length, _ATTENTION)
            return modulation.gated_add(x, self._mlp(x, text_length, modulation), text_length, _MLP)
        for piece in cut(x, text_length, 4 * x.shape[2], least=2):
            here, length = piece.tokens, piece.text_length
            part = modulation.gated_add(x[:, here], self.attn_out(attended[:, here]), length, _ATTENTION)
            modulation.gated_add(part, self._mlp(part, length, modulation), length, _MLP)
        return x

    def _attend(self, qkv: QKV, text_length: int, options: dict[str, Any], pattern: WindowPattern | None) -> Tensor:
        """``[B, S, dim]``."""
        if pattern is None:
            return self.attention(*(part.transpose(1, 2) for part in qkv), self.heads, **options)
        return windowed_attention(self.attention, *qkv, self.heads, pattern, text_length, **options)

    def _project(self, x: Tensor, rotary: Tensor, text_length: int, modulation: _Modulation) -> QKV:
        """Video tokens' q and k are rotated, text carries no position."""
        qkv = self.qkv(modulation.normed(self.attn_norm, x, text_length, _ATTENTION))
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(2)
        parts = [_split(norm(part), text_length) for norm, part in ((self.q_norm, q), (self.k_norm, k))]
        q, k = (torch.cat((text, rotate(video, rotary)), dim=1) for text, video in parts)
        return q, k, v

    def _project_in_place(self, x: Tensor, rotary: Tensor, text_length: int, modulation: _Modulation) -> QKV:
        """The same: parts of one product, or, where there are more elements than some kernels count, made piecewise."""
        width = 3 * x.shape[2]
        pieces = cut(x, text_length, width, least=1 if x.numel() * 3 * x.element_size() <= LARGEST_BYTES else 8)
        whole = x.new_empty(3, *x.shape[:2], self.heads, x.shape[2] // self.heads) if len(pieces) > 1 else None
        for piece in pieces:
            here, length = piece.tokens, piece.text_length
            qkv = self.qkv(modulation.normed(self.attn_norm, x[:, here], length, _ATTENTION))
            parts = _three(qkv.unflatten(-1, (3, self.heads, -1)), 2)
            into = parts if whole is None else _three(whole[:, :, here], 0)
            if not fused.position(qkv, into, (self.q_norm, self.k_norm), rotary[:, piece.video], length):
                self._position(parts, into, rotary[:, piece.video], length)
            if whole is not None:
                del qkv, parts, into  # or the next piece would be made beside them
        return into if whole is None else _three(whole, 0)

    def _position(self, qkv: QKV, into: QKV, rotary: Tensor, text_length: int) -> None:
        """Norm and rotate q and k, and put q, k and v where they belong."""
        if into is not qkv:
            into[2].copy_(qkv[2])
        for piece in cut(qkv[0], text_length, self.heads * qkv[0].shape[3], least=2):
            for norm, part, target in zip((self.q_norm, self.k_norm), qkv, into, strict=False):
                text, video = _split(norm(part[:, piece.tokens]), piece.text_length)
                text_place, video_place = _split(target[:, piece.tokens], piece.text_length)
                if piece.text_length:
                    text_place.copy_(text)
                rotate(video, rotary[:, piece.video], out=video_place)

    def _mlp(self, x: Tensor, text_length: int, modulation: _Modulation) -> Tensor:
        hidden = self.mlp_up(modulation.normed(self.mlp_norm, x, text_length, _MLP))
        if not modulation.inplace:
            return self.mlp_down(F.gelu(hidden, approximate="tanh"))
        return self.mlp_down(torch.ops.aten.gelu_(hidden, approximate="tanh"))
