"""The transformer as a diffusers model: ``from_pretrained``, ``save_pretrained``, adapters, gradient checkpointing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin, peft
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from .network import AttentionFunction, FlashVideoNetwork, PreparedInputs
from .windows import AttentionWindows

# Keywords of diffusers' CogVideoXTransformer3DModel that FlashVideo has only one value of.
_FIXED = {
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "ofs_embed_dim": None,
    "dropout": 0.0,
    "attention_bias": True,
    "patch_size_t": None,
    "temporal_compression_ratio": 4,
    "activation_fn": "gelu-approximate",
    "timestep_activation_fn": "silu",
    "norm_elementwise_affine": True,
    "use_rotary_positional_embeddings": True,
    "use_learned_positional_embeddings": False,
    "patch_bias": True,
}

# Older versions of diffusers set the strength of adapters only for models that they list by name; newer ones for all.
getattr(peft, "_SET_ADAPTER_SCALE_FN_MAPPING", {}).setdefault(
    "FlashVideoTransformer3DModel", lambda _model, strengths: strengths
)


class FlashVideoTransformer3DModel(FlashVideoNetwork, ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Transformer of both stages (arXiv 2502.05179, sections 3.2 and 3.3).

    The keywords are those of diffusers' ``CogVideoXTransformer3DModel``; values that FlashVideo does not have are
    refused. ``sample_*`` and ``*_interpolation_scale`` are accepted and not used: positions are plain integers.

    Args:
        use_noise_step_embedding, use_frame_count_embedding: Stage II's two extra embeddings.
        position_encoding: ``rope``, or ``sinusoidal`` for the paper's comparison.
        latent_scale: latents (VAE space) times this is the model space; ``None``: the stage's published value.
        student: what a distilled Stage II was made for: a :class:`~flashvideo.method.student.Student` as a table.
        operations, attention, device, dtype: see :class:`~flashvideo.models.network.FlashVideoNetwork`; not saved.
    """

    if TYPE_CHECKING:
        dtype: torch.dtype  # diffusers' property

    config_name = "config.json"
    ignore_for_config = ["operations", "attention", "device", "dtype"]  # noqa: RUF012 (diffusers reads it so)
    _supports_gradient_checkpointing = True
    _no_split_modules = ["FlashVideoLayer"]  # noqa: RUF012
    _repeated_blocks = ["FlashVideoLayer"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = ["patch_embed", "text_embed", "norm"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int = 30,
        attention_head_dim: int = 64,
        in_channels: int = 16,
        out_channels: int | None = 16,
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        time_embed_dim: int = 512,
        ofs_embed_dim: int | None = None,
        text_embed_dim: int = 4096,
        num_layers: int = 30,
        dropout: float = 0.0,
        attention_bias: bool = True,
        sample_width: int = 90,
        sample_height: int = 60,
        sample_frames: int = 49,
        patch_size: int = 2,
        patch_size_t: int | None = None,
        temporal_compression_ratio: int = 4,
        max_text_seq_length: int = 226,
        activation_fn: str = "gelu-approximate",
        timestep_activation_fn: str = "silu",
        norm_elementwise_affine: bool = True,
        norm_eps: float = 1e-5,
        spatial_interpolation_scale: float = 1.0,
        temporal_interpolation_scale: float = 1.0,
        use_rotary_positional_embeddings: bool = True,
        use_learned_positional_embeddings: bool = False,
        patch_bias: bool = True,
        use_noise_step_embedding: bool = False,
        use_frame_count_embedding: bool = False,
        position_encoding: str = "rope",
        latent_scale: float | None = None,
        student: dict[str, Any] | None = None,
        operations: Any = None,
        attention: AttentionFunction | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        given = locals()
        wrong = [f"{key}={given[key]!r} (must be {value!r})" for key, value in _FIXED.items() if given[key] != value]
        if wrong:
            raise ValueError(f"FlashVideo's transformer does not have these settings: {', '.join(wrong)}.")
        super().__init__(
            num_layers=num_layers,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels or in_channels,
            patch_size=patch_size,
            text_embed_dim=text_embed_dim,
            time_embed_dim=time_embed_dim,
            max_text_seq_length=max_text_seq_length,
            norm_eps=norm_eps,
            use_noise_step_embedding=use_noise_step_embedding,
            use_frame_count_embedding=use_frame_count_embedding,
            position_encoding=position_encoding,
            operations=operations,
            attention=attention,
            device=device,
            dtype=dtype,
        )

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
        """One evaluation, computed in the model's dtype; see :meth:`FlashVideoNetwork.forward` for shapes and errors.

        Returns:
            ``[B, 16, T, h, w]`` in the dtype of ``hidden_states``.
        """
        out = super().forward(
            hidden_states.to(self.dtype),
            timestep,
            encoder_hidden_states,
            noise_step=noise_step,
            prepared=prepared,
            attention_options=attention_options,
            inplace=inplace,
            attention_windows=attention_windows,
        )
        return out.to(hidden_states.dtype)
