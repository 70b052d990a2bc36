"""Weights as ComfyUI reads them itself: whole tensors of a safetensors file, which it can stream and compute with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import comfy.utils
import torch
from comfy.quant_ops import QUANT_ALGOS
from torch import Tensor

from ...flashvideo.checkpoints.checksums import compare
from ...flashvideo.checkpoints.files import TensorInfo, WeightFile
from ...flashvideo.checkpoints.quantized import QuantizedWeight

_EMBEDDINGS = ("shared.weight", "relative_attention_bias.weight")  # of which ComfyUI takes rows, in few formats
_ROW_FORMATS = {"float8_e4m3fn", "float8_e5m2", "int8_tensorwise"}


def streamed_state(
    weights: WeightFile, tensors: Mapping[str, TensorInfo]
) -> tuple[dict[str, Tensor], dict[str, Any] | None] | None:
    """(parameters by the model's names, quantisation for ComfyUI); None where they have to be put together in memory.

    Args:
        weights: the file.
        tensors: the model's name of a parameter -> the file's tensor, which is all of it.
    """
    quantized = {name: info.quantized for name, info in tensors.items() if isinstance(info.quantized, QuantizedWeight)}
    if weights.kind != "safetensors" or not weights.path.is_file():
        return None
    if not all(_is_native(name, weight) for name, weight in quantized.items()):
        return None
    raw = comfy.utils.load_torch_file(str(weights.path))
    compare(weights.path, raw, weights.metadata)
    state = {
        name: raw[info.name].flatten(1) if len(info.shape) == 4 else raw[info.name]  # convolutions of patches
        for name, info in tensors.items()
    }
    precise = _products_in_full_precision(raw)
    for name, weight in quantized.items():
        module = name.removesuffix(".weight")
        config = {**weight.config, "format": weight.format}
        if not weight.config and precise:
            config["full_precision_matrix_mult"] = True
        state[f"{module}.comfy_quant"] = torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)
        for leaf, note in weight.notes.items():
            value = raw[note.name]
            if note.name.endswith("scale_input") and value.item() == 1:
                continue  # ComfyUI's old way to say that there is none
            state[f"{module}.{leaf}"] = value.reshape(()) if value.numel() == 1 else value
    return state, {"mixed_ops": True} if quantized else None


def _is_native(name: str, weight: QuantizedWeight) -> bool:
    """Whether ComfyUI reads a weight as the library does."""
    known: Any = QUANT_ALGOS.get(weight.format)
    if known is None or weight.values.dtype != known["storage_t"]:
        return False
    if name.endswith(_EMBEDDINGS) and weight.format not in _ROW_FORMATS:
        return False
    if not known["parameters"].issuperset(weight.notes):
        return False
    if weight.format in ("mxfp8", "nvfp4"):
        return True
    by_rows = weight.format == "int8_tensorwise" and weight.notes["weight_scale"].shape == (weight.shape[0], 1)
    return len(weight.shape) == 2 and (weight.scalar or by_rows)


def _products_in_full_precision(raw: Mapping[str, Tensor]) -> bool:
    """What old files say by the size of a marker; a file that says nothing is read as it is meant, exactly."""
    markers = [tensor for name, tensor in raw.items() if name.split(".")[-1] == "scaled_fp8"]
    return not markers or any(marker.numel() == 2 for marker in markers)
