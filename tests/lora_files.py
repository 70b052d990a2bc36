"""LoRA files and adapters as other programs have them: what the library reads, written here."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from flashvideo import FlashVideoTransformer3DModel
from flashvideo.checkpoints.layouts import Piece, transformer_layout
from flashvideo.loading.lora import LoraPairs, read_lora

LAYERS = 64
PEFT = (".lora_A.weight", ".lora_B.weight")
PEFT_NAMED = (".lora_A.default.weight", ".lora_B.default.weight")
KOHYA = (".lora_down.weight", ".lora_up.weight")
SAT = (".matrix_A.{}", ".matrix_B.{}")


def _flat(module: str) -> str:
    return module.replace(".", "_")


def _processor(module: str) -> str:
    """diffusers' attention processors had LoRAs of their own: ``attn1.processor.to_out_lora.down.weight``."""
    return re.sub(r"attn1\.(to_\w+)(\.0)?$", r"attn1.processor.\1", module)


def comfyui_name(module: str) -> str:
    """A module of diffusers' as ComfyUI's own CogVideoX names it."""
    names = {"attn1.to_q": "q", "attn1.to_k": "k", "attn1.to_v": "v", "attn1.to_out.0": "attn_out"}
    names |= {"attn1.norm_q": "norm_q", "attn1.norm_k": "norm_k", "ff.net.0.proj": "ff_proj", "ff.net.2": "ff_out"}
    block, index, leaf = [*module.split(".", 2), "", ""][:3]
    if block != "transformer_blocks":
        return module.replace("time_embedding.linear", "time_embedding_linear")
    return f"blocks.{index}.{names.get(leaf, leaf)}"


@dataclass(frozen=True)
class Naming:
    """How a program names a LoRA's tensors.

    Attributes:
        layout: whose modules they are.
        module: a module's name -> how it stands in the file.
        sides: endings of A and B.
        alpha: a scalar for each module too.
        fused: q, k and v have one pair, in a layout that has them apart.
    """

    layout: str
    module: Callable[[str], str]
    sides: tuple[str, str] = PEFT
    alpha: bool = False
    fused: bool = False

    def tensors(self, pairs: LoraPairs) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for module, (down, up) in _pieces(pairs, self.layout, fused=self.fused).items():
            module, _, index = module.partition("#")
            name, rank = self.module(module), down.shape[0]
            up = up * rank if self.sides is SAT else up  # the authors' alpha is 1
            if module.endswith("patch_embed.proj"):  # a convolution there
                down, up = down.reshape(rank, -1, 2, 2), up[:, :, None, None]
            for ending, side in zip(self.sides, (down, up), strict=True):
                state[name + ending.format(index or 0)] = side.contiguous()
            if self.alpha:
                state[f"{name}.alpha"] = torch.tensor(float(rank))
        return state


