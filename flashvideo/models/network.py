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
from .attention import AttentionFunction, sdpa_attention
from .layer import FlashVideoLayer, cut
from .rope import no_rotation, rope_axis_dims, rotary_table, sinusoidal_table
from .windows import AttentionWindows, WindowPattern, window_pattern

OUT_NORM_EPS = 1e-6

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


class StepEmbedding(nn.Module):
    """Sinusoid of a number -> linear -> SiLU -> linear: ``[B]`` -> ``[B, out_dim]``."""

    def __init__(self, dim: int, out_dim: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.dim = dim
        self.linear_1 = operations.Linear(dim, out_dim, **factory)
        self.linear_2 = operations.Linear(out_dim, out_dim, **factory)

    def forward(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(sinusoid(values, self.dim).to(dtype))))


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
                self.out_proj(torch.addcmul(shift, self.out_norm(self.final_norm(part)), 1 + scale))
                for part in (
                    [video[:, piece.tokens] for piece in cut(video, 0, self.inner_dim)] if inplace else [video]
                )
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
        for piece in cut(patches, 0, self.inner_dim):
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
