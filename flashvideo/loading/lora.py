"""LoRA files of every naming as pairs of the native modules, and files with native names.

Inside, a LoRA is ``{native module: (A [r, in], B [out, r])}`` with every scale folded into B: the change is ``B A``.
Adapters of diffusers' separate q, k, v become one block-diagonal adapter of the fused product.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.files import DTYPE_NAMES, TensorInfo, WeightFile, name_list, open_weights
from ..checkpoints.layouts import Piece
from ..checkpoints.lora_names import (
    LoraName,
    is_of_text_encoder,
    is_whole_parameter,
    other_kind,
    parse_lora_name,
    resolve_module,
)
from ..checkpoints.metadata import CheckpointMetadata
from ..checkpoints.writing import tensor_plan, write_safetensors
from ..method.student import Student
from .lora_scale import LoraScale, lora_alpha, read_scales, shown

log = logging.getLogger(__name__)

LoraPairs = Mapping[str, tuple[Tensor, Tensor]]  # native module -> (A [r, in], B [out, r]); the change is B A


@dataclass(frozen=True)
class LoraModule:
    """One pair of a file.

    Attributes:
        name: of what it changes, as the file writes it.
        native: the native module that this is or is part of.
        piece: which part.
        index: the partition of a published LoRA's, whose rows follow one another; ``None`` for others.
        down: A.
        up: B, without its scale.
        scale: what B A is multiplied by.
    """

    name: str
    native: str
    piece: Piece
    index: int | None
    down: TensorInfo
    up: TensorInfo
    scale: LoraScale

    @property
    def rank(self) -> int:
        return self.down.shape[0]


@dataclass(frozen=True)
class LoraFile:
    """An opened LoRA: what it changes and how strongly, from headers alone.

    Attributes:
        notes: what people should know: contradicting scales, and what was not used.
    """

    path: Path
    modules: tuple[LoraModule, ...]
    notes: tuple[str, ...]

    def pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Its pairs, scales folded in, in fp32.

        Raises:
            ValueError: values that are no numbers, or pairs that do not fit together.
        """
        return {native: _fuse(self.path, native, parts) for native, parts in self.by_native().items()}

    def by_native(self) -> dict[str, list[LoraModule]]:
        """Native module -> its parts, in the order of their rows."""
        grouped: dict[str, list[LoraModule]] = {}
        for module in sorted(self.modules, key=lambda module: (module.native, module.index or 0, module.piece.rows)):
            grouped.setdefault(module.native, []).append(module)
        return grouped


def open_lora(path: str | Path) -> LoraFile:
    """Open a LoRA of any naming: PEFT's, diffusers', Kohya's, CogVideoX-Fun's, ComfyUI's, published or native.

    Raises:
        ValueError: names that match nothing, incomplete or ill-shaped pairs, another kind of adapter, a scale that is
            stated in half or in no numbers.
    """
    weights = open_weights(path)
    sides, alphas = _sides(weights)
    scales = read_scales(weights)
    modules, names = [], []
    for (native, piece, index), entry in sides.items():
        (first, down), (_, up) = entry["A"], entry["B"]
        _check_shapes(f"{weights.path}: the LoRA of {first.module}", down, up)
        names.append(tuple(dict.fromkeys((first.module.removeprefix("base_model.model."), piece.module, first.module))))
        alpha = alphas.get((native, piece))
        scale = scales.of(names[-1], down.shape[0], alpha, published=first.index is not None, bare=first.bare)
        modules.append(LoraModule(first.module, native, piece, index, down, up, scale))
    lora = LoraFile(weights.path, tuple(modules), scales.all_notes(names))
    for native, parts in lora.by_native().items():
        _rows(weights.path, native, parts)
    return lora


