"""Converting checkpoints to native safetensors."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.files import DTYPE_NAMES, WeightFile, open_weights, sha256
from ..checkpoints.lora_names import is_lora
from ..checkpoints.metadata import CheckpointMetadata, read_metadata
from ..checkpoints.outputs import check_writable
from ..checkpoints.parts import model_part, parts_of
from ..checkpoints.paths import expanded
from ..checkpoints.writing import TensorPlan, write_safetensors
from .load import vae_names, vae_overrides
from .lora import read_lora, save_lora
from .source import TransformerSource, open_transformer, stored_student

log = logging.getLogger(__name__)

KINDS = ("stage1", "stage2", "vae", "lora")
FP8 = torch.float8_e4m3fn
_FP8_MAX = torch.finfo(FP8).max
_LINEARS = ("modulation", "qkv", "attn_out", "mlp_up", "mlp_down")  # the layers' linear weights: 99 % of the file
OUTPUT_DTYPES = {DTYPE_NAMES[dtype]: dtype for dtype in (torch.float32, torch.bfloat16, torch.float16, FP8)}


def parse_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """``bf16``, ``torch.bfloat16`` ... -> a dtype that files are written in.

    Raises:
        ValueError: another one.
    """
    if dtype is None:
        return None
    names = {str(value).removeprefix("torch."): value for value in OUTPUT_DTYPES.values()}
    chosen = {**OUTPUT_DTYPES, **names}.get(str(dtype).removeprefix("torch."))
    if chosen is None:
        raise ValueError(f"dtype {dtype!r} is not supported; expected one of {', '.join(OUTPUT_DTYPES)}.")
    return chosen


def detect_kind(weights: WeightFile, wanted: str | None = None) -> str:
    """``stage1``, ``stage2``, ``vae`` or ``lora``, from names and shapes; of several, the wanted or the transformer.

    Raises:
        ValueError: none of them.
    """
    parts = parts_of(weights.tensors)
    if "vae" in parts and (wanted == "vae" or "transformer" not in parts):
        return "vae"
    if not parts and is_lora(list(weights.tensors)):
        return "lora"
    return open_transformer(weights.path).kind


def convert_checkpoint(
    src: str | Path,
    dst: str | Path,
    *,
    kind: str | None = None,
    dtype: str | torch.dtype | None = None,
    overwrite: bool = False,
) -> Path:
    """Convert a checkpoint to native safetensors, written atomically, one tensor in memory at a time.

    Transformers get native names with LoRA merged, one whole contiguous tensor a parameter; the VAE gets diffusers'
    names (ComfyUI's are the same); LoRAs get native names. The header says what the file is and what it came from.

    Args:
        src: any supported file or folder.
        dst: the ``.safetensors`` to write.
        kind: ``stage1``, ``stage2``, ``vae`` or ``lora``; default: what it is. Given, it must be right.
        dtype: ``fp32``, ``bf16``, ``fp16`` or ``fp8_e4m3`` (the layers' linear weights with a scale each, the rest in
            bf16; storage only; not for LoRAs); default: the source's, fp32 for LoRAs, whose scales are folded in.

    Raises:
        ValueError: bad input, before anything is written.
    """
    src, dst = expanded(src), expanded(dst)
    chosen = parse_dtype(dtype)
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}.")
    if dst.suffix != ".safetensors":
        raise ValueError(f"{dst} must end in .safetensors: that is what is written.")
    check_writable(dst, overwrite=overwrite)
    weights = open_weights(src, "vae" if kind == "vae" else "")
    if dst.exists() and any(dst.samefile(file) for file in weights.files):
        raise ValueError(f"{dst} is what would be read, and is kept. Give another output.")
    detected = detect_kind(weights, kind)
    if kind is not None and kind != detected:
        raise ValueError(f"{src} is a {detected} checkpoint, not {kind}. Give the right file, or leave kind out.")
    if detected == "lora":
        return _convert_lora(weights, dst, chosen, overwrite)
    if detected == "vae":
        return _convert_vae(weights, dst, chosen, overwrite)
    return _convert_transformer(open_transformer(src), dst, chosen, overwrite)


def _convert_lora(weights: WeightFile, dst: Path, dtype: torch.dtype | None, overwrite: bool) -> Path:
    if dtype == FP8:
        raise ValueError("LoRAs are not written in fp8: they are small, and lose much. Use fp32, bf16 or fp16.")
    pairs = read_lora(weights.path)
    return save_lora(
        pairs,
        dst,
        overwrite=overwrite,
        source_sha256=sha256(weights.files),
        dtype=dtype or torch.float32,
        student=stored_student(weights),
    )


def _convert_vae(weights: WeightFile, dst: Path, dtype: torch.dtype | None, overwrite: bool) -> Path:
    if dtype == FP8:
        raise ValueError("The VAE has no linear weights: fp8 does not apply. Use bf16 or fp16.")
    weights = model_part(weights, "vae").weights
    dtype = dtype or weights.compute_dtype()
    config, mapping = vae_names(weights)
    plan = {
        name: (weights.tensors[old].shape, dtype, partial(weights.tensors[old].load, dtype))
        for name, old in sorted(mapping.items())
    }
    header = CheckpointMetadata(
        kind="vae",
        dtype=DTYPE_NAMES[dtype],
        source_sha256=sha256(weights.files),
        latent_scale=read_metadata(weights).latent_scale,
        config={**config, **vae_overrides(weights)},
    )
    return write_safetensors(dst, plan, header.header(), overwrite=overwrite)


def _convert_transformer(source: TransformerSource, dst: Path, dtype: torch.dtype | None, overwrite: bool) -> Path:
    source.check()
    dtype = dtype or _own_dtype(source)
    header = CheckpointMetadata(
        kind=source.kind,
        dtype=DTYPE_NAMES[dtype],
        source_sha256=sha256(source.weights.files),
        latent_scale=source.latent_scale,
        config=source.config,
        student=None if source.student is None else source.student.to_table(),
    ).header()
    plan: dict[str, Any] = {}
    quantized: dict[str, dict[str, str]] = {}
    for name in source.parts:
        shape = source.shape(name)
        module, _, leaf = name.rpartition(".")
        if dtype == FP8 and leaf == "weight" and module.startswith("layers.") and module.endswith(_LINEARS):
            quantizer = _Fp8Weight(source, name)
            plan[name] = (shape, FP8, quantizer.weight)
            plan[f"{module}.weight_scale"] = ((), torch.float32, quantizer.scale)
            quantized[module] = {"format": "float8_e4m3fn"}
        else:
            stored = torch.bfloat16 if dtype == FP8 else dtype
            plan[name] = (shape, stored, partial(source.read, name, stored))
    if quantized:  # the header by which ComfyUI recognises scaled fp8
        header["_quantization_metadata"] = json.dumps({"format_version": "1.0", "layers": quantized})
    typed_plan: TensorPlan = plan
    return write_safetensors(dst, typed_plan, header, overwrite=overwrite)


def _own_dtype(source: TransformerSource) -> torch.dtype:
    """The file's dtype; bf16 for storage that is not written here, since rounding it again would change it."""
    weights = source.weights
    quantized = [info.quantized for info in weights.tensors.values() if info.quantized is not None]
    same = all(weight.scalar and weight.format == "float8_e4m3fn" for weight in quantized)
    return FP8 if quantized and same and weights.main_dtype() == FP8 else weights.compute_dtype()


class _Fp8Weight:
    """One linear weight as fp8 with a scale: the largest magnitude becomes fp8's largest number."""

    def __init__(self, source: TransformerSource, name: str) -> None:
        self.source, self.name = source, name
        self._scale = torch.ones(())

    def weight(self) -> Tensor:
        full = self.source.read(self.name, torch.float32)
        largest = full.abs().max()
        self._scale = torch.where(largest > 0, largest / _FP8_MAX, torch.ones(()))
        return (full / self._scale).clamp(-_FP8_MAX, _FP8_MAX).to(FP8)

    def scale(self) -> Tensor:
        """Valid after :meth:`weight`, which is written first."""
        return self._scale
