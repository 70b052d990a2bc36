"""The transformer of both stages as a plain torch module.

It imports neither diffusers nor peft: ComfyUI runs this class with its own layers and attention, and
:class:`flashvideo.models.transformer.FlashVideoTransformer3DModel` adds diffusers' machinery on top.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..tensors.sizes import SPATIAL_FACTOR
from . import fused
from .attention import AttentionFunction, sdpa_attention
from .rope import no_rotation, rope_axis_dims, rotary_table, rotate, sinusoidal_table
from .windows import AttentionWindows, WindowPattern, window_pattern, windowed_attention

QK_NORM_EPS = 1e-6
OUT_NORM_EPS = 1e-6
# Tokens that a layer works on at a time while sampling, attention aside: on a CPU what its cache holds, elsewhere
# enough to keep it busy. It bounds what a layer holds beside x, q, k and v, and the elements of every operation.
TOKENS_ON_CPU = 2048
TOKENS_ELSEWHERE = 16384


Patterns = tuple[WindowPattern | None, WindowPattern | None]  # of even and of odd layers


def sinusoid(values: Tensor, dim: int) -> Tensor:
    """``[cos | sin]`` features of ``values`` ``[B]`` (fp32) -> ``[B, dim]`` fp32, base 10000.

    At timestep 999 the last digit of a frequency is visible in the result. So the exponential is taken in double
    precision (of the fp32 argument), which gives the same frequencies on every machine.
    """
    half = dim // 2
    arguments = -math.log(10000) * torch.arange(half, dtype=torch.float32) / half
    frequencies = arguments.double().exp().float().to(values.device)
    angles = values.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def _split(x: Tensor, text_length: int) -> tuple[Tensor, Tensor]:
    return x[:, :text_length], x[:, text_length:]


def _modulate(
    normed: Tensor, text_length: int, shift: tuple[Tensor, Tensor], scale: tuple[Tensor, Tensor], inplace: bool
) -> Tensor:
    """``normed * (1 + scale) + shift`` with one (shift, scale) for text tokens and one for video tokens."""
    parts = _split(normed, text_length)
    if not inplace:
        return torch.cat([torch.addcmul(b, p, 1 + a) for p, b, a in zip(parts, shift, scale, strict=True)], dim=1)
    for part, b, a in zip(parts, shift, scale, strict=True):
        torch.addcmul(b, part, 1 + a, out=part)
    return normed


def _gated_add(x: Tensor, branch: Tensor, text_length: int, gate: tuple[Tensor, Tensor], inplace: bool) -> Tensor:
    """``x + gate * branch``."""
    pairs = zip(_split(x, text_length), _split(branch, text_length), gate, strict=True)
    if not inplace:
        return torch.cat([torch.addcmul(p, b, g) for p, b, g in pairs], dim=1)
    for part, b, g in pairs:
        part.addcmul_(b, g)
    return x


@dataclass(frozen=True)
class _Piece:
    """Tokens of a sequence of text and video: where they are, how many are text, and which of the video the others."""

    tokens: slice
    text_length: int
    video: slice


def _pieces(x: Tensor, text_length: int) -> list[_Piece]:
    """Cut the tokens of ``x`` ``[B, S, dim]`` into pieces that a layer works on at a time."""
    limit = TOKENS_ON_CPU if x.device.type == "cpu" else TOKENS_ELSEWHERE
    count = max(1, limit // len(x))
    starts = range(0, x.shape[1], count)
    return [
        _Piece(
            slice(start, start + count),
            max(0, text_length - start),
            slice(max(0, start - text_length), max(0, start + count - text_length)),
        )
        for start in starts
    ]


class StepEmbedding(nn.Module):
    """Sinusoid of a number -> linear -> SiLU -> linear: ``[B]`` -> ``[B, out_dim]``."""

    def __init__(self, dim: int, out_dim: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.dim = dim
        self.linear_1 = operations.Linear(dim, out_dim, **factory)
        self.linear_2 = operations.Linear(out_dim, out_dim, **factory)

    def forward(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(sinusoid(values, self.dim).to(dtype))))


_ATTENTION, _MLP = 0, 3  # where a branch's shift, scale and gate begin among the chunks of a modulation


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

    def normed(self, norm: nn.Module, x: Tensor, text_length: int, branch: int) -> Tensor:
        """``norm(x) * (1 + scale) + shift``."""
        if self.inplace:
            result = fused.norm_modulate(norm, x, self.whole, text_length, branch)
            if result is not None:
                return result
        return _modulate(norm(x), text_length, self.chunks[branch], self.chunks[branch + 1], self.inplace)

    def gated_add(self, x: Tensor, added: Tensor, text_length: int, branch: int) -> Tensor:
        """``x + gate * added``."""
        if self.inplace and fused.gated_add(x, added, self.whole, text_length, branch + 2) is not None:
            return x
        return _gated_add(x, added, text_length, self.chunks[branch + 2], self.inplace)


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
        pieces = _pieces(x, text_length) if inplace else [_Piece(slice(None), text_length, slice(None))]
        q, k, v = self._project(x, rotary, pieces, modulation)
        if pattern is None:
            attended = self.attention(*(t.transpose(1, 2) for t in (q, k, v)), self.heads, **attention_options)
        else:
            attended = windowed_attention(
                self.attention, q, k, v, self.heads, pattern, text_length, **attention_options
            )
        del q, k, v
        for piece in pieces:
            here, length = piece.tokens, piece.text_length
            part = modulation.gated_add(x[:, here], self.attn_out(attended[:, here]), length, _ATTENTION)
            part = modulation.gated_add(part, self._mlp(part, length, modulation), length, _MLP)
        return x if inplace else part

    def _project(self, x: Tensor, rotary: Tensor, pieces: list[_Piece], modulation: _Modulation) -> list[Tensor]:
        """q, k and v ``[B, S, heads, head_dim]``, rotated."""
        whole: list[Tensor] = []
        for piece in pieces:
            length, turns = piece.text_length, rotary[:, piece.video]
            qkv = self.qkv(modulation.normed(self.attn_norm, x[:, piece.tokens], length, _ATTENTION))
            if modulation.inplace and (len(pieces) > 1 or fused.positions(qkv)):
                whole = whole or [x.new_empty(*x.shape[:2], self.heads, qkv.shape[2] // 3 // self.heads) for _ in "qkv"]
                into = whole[0][:, piece.tokens], whole[1][:, piece.tokens], whole[2][:, piece.tokens]
                if fused.position(qkv, into, (self.q_norm, self.k_norm), turns, length):
                    del qkv, into
                    continue
            q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(2)
            del qkv
            q, k = (
                self._positioned(norm(part), turns, length, modulation.inplace)
                for norm, part in ((self.q_norm, q), (self.k_norm, k))
            )
            if len(pieces) == 1:
                return [q, k, v]
            for all_tokens, part in zip(into, (q, k, v), strict=True):
                all_tokens.copy_(part)
            del q, k, v, part  # or the next piece would be made beside them
        return whole

    @staticmethod
    def _positioned(x: Tensor, rotary: Tensor, text_length: int, inplace: bool) -> Tensor:
        """Rotate the video tokens of ``x`` ``[B, S, heads, head_dim]``; text tokens carry no position."""
        text, video = _split(x, text_length)
        rotated = rotate(video, rotary, inplace=inplace)
        return x if inplace else torch.cat((text, rotated), dim=1)

    def _mlp(self, x: Tensor, text_length: int, modulation: _Modulation) -> Tensor:
        hidden = self.mlp_up(modulation.normed(self.mlp_norm, x, text_length, _MLP))
        if not modulation.inplace:
            return self.mlp_down(F.gelu(hidden, approximate="tanh"))
        return self.mlp_down(torch.ops.aten.gelu_(hidden, approximate="tanh"))


@dataclass(frozen=True)
class PreparedInputs:
    """What stays the same over a sampling run: projected text ``[B, 226, dim]`` and the rotary table."""

    text: Tensor
    rotary: Tensor


class FlashVideoNetwork(nn.Module):
    """CogVideoX-type transformer with 3D RoPE, QK norm and Stage II's two extra embeddings.

    Args:
        num_layers, num_attention_heads, attention_head_dim: depth and width.
        in_channels, out_channels, patch_size: latents' channels; patches are spatial only.
        text_embed_dim, max_text_seq_length: width and exact number of the prompt embeddings.
        time_embed_dim: width of the conditioning vector.
        norm_eps: of the block norms and the final norm; the other norms have the authors' 1e-6.
        use_noise_step_embedding, use_frame_count_embedding: Stage II's extra embeddings (paper section 3.3).
        position_encoding: ``rope``, or ``sinusoidal`` for absolute positions added to the video tokens, which the paper
            compares it with (figure 8).
        operations: namespace with ``Linear`` and ``LayerNorm`` (default ``torch.nn``).
        attention: ``attention(q, k, v, heads, **options)``, see :func:`sdpa_attention` (the default).
        device, dtype: given to every layer.
    """

    def __init__(
        self,
        num_layers: int = 30,
        num_attention_heads: int = 30,
        attention_head_dim: int = 64,
        in_channels: int = 16,
        out_channels: int = 16,
        patch_size: int = 2,
        text_embed_dim: int = 4096,
        time_embed_dim: int = 512,
        max_text_seq_length: int = 226,
        norm_eps: float = 1e-5,
        use_noise_step_embedding: bool = False,
        use_frame_count_embedding: bool = False,
        position_encoding: str = "rope",
        operations: Any = None,
        attention: AttentionFunction | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        rope_axis_dims(attention_head_dim)
        if position_encoding not in ("rope", "sinusoidal"):
            raise ValueError(f"position_encoding is {position_encoding!r}; expected 'rope' or 'sinusoidal'.")
        self.position_encoding = position_encoding
        ops, kw = operations or nn, {"device": device, "dtype": dtype}
        dim = num_attention_heads * attention_head_dim
        self.inner_dim, self.head_dim, self.patch_size = dim, attention_head_dim, patch_size
        self.in_channels, self.out_channels = in_channels, out_channels
        self.text_dim, self.text_length = text_embed_dim, max_text_seq_length
        self.patch_embed = ops.Linear(in_channels * patch_size**2, dim, **kw)
        self.text_embed = ops.Linear(text_embed_dim, dim, **kw)
        self.time_embedding = StepEmbedding(dim, time_embed_dim, ops, **kw)
        self.noise_step_embedding = StepEmbedding(dim, time_embed_dim, ops, **kw) if use_noise_step_embedding else None
        self.frame_count_embedding = (
            StepEmbedding(dim, time_embed_dim, ops, **kw) if use_frame_count_embedding else None
        )
        attend = attention or sdpa_attention
        self.layers = nn.ModuleList(
            FlashVideoLayer(dim, num_attention_heads, time_embed_dim, norm_eps, ops, attend, **kw)
            for _ in range(num_layers)
        )
        self.final_norm = ops.LayerNorm(dim, eps=norm_eps, **kw)
        self.out_norm = ops.LayerNorm(dim, eps=OUT_NORM_EPS, **kw)
        self.out_modulation = ops.Linear(time_embed_dim, 2 * dim, **kw)
        self.out_proj = ops.Linear(dim, out_channels * patch_size**2, **kw)
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Any] | None = None

    def prepare(self, encoder_hidden_states: Tensor, latent_shape: torch.Size | tuple[int, ...]) -> PreparedInputs:
        """Work that does not change over the steps of a run.

        Args:
            encoder_hidden_states: ``[B, 226, text_embed_dim]`` in the network's dtype.
            latent_shape: ``(B, 16, T, h, w)`` of the latents to come.
        """
        frames, height, width = latent_shape[-3:]
        rotary = self.rotary(frames, height // self.patch_size, width // self.patch_size, encoder_hidden_states.device)
        return PreparedInputs(self.text_embed(encoder_hidden_states), rotary)

    def rotary(self, frames: int, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
        """The :func:`~flashvideo.models.rope.rotary_table` of a grid; it turns nothing if positions are added."""
        table = rotary_table if self.position_encoding == "rope" else no_rotation
        return table(frames, height, width, self.head_dim, device)

    def embed_step(self, timestep: Tensor, noise_step: Tensor | None, frame_count: int, dtype: torch.dtype) -> Tensor:
        """The conditioning vector ``[B, time_embed_dim]`` before SiLU."""
        embedding = self.time_embedding(timestep, dtype)
        if self.noise_step_embedding is not None:
            assert noise_step is not None
            embedding = embedding + self.noise_step_embedding(noise_step, dtype)
        if self.frame_count_embedding is not None:
            frames = torch.full_like(timestep, frame_count, dtype=torch.float32)
            embedding = embedding + self.frame_count_embedding(frames, dtype)
        return embedding

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor | None,
        *,
        noise_step: Tensor | float | None = None,
        prepared: PreparedInputs | None = None,
        attention_options: dict[str, Any] | None = None,
        inplace: bool = False,
        attention_windows: AttentionWindows | None = None,
    ) -> Tensor:
        """One evaluation.

        Args:
            hidden_states: ``[B, 16, T, h, w]`` latents in model space; ``h`` and ``w`` even.
            timestep: ``[B]``, 0..1000, may be fractional.
            encoder_hidden_states: ``[B, 226, text_embed_dim]`` prompt embeddings (all zeros = no prompt).
            noise_step: 0..999, number or ``[B]``: strength of the latent degradation; Stage II needs it.
            prepared: :meth:`prepare` of the same embeddings and shape, computed once a run; then
                ``encoder_hidden_states`` is not read.
            attention_options: passed on to the attention function.
            inplace: overwrite activations as a sampler may, which takes a fraction of the memory; autograd cannot
                follow. The inputs stay as they are.
            attention_windows: confine attention to windows of the frame; ``None`` is full attention.

        Returns:
            The prediction (Stage I: v; Stage II: d latent / d t), like ``hidden_states``.

        Raises:
            ValueError: shapes or windows that do not fit, or a noise step where there should be none or is none.
        """
        batch, _, frames, height, width = self._check(
            hidden_states, timestep, encoder_hidden_states, noise_step, prepared
        )
        dtype, device, size = hidden_states.dtype, hidden_states.device, self.patch_size
        patterns = self._patterns(attention_windows, (frames, height // size, width // size), device)
        if prepared is None:
            assert encoder_hidden_states is not None
            prepared = self.prepare(encoder_hidden_states.to(device, dtype), hidden_states.shape)
        if noise_step is not None:
            noise_step = torch.as_tensor(noise_step, dtype=torch.float32, device=device).expand(batch)
        timestep = timestep.to(device, torch.float32).expand(batch)
        embedding = F.silu(self.embed_step(timestep, noise_step, frames, dtype))
        patches = rearrange(hidden_states, "b c t (h p) (w q) -> b (t h w) (c p q)", p=size, q=size)
        x = self._tokens(patches, prepared.text, inplace)
        if self.position_encoding == "sinusoidal":
            table = sinusoidal_table(frames, height // size, width // size, self.inner_dim).to(x)
            x = torch.cat((x[:, : self.text_length], x[:, self.text_length :] + table), dim=1)
        del patches
        x = self.run_layers(x, embedding, prepared.rotary, attention_options or {}, inplace, patterns)
        shift, scale = self.out_modulation(embedding)[:, None].chunk(2, dim=-1)
        video = x[:, self.text_length :]
        patches = torch.cat(
            [
                self.out_proj(
                    _modulate(self.out_norm(self.final_norm(part)), 0, (shift, shift), (scale, scale), inplace)
                )
                for part in ([video[:, piece.tokens] for piece in _pieces(video, 0)] if inplace else [video])
            ],
            dim=1,
        )
        return rearrange(
            patches,
            "b (t h w) (c p q) -> b c t (h p) (w q)",
            t=frames,
            h=height // size,
            w=width // size,
            p=size,
            q=size,
        )

    def _tokens(self, patches: Tensor, text: Tensor, inplace: bool) -> Tensor:
        """Text ``[1 or B, 226, dim]`` and embedded patches ``[B, N, 64]`` as ``[B, 226 + N, dim]``."""
        batch, length = len(patches), self.text_length
        if not inplace:
            return torch.cat((text.expand(batch, -1, -1), self.patch_embed(patches)), dim=1)
        x = text.new_empty(batch, length + patches.shape[1], self.inner_dim)
        x[:, :length] = text
        for piece in _pieces(patches, 0):
            x[:, length:][:, piece.tokens] = self.patch_embed(patches[:, piece.tokens])
        return x

    def _patterns(self, windows: AttentionWindows | None, grid: tuple[int, int, int], device: torch.device) -> Patterns:
        """Of even and of odd layers."""
        if windows is None:
            return None, None
        even = window_pattern(windows, grid, self.patch_size, odd=False, device=device)
        if even is None or not windows.shift:
            return even, even
        return even, window_pattern(windows, grid, self.patch_size, odd=True, device=device)

    def run_layers(
        self,
        x: Tensor,
        embedding: Tensor,
        rotary: Tensor,
        attention_options: dict[str, Any],
        inplace: bool,
        patterns: Patterns,
    ) -> Tensor:
        """All layers on the token stream ``[B, text + video, dim]``, which ``inplace`` overwrites."""
        for index, layer in enumerate(self.layers):
            pattern = patterns[index % 2]
            arguments = (x, embedding, rotary, self.text_length, attention_options, inplace, pattern)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                run = self._gradient_checkpointing_func
                x = run(layer, *arguments) if run else checkpoint(layer, *arguments, use_reentrant=False)
            else:
                x = layer(*arguments)
        return x

    def _check(
        self, x: Tensor, timestep: Tensor, text: Tensor | None, noise_step: Any, prepared: PreparedInputs | None
    ) -> torch.Size:
        if (
            x.ndim != 5
            or x.shape[1] != self.in_channels
            or x.shape[3] % self.patch_size
            or x.shape[4] % self.patch_size
        ):
            raise ValueError(
                f"hidden_states has shape {list(x.shape)}; expected [B, {self.in_channels}, T, h, w] with h and w "
                f"multiples of {self.patch_size} (pixel sizes: of {SPATIAL_FACTOR * self.patch_size})."
            )
        if timestep.ndim != 1 or timestep.shape[0] not in (1, x.shape[0]):
            raise ValueError(
                f"timestep has shape {list(timestep.shape)}; expected [{x.shape[0]}], one number a sample."
            )
        if prepared is None:
            expected = [x.shape[0], self.text_length, self.text_dim]
            shape = None if text is None else list(text.shape)
            if shape not in (expected, [1, *expected[1:]]):
                raise ValueError(
                    f"encoder_hidden_states has shape {shape}; expected {expected}: pad or cut the prompt to "
                    f"{self.text_length} tokens and use the text encoder of this model."
                )
        if self.noise_step_embedding is None and noise_step is not None:
            raise ValueError(
                "This transformer has no noise-step embedding (it looks like Stage I): leave noise_step out."
            )
        if self.noise_step_embedding is not None and noise_step is None:
            raise ValueError(
                "This transformer has a noise-step embedding (it looks like Stage II): pass noise_step, the one the "
                "latents were degraded with (675 by default)."
            )
        return x.shape
