"""Models to train: new ones, Stage II from a text-to-video transformer, LoRA adapters; and writing what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..checkpoints.files import DTYPE_NAMES
from ..checkpoints.metadata import CheckpointMetadata
from ..checkpoints.writing import tensor_plan, write_safetensors
from ..loading.source import NETWORK_KEYWORDS
from ..tensors.sizes import LATENT_CHANNELS

LORA_PARTS = {
    "attention": ("qkv", "attn_out"),
    "adaln": ("modulation",),
    "ffn": ("mlp_up", "mlp_down"),
}


@dataclass(frozen=True)
class TransformerModel:
    """Size of a new transformer; keywords of :class:`~flashvideo.FlashVideoTransformer3DModel`."""

    num_layers: int = 6
    num_attention_heads: int = 3
    attention_head_dim: int = 64
    time_embed_dim: int = 64
    text_embed_dim: int = 128
    max_text_seq_length: int = 32
    position_encoding: Literal["rope", "sinusoidal"] = "rope"


@dataclass(frozen=True)
class LoraSettings:
    """A LoRA in place of full training.

    Attributes:
        rank: the paper's is 128.
        alpha: the adapter is scaled by alpha / rank.
        parts: of ``attention``, ``adaln`` and ``ffn``. The paper names all three; the published weights have the
            first two only.
    """

    rank: int = 128
    alpha: float = 128.0
    parts: tuple[Literal["attention", "adaln", "ffn"], ...] = ("attention", "adaln", "ffn")

    def check(self) -> None:
        """Raise ValueError for settings that cannot run."""
        if self.rank < 1 or self.alpha <= 0 or not self.parts:
            raise ValueError(f"lora: rank {self.rank}, alpha {self.alpha}, parts {self.parts}; expected some of each.")


def new_transformer(
    settings: TransformerModel, seed: int, *, stage2: bool, latent_scale: float, takes_low: bool = False
) -> Any:
    """A transformer with fresh weights: every block starts as the identity and the output as zero.

    Args:
        settings: its size.
        seed: of the weights.
        stage2: with the two extra embeddings.
        latent_scale: that its checkpoints carry.
        takes_low: whether low-resolution latents come in beside the noisy ones, as further channels.
    """
    from ..models.transformer import FlashVideoTransformer3DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FlashVideoTransformer3DModel(
            **asdict(settings),
            in_channels=2 * LATENT_CHANNELS if takes_low else LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            use_noise_step_embedding=stage2,
            use_frame_count_embedding=stage2,
            latent_scale=latent_scale,
        )
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in model.modules():
            for name in ("modulation", "out_modulation", "out_proj"):
                if isinstance(getattr(module, name, None), nn.Linear):
                    nn.init.zeros_(getattr(module, name).weight)
        if stage2:
            start_extra_embeddings(model)
    return model


def start_extra_embeddings(model: Any) -> None:
    """Stage II's two extra embeddings as copies of the time embedding whose last layer is zero (paper, section 3.3)."""
    for extra in (model.noise_step_embedding, model.frame_count_embedding):
        extra.load_state_dict(model.time_embedding.state_dict())
        nn.init.zeros_(extra.linear_2.weight)
        nn.init.zeros_(extra.linear_2.bias)


def stage2_from(transformer: Any, latent_scale: float) -> Any:
    """Stage II that starts as a text-to-video transformer: at first the extra embeddings add nothing.

    Args:
        transformer: of Stage I's kind, any size.
        latent_scale: of the new stage.
    """
    from ..models.transformer import FlashVideoTransformer3DModel

    config = {
        **{k: v for k, v in transformer.config.items() if not k.startswith("_")},
        "use_noise_step_embedding": True,
        "use_frame_count_embedding": True,
        "latent_scale": latent_scale,
    }
    with torch.random.fork_rng(devices=[]):
        model = FlashVideoTransformer3DModel(**config, dtype=transformer.dtype)
    _, unexpected = model.load_state_dict(transformer.state_dict(), strict=False)
    if unexpected:
        raise ValueError(f"The transformer has weights that Stage II lacks: {', '.join(unexpected[:5])}.")
    start_extra_embeddings(model)
    return model


def add_trainable_lora(transformer: Any, settings: LoraSettings, seed: int) -> None:
    """Freeze a transformer and put a fresh LoRA on it; only that is trained."""
    from peft import LoraConfig

    settings.check()
    leaves = {leaf for part in settings.parts for leaf in LORA_PARTS[part]}
    targets = [name for name, m in transformer.named_modules() if isinstance(m, nn.Linear) and _leaf(name) in leaves]
    transformer.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer.add_adapter(LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=targets))
    for parameter in transformer.parameters():  # a LoRA trains in fp32 on a base of any precision
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def part_of(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries of a state dict under ``prefix``, without it."""
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}


def save_transformer(
    model: Any, path: Path, kind: str, *, state: Mapping[str, Tensor] | None = None, dtype: torch.dtype | None = None
) -> Path:
    """Write a transformer as our loaders read it.

    Args:
        model: with its configuration.
        path: the ``.safetensors``.
        kind: ``stage1`` or ``stage2``.
        state: the weights; default: the model's.
        dtype: default: the model's.
    """
    dtype = dtype or model.dtype
    weights = model.state_dict() if state is None else state
    tensors = {name: value.detach().to("cpu", dtype) for name, value in sorted(weights.items())}
    header = CheckpointMetadata(
        kind=kind,
        dtype=DTYPE_NAMES[dtype],
        latent_scale=model.config.latent_scale,
        config={name: model.config[name] for name in sorted(NETWORK_KEYWORDS)},
        student=model.config.student,
    ).header()
    return write_safetensors(path, tensor_plan(tensors), header, overwrite=True)


def lora_pairs(state: Mapping[str, Tensor], settings: LoraSettings, adapter: str = "default") -> dict[str, Any]:
    """``{module: (A, B)}`` of a LoRA that was trained, its scale folded into B.

    Args:
        state: of the transformer with the adapter.
        settings: that the adapter was made with.
    """
    ending = f".lora_A.{adapter}.weight"
    pairs = {}
    for name, down in state.items():
        if name.endswith(ending):
            module = name.removesuffix(ending)
            up = state[f"{module}.lora_B.{adapter}.weight"]
            scale = settings.alpha / settings.rank
            pairs[module] = (down.detach().float().cpu(), up.detach().float().cpu() * scale)
    return pairs