def read_lora(path: str | Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Read a LoRA of any naming; see :func:`open_lora`. What people should know of its scales is logged.

    Raises:
        ValueError: a file that :func:`open_lora` refuses, or values that are no numbers.
    """
    lora = open_lora(path)
    for note in lora.notes:
        log.warning("%s: %s", lora.path, note)
    return lora.pairs()


_Sides = dict[str, tuple[LoraName, TensorInfo]]


def _sides(weights: WeightFile) -> tuple[dict[tuple[str, Piece, int | None], _Sides], dict[tuple[str, Piece], float]]:
    """A and B of every (native module, piece, partition), and the alphas of (native module, piece)."""
    sides: dict[tuple[str, Piece, int | None], _Sides] = {}
    alphas: dict[tuple[str, Piece], float] = {}
    unknown, twice = [], []
    numbers = [n for n in weights.extra if (parsed := parse_lora_name(n)) and parsed.side == "alpha"]
    for name in (*weights.tensors, *numbers):
        parsed = parse_lora_name(name)
        target = resolve_module(parsed.module) if parsed else None
        if parsed is None or target is None:
            unknown.append(name)
        elif parsed.side == "alpha":
            twice += [name] if target in alphas else []
            alphas[target] = _alpha(weights, name)
        else:
            entry = sides.setdefault((*target, parsed.index), {})
            twice += [name] if parsed.side in entry else []
            entry[parsed.side] = (parsed, weights.tensors[name])
    if unknown:
        raise ValueError(f"{weights.path}: {_why_unknown(unknown, len(weights.tensors))}")
    if twice:
        raise ValueError(f"{weights.path} has two adapters of one module ({name_list(twice)}). Use a file with one.")
    half = {piece.module for (_, piece, _), entry in sides.items() if len(entry) < 2}
    half |= {piece.module for _, piece in alphas.keys() - {key[:2] for key in sides}}
    if half or not sides:
        raise ValueError(
            f"{weights.path}: the LoRA of {name_list(half)} is incomplete: it needs both A (down) and B (up)."
        )
    return sides, alphas


def _why_unknown(names: list[str], total: int) -> str:
    """Why a file with these names is not read."""
    for name in names:
        if kind := other_kind(name):
            return f"{name} belongs to another kind of adapter ({kind}); only plain LoRA is read."
    if text := [name for name in names if is_of_text_encoder(name)]:
        return f"it changes the text encoder ({name_list(text)}); only LoRAs of the transformer alone are read."
    whole = [name for name in names if is_whole_parameter(name)]
    if whole:
        return (
            f"it has weights or biases that were trained beside the LoRA ({name_list(whole)}); only plain LoRA is "
            "read. Merge it into its model with the program that made it, and load that."
        )
    return (
        f"{len(names)} of {total} keys match no module of the transformer ({name_list(names)}). Use a LoRA that was "
        "made for this model."
    )


def _alpha(weights: WeightFile, name: str) -> float:
    """A module's alpha, which old pickles have as a plain number."""
    value = weights.extra.get(name)
    if name in weights.tensors:
        info = weights.tensors[name]
        numbers = torch.Size(info.shape).numel()
        value = info.read().float().reshape(-1)[0].item() if numbers == 1 else list(info.shape)
    return lora_alpha(value, f"{weights.path}: {name} is {shown(value)}")


def _check_shapes(where: str, down: TensorInfo, up: TensorInfo) -> None:
    shapes = f"A {list(down.shape)} and B {list(up.shape)}"
    if not (down.dtype.is_floating_point and up.dtype.is_floating_point):
        raise ValueError(f"{where} is stored as {down.dtype} and {up.dtype}; expected floating point. Get it as bf16.")
    if len(down.shape) < 2 or len(up.shape) < 2 or 0 in (*down.shape, *up.shape) or set(up.shape[2:]) - {1}:
        raise ValueError(f"{where} has {shapes}; expected [rank, in] and [out, rank], none of them 0.")
    if up.shape[1] != down.shape[0]:
        raise ValueError(f"{where} has ranks {down.shape[0]} and {up.shape[1]} ({shapes}); they must be equal.")


def _rows(path: Path, native: str, parts: list[LoraModule]) -> tuple[int, list[list[tuple[int, int]]]]:
    """Rows of a native module, and those of them that each part changes."""
    stacked = [part for part in parts if part.index is not None]
    if [part.index for part in stacked] != list(range(len(stacked))):
        raise ValueError(f"{path}: the LoRA of {stacked[0].name} is incomplete: partitions are missing.")
    totals, ranges = set(), []
    height = sum(part.up.shape[0] for part in stacked)
    start = 0
    for part in parts:
        rows = part.up.shape[0]
        if part.piece.rows:
            total, rest = divmod(rows * part.piece.parts, sum(stop - start for start, stop in part.piece.rows))
            ranges.append(part.piece.row_ranges(total))
            totals |= {total, total + rest}
        elif part.index is not None:
            ranges.append([(start, start + rows)])
            start += rows
            totals.add(height)
        else:
            ranges.append([(0, rows)])
            totals.add(rows)
    if len(totals) > 1 or len({part.down.shape[1:] for part in parts}) > 1:
        shapes = ", ".join(f"{part.name} {list(part.down.shape)}, {list(part.up.shape)}" for part in parts)
        raise ValueError(f"{path}: the LoRAs of {native} do not fit together: {shapes}.")
    return totals.pop(), ranges


def _fuse(path: Path, native: str, parts: list[LoraModule]) -> tuple[Tensor, Tensor]:
    """One pair out of the parts' pairs: A stacked, B placed in each part's rows."""
    total, ranges = _rows(path, native, parts)
    downs, ups = [], []
    for rows, part in zip(ranges, parts, strict=True):
        down, up = (side.read().float().flatten(1) for side in (part.down, part.up))
        up = up * part.scale.value
        if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
            raise ValueError(f"{path}: the LoRA of {part.name} has values that are no finite numbers. Get it again.")
        if rows != [(0, total)]:
            placed = torch.zeros(total, part.rank)
            for (start, stop), section in zip(rows, up.split([stop - start for start, stop in rows]), strict=True):
                placed[start:stop] = section
            up = placed
        downs.append(down)
        ups.append(up)
    return (torch.cat(downs), torch.cat(ups, dim=1)) if len(parts) > 1 else (downs[0], ups[0])


def save_lora(
    pairs: LoraPairs,
    path: str | Path,
    *,
    overwrite: bool = False,
    source_sha256: str = "",
    dtype: torch.dtype = torch.float32,
    student: Student | None = None,
) -> Path:
    """Write a LoRA as safetensors, atomically, under native names: ``diffusion_model.layers.0.qkv.lora_A.weight``.

    ComfyUI's own loaders read them. In fp32, the scales that are folded into B lose nothing.

    Raises:
        ValueError: an output that cannot be written, or values that ``dtype`` has no numbers for.
    """
    state = {
        f"diffusion_model.{module}.lora_{side}.weight": tensor.to(dtype).contiguous()
        for module, pair in pairs.items()
        for side, tensor in zip("AB", pair, strict=True)
    }
    if too_large := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]:
        raise ValueError(f"{path}: {name_list(too_large)} are too large for {DTYPE_NAMES[dtype]}. Write fp32 or bf16.")
    header = CheckpointMetadata(
        kind="lora",
        dtype=DTYPE_NAMES[dtype],
        source_sha256=source_sha256,
        student=None if student is None else student.to_table(),
    )
    return write_safetensors(path, tensor_plan(state), header.header(), overwrite=overwrite)


def check_lora_fits(name: str, pairs: LoraPairs, shapes: Mapping[str, tuple[int, ...]], model: str) -> None:
    """Raise ValueError unless a LoRA changes weights that a model has.

    Args:
        name: of the LoRA, for the message.
        shapes: of the model's parameters.
        model: its name, for the message.
    """
    wrong = [m for m, (down, up) in pairs.items() if shapes.get(f"{m}.weight") != (up.shape[0], down.shape[1])]
    if wrong:
        raise ValueError(
            f"{name} does not fit {model}: {name_list(wrong)} have other shapes or no counterpart. Use a LoRA that "
            "was made for this stage and size of model."
        )
