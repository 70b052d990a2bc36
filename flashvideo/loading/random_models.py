"""Small models with random weights in every kind of file that is read: the published architectures, a few layers of
them, written as the published files are. They draw nothing; they show that a file is read, and computed, as it should.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.gguf_files import write_gguf
from ..checkpoints.layouts import laid_out, transformer_layout
from ..checkpoints.metadata import STAGES
from ..checkpoints.outputs import replacing
from ..checkpoints.vae_layout import published_vae_name
from ..checkpoints.writing import tensor_plan, write_safetensors
from ..models.network import FlashVideoNetwork
from .convert import convert_checkpoint
from .load import meta_vae

LAYERS, HEADS, LORA_RANK = 2, 2, 4
_STAGE: dict[str, Any] = {
    "num_layers": LAYERS,
    "num_attention_heads": HEADS,
    "text_embed_dim": 64,
    "time_embed_dim": 64,
}
_VAE_WIDTHS = (32, 32, 32, 32)
_PREFIX = "model.diffusion_model."
_WITH_LORA = ("modulation", "qkv", "attn_out")  # of the published Stage I, unmerged; qkv has one for each of the three
GGUF_FORMAT, GGUF_BLOCK = "Q8_0", 32
Pairs = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class RandomStage:
    """A stage's parameters in fp32, by native names.

    Attributes:
        kind: ``stage1`` or ``stage2``.
        merged: with the LoRA.
        base, lora: what Stage I's published file holds instead: weights, and by module their LoRAs' (A, B).
    """

    kind: str
    merged: dict[str, Tensor]
    base: dict[str, Tensor]
    lora: dict[str, Pairs]

    def network(self) -> FlashVideoNetwork:
        """With the merged parameters, in fp32 on the CPU."""
        network = _meta_network(self.kind)
        network.load_state_dict(self.merged, assign=True)
        return network


def random_values(shape: torch.Size, name: str, generator: torch.Generator) -> Tensor:
    """A parameter that keeps activations near 1: norms near 1, biases small, all else by its number of inputs."""
    values = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        return values / shape[1:].numel() ** 0.5
    return values * 0.1 + float("norm" in name and name.endswith("weight"))


def _meta_network(kind: str) -> FlashVideoNetwork:
    extra = kind == "stage2"
    return FlashVideoNetwork(**_STAGE, use_noise_step_embedding=extra, use_frame_count_embedding=extra, device="meta")


def random_stage(kind: str) -> RandomStage:
    """A stage's random parameters, the same at every call."""
    generator = torch.Generator().manual_seed(list(STAGES).index(kind))
    parameters = _meta_network(kind).named_parameters()
    base = {name: random_values(p.shape, name, generator) for name, p in parameters}
    if kind == "stage2":
        return RandomStage(kind, base, base, {})
    lora = {name.removesuffix(".weight"): _random_lora(p, generator) for name, p in base.items() if _has_lora(name)}
    merged = {**base, **{f"{module}.weight": _merged(base[f"{module}.weight"], lora[module]) for module in lora}}
    return RandomStage(kind, merged, base, lora)


def _has_lora(name: str) -> bool:
    module, _, leaf = name.rpartition(".")
    return leaf == "weight" and module.startswith("layers.") and module.endswith(_WITH_LORA)


def _random_lora(weight: Tensor, generator: torch.Generator) -> Pairs:
    rows, columns = weight.shape
    parts = 3 if rows == 3 * columns else 1
    sizes = ((LORA_RANK, columns), (rows // parts, LORA_RANK))
    return [
        (torch.randn(sizes[0], generator=generator), torch.randn(sizes[1], generator=generator) / columns**0.5)
        for _ in range(parts)
    ]


def _merged(weight: Tensor, pairs: Pairs) -> Tensor:
    """``W + B A / rank``, in double precision."""
    return (weight.double() + torch.cat([up.double() @ down.double() for down, up in pairs]) / LORA_RANK).float()


def write_published_stage(stage: RandomStage, path: Path) -> Path:
    """As the authors' ``stage1.pt`` and ``stage2.pt`` are: their names, LoRAs unmerged, patches as a convolution."""
    layout = transformer_layout("published", LAYERS)
    stored = laid_out(stage.base, layout)
    for module, pairs in stage.lora.items():
        name = layout[module][0].module
        for leaf in ("weight", "bias"):
            stored[f"{name}.original.{leaf}"] = stored.pop(f"{name}.{leaf}")
        for index, (down, up) in enumerate(pairs):
            stored |= {f"{name}.matrix_A.{index}": down, f"{name}.matrix_B.{index}": up}
    stored = _with_convolution(stored, "mixins.patch_embed.proj.weight")
    with replacing(path) as temporary:
        torch.save({"module": {f"{_PREFIX}{name}": tensor for name, tensor in stored.items()}}, temporary)
    return path


def write_cogvideox_stage(stage: RandomStage, path: Path, kind: str) -> Path:
    """Stage I as a CogVideoX transformer in safetensors.

    Args:
        kind: ``diffusers`` or ``comfyui``: whose names.
    """
    stored = laid_out(stage.merged, transformer_layout(kind, LAYERS))
    return write_safetensors(path, tensor_plan(_with_convolution(stored, "patch_embed.proj.weight")), {})


def _with_convolution(stored: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {**stored, name: stored[name].unflatten(1, (-1, 2, 2))}


def write_native_stage(stage: RandomStage, path: Path, dtype: str, folder: Path) -> Path:
    """As ``flashvideo convert`` writes it.

    Args:
        dtype: of the file: ``fp32``, ``bf16``, ``fp16`` or ``fp8_e4m3``.
        folder: of the file that is converted.
    """
    source = write_safetensors(
        folder / f"{stage.kind}-native.safetensors", tensor_plan(stage.merged), {}, overwrite=True
    )
    return convert_checkpoint(source, path, kind=stage.kind, dtype=dtype)


def write_gguf_stage(stage: RandomStage, path: Path) -> Path:
    """The layers' matrices in blocks of 8 bits.

    Raises:
        ImportError: the package ``gguf`` is missing.
    """
    from gguf import GGMLQuantizationType, quants

    kind = GGMLQuantizationType[GGUF_FORMAT]
    tensors: dict[str, tuple[Any, str]] = {}
    for name, tensor in stage.merged.items():
        packed = name.startswith("layers.") and tensor.ndim == 2 and tensor.shape[1] % GGUF_BLOCK == 0
        values = tensor.numpy()
        tensors[name] = (quants.quantize(values, kind), GGUF_FORMAT) if packed else (values, "F32")
    return write_gguf(path, tensors)


def vae_config() -> dict[str, Any]:
    """Of :func:`random_vae`, for :func:`~flashvideo.loading.load.meta_vae`."""
    return {"block_out_channels": _VAE_WIDTHS, "layers_per_block": 1}


def random_vae() -> dict[str, Tensor]:
    """A VAE's random parameters by diffusers' names; what it decodes stays within the range of colours."""
    generator = torch.Generator().manual_seed(2)
    state = {n: random_values(p.shape, n, generator) for n, p in meta_vae(vae_config()).named_parameters()}
    state["decoder.conv_out.conv.weight"] *= 0.3
    return state


def write_published_vae(state: Mapping[str, Tensor], path: Path) -> Path:
    """As the authors' ``3d-vae.pt`` is."""
    levels = len(_VAE_WIDTHS)
    with replacing(path) as temporary:
        torch.save({"state_dict": {published_vae_name(n, levels): t for n, t in state.items()}}, temporary)
    return path
