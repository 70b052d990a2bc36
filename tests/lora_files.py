"""LoRA files and adapters as other programs have them: what the library reads, written here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from flashvideo import FlashVideoTransformer3DModel
from flashvideo.checkpoints.layouts import Piece, transformer_layout
from flashvideo.loading.lora import LoraPairs, read_lora

LAYERS = 64


def diffusers_names(pairs: LoraPairs) -> dict[str, Tensor]:
    """``transformer.transformer_blocks.0.attn1.to_q.lora_A.weight`` and its like."""
    state: dict[str, Tensor] = {}
    for module, (down, up) in _pieces(pairs).items():
        state[f"transformer.{module}.lora_A.weight"], state[f"transformer.{module}.lora_B.weight"] = down, up
    return state


def kohya_names(pairs: LoraPairs) -> dict[str, Tensor]:
    """``lora_unet_transformer_blocks_0_attn1_to_q.lora_down.weight`` and its like, with alpha."""
    state: dict[str, Tensor] = {}
    for module, (down, up) in _pieces(pairs).items():
        name = "lora_unet_" + module.replace(".", "_")
        state[f"{name}.lora_down.weight"], state[f"{name}.lora_up.weight"] = down, up
        state[f"{name}.alpha"] = torch.tensor(float(down.shape[0]))
    return state


def native_names(pairs: LoraPairs, prefix: str = "diffusion_model") -> dict[str, Tensor]:
    """``diffusion_model.layers.0.qkv.lora_A.weight`` and its like."""
    sides = [(module, *side) for module, pair in pairs.items() for side in zip("AB", pair, strict=True)]
    return {f"{prefix}.{module}.lora_{side}.weight": tensor.contiguous() for module, side, tensor in sides}


NAMINGS = {"native": native_names, "diffusers": diffusers_names, "kohya": kohya_names}


def lora_file(pairs: LoraPairs, path: Path, naming: str) -> Path:
    """A file of another program."""
    save_file(NAMINGS[naming](pairs), path, metadata={"format": "pt"})
    return path


def _pieces(pairs: LoraPairs) -> LoraPairs:
    """Pairs of diffusers' modules: the fused ones are cut apart."""
    layout = transformer_layout("diffusers", LAYERS)
    pieces: dict[str, tuple[Tensor, Tensor]] = {}
    for module, pair in pairs.items():
        for piece in layout[module]:
            part = _cut(pair, piece) if piece.rows else pair
            if part is not None:
                pieces[piece.module] = part
    return pieces


def _cut(pair: tuple[Tensor, Tensor], piece: Piece) -> tuple[Tensor, Tensor] | None:
    """The part of a pair that changes a piece's rows; ``None`` if it changes none. Unused ranks are dropped."""
    down, up = pair
    rows = torch.cat([up[start:stop] for start, stop in piece.row_ranges(up.shape[0])])
    used = rows.abs().amax(dim=0) > 0
    return (down[used].contiguous(), rows[:, used].contiguous()) if used.any() else None


def add_adapter(model: FlashVideoTransformer3DModel, path: Path, name: str = "default") -> None:
    """Put a LoRA on a transformer as a PEFT adapter, unmerged."""
    pairs = read_lora(path)
    # without them, older versions of diffusers take one alpha for modules of different ranks
    alphas = {f"transformer.{module}.alpha": float(down.shape[0]) for module, (down, _) in pairs.items()}
    adapted: Any = model  # the method is diffusers'
    adapted.load_lora_adapter(
        native_names(pairs, "transformer"), prefix="transformer", network_alphas=alphas, adapter_name=name
    )


def adapter_pairs(model: FlashVideoTransformer3DModel, name: str = "default") -> LoraPairs:
    """The pairs of a PEFT adapter on a transformer, scales folded in."""
    pairs = {}
    for module_name, module in model.named_modules():
        downs, ups = getattr(module, "lora_A", {}), getattr(module, "lora_B", {})
        if name in downs and name in ups:
            down, up = (layer.weight.detach().float() for layer in (downs[name], ups[name]))
            pairs[module_name] = (down, up * float(module.scaling[name]))
    return pairs