NAMINGS = {  # the one table of names: each is loaded, inspected, converted and put on a model in ComfyUI
    "native": Naming("native", "diffusion_model.{}".format),
    "native, bare": Naming("native", "{}".format),
    "native, PEFT": Naming("native", "base_model.model.{}".format),
    "native, Kohya": Naming("native", lambda m: f"lora_unet_{_flat(m)}", KOHYA, alpha=True),
    "ComfyUI's trainer": Naming(
        "native", "diffusion_model.{}".format, (".lora_down.weight", ".lora_up.weight"), alpha=True
    ),
    "diffusers": Naming("diffusers", "transformer.{}".format),
    "diffusers, bare": Naming("diffusers", "{}".format),
    "diffusers, old": Naming("diffusers", "transformer.{}".format, (".lora.down.weight", ".lora.up.weight")),
    "diffusers, oldest": Naming(
        "diffusers", "transformer.{}".format, (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight")
    ),
    "diffusers, processors": Naming(
        "diffusers", lambda m: f"transformer.{_processor(m)}", ("_lora.down.weight", "_lora.up.weight")
    ),
    "diffusers, fused": Naming("diffusers", "transformer.{}".format, fused=True),
    "PEFT": Naming("diffusers", "base_model.model.{}".format),
    "PEFT, named": Naming("diffusers", "base_model.model.{}".format, PEFT_NAMED),
    "PEFT in a pipeline": Naming("diffusers", "base_model.model.transformer.{}".format),
    "DiffSynth": Naming("diffusers", "{}".format, PEFT_NAMED),
    "DiffSynth, pipe": Naming("diffusers", "pipe.dit.{}".format, PEFT_NAMED),
    "no .weight": Naming("diffusers", "transformer.{}".format, (".lora_A", ".lora_B")),
    "ComfyUI": Naming("diffusers", "diffusion_model.{}".format),
    "ComfyUI, Kohya's sides": Naming("diffusers", "diffusion_model.{}".format, KOHYA, alpha=True),
    "ComfyUI, whole model": Naming("diffusers", "model.diffusion_model.{}".format),
    "ComfyUI's CogVideoX": Naming("diffusers", lambda m: f"diffusion_model.{comfyui_name(m)}"),
    "ComfyUI's CogVideoX, Kohya": Naming(
        "diffusers", lambda m: f"lora_unet_{_flat(comfyui_name(m))}", KOHYA, alpha=True
    ),
    "Kohya": Naming("diffusers", lambda m: f"lora_unet_{_flat(m)}", KOHYA, alpha=True),
    "Kohya, PEFT's sides": Naming("diffusers", lambda m: f"lora_unet_{_flat(m)}", PEFT, alpha=True),
    "Kohya, transformer": Naming("diffusers", lambda m: f"lora_transformer_{_flat(m)}", KOHYA, alpha=True),
    "CogVideoX-Fun": Naming("diffusers", lambda m: f"lora_unet__{_flat(m)}", KOHYA, alpha=True),
    "LyCORIS": Naming("diffusers", lambda m: f"lycoris_{_flat(m)}", KOHYA, alpha=True),
    "LyCORIS, transformer": Naming("diffusers", lambda m: f"lycoris_transformer_{_flat(m)}", KOHYA, alpha=True),
    "compiled": Naming("diffusers", "transformer._orig_mod.{}".format),
    "compiled, Kohya": Naming("diffusers", lambda m: f"lora_unet__orig_mod_{_flat(m)}", KOHYA, alpha=True),
    "compiled by blocks": Naming("diffusers", lambda m: re.sub(r"(blocks\.\d+)", r"transformer.\1._orig_mod", m)),
    "DDP": Naming("diffusers", "module.{}".format),
    "DDP of PEFT": Naming("diffusers", "module.base_model.model.{}".format, PEFT_NAMED),
    "FSDP": Naming(
        "diffusers", lambda m: re.sub(r"(blocks\.\d+)", r"_fsdp_wrapped_module.\1._checkpoint_wrapped_module", m)
    ),
    "DeepSpeed": Naming("diffusers", "_forward_module.module.{}".format),
    "published": Naming("published", "model.diffusion_model.{}".format, SAT),
    "published, bare": Naming("published", "{}".format, SAT),
    "published, PEFT": Naming("published", "model.diffusion_model.{}".format, fused=True),
}


def lora_file(pairs: LoraPairs, path: Path, naming: str) -> Path:
    """A file of another program; every scale in it is 1 (published: 1 / rank)."""
    save_file(NAMINGS[naming].tensors(pairs), path, metadata={"format": "pt"})
    return path


def diffusers_names(pairs: LoraPairs) -> dict[str, Tensor]:
    """``transformer.transformer_blocks.0.attn1.to_q.lora_A.weight`` and its like."""
    return NAMINGS["diffusers"].tensors(pairs)


def every_product(model: FlashVideoTransformer3DModel) -> LoraPairs:
    """A LoRA of every matrix product of a transformer."""
    generator, pairs = torch.Generator().manual_seed(3), {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            down = torch.randn(2, module.in_features, generator=generator)
            pairs[name] = (down, torch.randn(module.out_features, 2, generator=generator) * 0.1)
    return pairs


def _pieces(pairs: LoraPairs, layout: str, *, fused: bool) -> LoraPairs:
    """Pairs of a layout's modules, fused ones cut apart; a published module's partitions as ``module#index``."""
    pieces: dict[str, tuple[Tensor, Tensor]] = {}
    layers = transformer_layout(layout, LAYERS)
    for module, pair in pairs.items():
        whole = layers[module][0].module
        if module.endswith("qkv") and fused:
            pieces[whole.replace("to_q", "to_qkv")] = pair
        elif module.endswith("qkv") and layout == "published":
            parts = [_cut(pair, Piece("", ((i, i + 1),), 3)) for i in range(3)]
            pieces |= {f"{whole}#{i}": part for i, part in enumerate(parts) if part is not None}
        else:
            parts = {piece.module: _cut(pair, piece) if piece.rows else pair for piece in layers[module]}
            pieces |= {name: part for name, part in parts.items() if part is not None}
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
        Naming("native", "transformer.{}".format).tensors(pairs),
        prefix="transformer",
        network_alphas=alphas,
        adapter_name=name,
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
