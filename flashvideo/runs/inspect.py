"""What is this file? Kind, architecture, what is missing, damaged values, and whether it fits into memory."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.checksums import DamagedFileError
from ..checkpoints.files import DTYPE_NAMES, WeightFile, open_weights, row_blocks
from ..checkpoints.lora_names import is_lora
from ..checkpoints.metadata import CheckpointMetadata, read_metadata
from ..checkpoints.parts import model_part, parts_of
from ..checkpoints.t5_layout import read_layout
from ..checkpoints.vae_layout import is_published_vae
from ..loading.load import vae_names, whole_vae
from ..loading.lora import open_lora
from ..loading.lora_scale import LoraScale
from ..loading.source import TransformerSource, open_transformer, stored_student
from ..loading.text import meta_encoder
from ..method.student import Student

log = logging.getLogger(__name__)

_T5_MARK = "encoder.final_layer_norm.weight"


@dataclass(frozen=True)
class ScaleGroup:
    """Modules that a LoRA changes with one scale.

    Attributes:
        scale: what B A is multiplied by; ``formula``: how it comes about; ``source``: where that is stated.
        modules: as the file names them.
    """

    scale: float
    formula: str
    source: str
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """Findings on a checkpoint.

    Attributes:
        kind: ``stage1``, ``stage2``, ``vae``, ``lora``, ``text``, ``preview`` or ``unknown``.
        layout: ``published``, ``diffusers`` or ``native``; of a file of latents, what its latents are; else "".
        parameters: elements that the model uses; ``dtypes``: elements in each dtype.
        config: the architecture; of a file of latents, its settings.
        lora_rank: of a LoRA, or of the one that a file carries unmerged; of several, the largest.
        lora_scales: the scales with which that LoRA is applied.
        notes: what people should know, though nothing is wrong.
        problems: why it would not load; empty for a sound file.
        ballast: entries that are skipped.
        damaged: tensors with NaN or infinite values.
        also: other models that the file holds: ``vae``, ``text``.
        student: what a transformer was distilled for, or a LoRA makes it one for.
        bytes_bf16: memory that the model takes in bf16.
    """

    path: Path
    kind: str
    layout: str = ""
    container: str = ""
    file_bytes: int = 0
    parameters: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    lora_rank: int = 0
    lora_scales: tuple[ScaleGroup, ...] = ()
    notes: tuple[str, ...] = ()
    metadata: CheckpointMetadata = field(default_factory=CheckpointMetadata)
    problems: tuple[str, ...] = ()
    ballast: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    student: Student | None = None

    @property
    def sound(self) -> bool:
        return self.kind != "unknown" and not self.problems and not self.damaged

    @property
    def bytes_bf16(self) -> int:
        return 2 * self.parameters


def inspect_checkpoint(path: str | Path, *, values: bool = True) -> Inspection:
    """Look into a checkpoint without building a model.

    Args:
        values: also read every tensor and look for NaN and infinity.

    Raises:
        ValueError: a file that cannot be read at all.
    """
    weights = open_weights(path)
    names = list(weights.tensors)
    parts = parts_of(names)
    facts: dict[str, Any] = {"kind": "unknown"}
    if "flashvideo.preview" in weights.metadata:
        facts = _record_facts(weights)
    elif parts[:1] == ("transformer",):
        facts = _transformer_facts(weights)
    elif parts[:1] == ("vae",):
        facts = _vae_facts(weights)
    elif is_lora(names):
        facts = _lora_facts(weights)
    elif any(name.endswith(_T5_MARK) for name in names):
        facts = _text_facts(weights)
    else:
        facts = _transformer_facts(weights)
    dtypes: dict[str, int] = {}
    for info in weights.tensors.values():
        label = DTYPE_NAMES.get(info.dtype, str(info.dtype).removeprefix("torch."))
        dtypes[label] = dtypes.get(label, 0) + torch.Size(info.shape).numel()
    facts = {"parameters": sum(dtypes.values()), "metadata": read_metadata(weights), **facts}
    changed, damaged = _read_values(weights) if values else ((), ())
    facts["problems"] = tuple(dict.fromkeys((*facts.get("problems", ()), *changed)))
    return Inspection(
        path=weights.path,
        container=weights.container,
        file_bytes=sum(file.stat().st_size for file in weights.files),
        dtypes=dtypes,
        also=parts[1:],
        damaged=damaged,
        **facts,
    )


def _vae_facts(weights: WeightFile) -> dict[str, Any]:
    facts: dict[str, Any] = {"kind": "vae"}
    try:
        part = model_part(weights, "vae")
        vae, tensors = part.weights, part.weights.tensors
        facts["layout"] = "published" if is_published_vae(tensors) else "diffusers"
        facts["metadata"] = read_metadata(vae)
        facts["config"], mapping = vae_names(vae)
        facts["parameters"] = sum(torch.Size(tensors[name].shape).numel() for name in mapping.values())
        left = (tensors[name].name for name in set(tensors) - set(mapping.values()))
        facts["ballast"] = tuple(sorted((*left, *part.outside)))
        whole_vae(vae)
    except ValueError as error:
        facts["problems"] = (str(error),)
    return facts


def _record_facts(weights: WeightFile) -> dict[str, Any]:
    from .record import load_record

    try:
        record = load_record(weights.path)
    except ValueError as error:
        return {"kind": "preview", "problems": (str(error),)}
    return {"kind": "preview", "layout": record.content, "config": record.description()}


def _text_facts(weights: WeightFile) -> dict[str, Any]:
    try:
        layout = read_layout(weights)
        meta_encoder(layout)
    except ValueError as error:
        return {"kind": "text", "problems": (str(error),)}
    return {"kind": "text", "config": layout.config}


def _lora_facts(weights: WeightFile) -> dict[str, Any]:
    try:
        lora = open_lora(weights.path)
    except ValueError as error:
        return {"kind": "lora", "problems": (str(error),)}
    return {
        "kind": "lora",
        "lora_rank": max(module.rank for module in lora.modules),
        "lora_scales": _scale_groups((module.name, module.scale) for module in lora.modules),
        "notes": lora.notes,
        "student": stored_student(weights),
    }


def _scale_groups(scales: Iterable[tuple[str, LoraScale]]) -> tuple[ScaleGroup, ...]:
    groups: dict[LoraScale, dict[str, None]] = {}
    for module, scale in scales:
        groups.setdefault(scale, {})[module] = None
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    return tuple(ScaleGroup(scale.value, scale.formula, scale.source, tuple(names)) for scale, names in ordered)


def _transformer_facts(weights: WeightFile) -> dict[str, Any]:
    try:
        source: TransformerSource = open_transformer(weights.path)
    except ValueError as error:
        return {"kind": "unknown", "problems": (str(error),)}
    problems = []
    for label, names in (
        ("missing", source.missing),
        ("unexpected", source.unexpected),
        ("wrong shape", source.shape_errors),
    ):
        problems += [f"{label}: {name}" for name in names]
    return {
        "kind": source.kind,
        "layout": source.layout.kind,
        "metadata": read_metadata(source.weights),
        "config": source.config,
        "student": source.student,
        "lora_rank": source.lora_rank,
        "lora_scales": _scale_groups(
            (part.name.removesuffix(".weight"), LoraScale.published(source.lora_rank))
            for parts in source.parts.values()
            for part in parts
            if part.lora
        ),
        "parameters": sum(
            torch.Size(source.weights.tensors[part.name].shape).numel()
            for parts in source.parts.values()
            for part in parts
        ),
        "problems": tuple(problems),
        "ballast": (*source.ballast, *source.outside),
    }


def _read_values(weights: WeightFile) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of all tensors: what is said of those that changed since they were written, and names of those with NaN."""
    changed, damaged = [], []
    for name, info in weights.tensors.items():
        try:
            if _has_nan(info.read()):
                damaged.append(name)
        except DamagedFileError as error:
            changed.append(str(error))
    return tuple(changed), tuple(damaged)


def _has_nan(tensor: torch.Tensor) -> bool:
    """Whether values are NaN or infinite, looked at some rows at a time."""
    if not tensor.is_floating_point():
        return False
    rows = tensor[None] if tensor.ndim == 0 else tensor
    blocks = (rows[start:stop] for start, stop in row_blocks(0, len(rows), torch.Size(rows.shape[1:]).numel()))
    return not all(torch.isfinite(block.float() if block.itemsize == 1 else block).all() for block in blocks)
