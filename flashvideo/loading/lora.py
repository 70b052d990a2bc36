"""LoRA files of every naming as pairs of the native modules, and files with native names.

Inside, a LoRA is ``{native module: (A [r, in], B [out, r])}`` with every scale folded into B: the change is ``B A``.
Adapters of diffusers' separate q, k, v become one block-diagonal adapter of the fused product.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.files import WeightFile, name_list, open_weights
from ..checkpoints.layouts import Piece, transformer_layout
from ..checkpoints.metadata import CheckpointMetadata
from ..checkpoints.writing import tensor_plan, write_safetensors

LoraPairs = Mapping[str, tuple[Tensor, Tensor]]  # native module -> (A [r, in], B [out, r]); the change is B A

_MOST_LAYERS = 64
_PREFIXES = (
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "lora_unet_",
    "lora_transformer_",
)
_ENDINGS = re.compile(
    r"^(?P<module>.+?)(?:"
    r"\.lora_(?P<ab>[AB])(?:\.[^.]+)?\.weight|"  # PEFT, diffusers, ours
    r"\.lora_(?P<side>down|up)\.weight|\.lora\.(?P<old>down|up)\.weight|"  # Kohya, old diffusers
    r"\.matrix_(?P<matrix>[AB])\.(?P<index>\d+)|"  # published
    r"\.(?P<alpha>alpha))$"
)
_OTHER_KINDS = re.compile(r"\.(hada_w|lokr_w|lora_mid|dora_scale|oft_|boft_|diff(_b)?$|lora_magnitude)|\.glora")


def is_lora(names: Any) -> bool:
    """Whether a file's names are those of a LoRA and nothing else."""
    names = [str(name) for name in names]
    return bool(names) and all(_ENDINGS.match(name) or _OTHER_KINDS.search(name) for name in names)


@lru_cache(maxsize=1)
def _module_table() -> dict[str, tuple[str, Piece]]:
    """Every known name of a module, dotted or with underscores -> (native module, its piece)."""
    table: dict[str, tuple[str, Piece]] = {}
    for kind in ("native", "published", "diffusers"):
        for native, pieces in transformer_layout(kind, _MOST_LAYERS).items():
            for piece in pieces:
                table[piece.module] = table[piece.module.replace(".", "_")] = (native, piece)
    return table


def _resolve(module: str) -> tuple[str, Piece] | None:
    table = _module_table()
    candidates = [module]
    for prefix in _PREFIXES:
        candidates += [name[len(prefix) :] for name in candidates if name.startswith(prefix)]
    return next((table[name] for name in candidates if name in table), None)


def _alphas(weights: WeightFile, folder: Path) -> tuple[float | None, dict[str, float]]:
    """lora_alpha of PEFT's configuration: of all modules, and of single ones."""
    text = weights.metadata.get("lora_adapter_metadata")
    config = json.loads(text) if text else {}
    file = folder / "adapter_config.json"
    if not config and file.is_file():
        config = json.loads(file.read_text(encoding="utf-8"))
    config = {key.removeprefix("transformer."): value for key, value in config.items()}
    return config.get("lora_alpha"), dict(config.get("alpha_pattern") or {})


def read_lora(path: str | Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Read a LoRA of diffusers/PEFT, Kohya, published or native naming.

    Without an alpha the scale is 1, as diffusers has it; with one it is ``alpha / rank``; published files have
    ``1 / rank``.

    Raises:
        ValueError: names that match nothing, incomplete or ill-shaped pairs, or another kind of adapter.
    """
    path = Path(path).expanduser()
    weights = open_weights(path)
    default_alpha, pattern = _alphas(weights, path if path.is_dir() else path.parent)
    sides: dict[tuple[str, Piece, int], dict[str, Tensor]] = {}
    unknown = []
    for name, info in weights.tensors.items():
        match = _ENDINGS.match(name)
        target = _resolve(match["module"]) if match else None
        if _OTHER_KINDS.search(name):
            raise ValueError(
                f"{path}: {name} belongs to another kind of adapter (LoHa, LoKr, DoRA ...); only LoRA is read."
            )
        if match is None or target is None:
            unknown.append(name)
            continue
        side = (
            match["ab"] or match["matrix"] or {"down": "A", "up": "B"}.get(match["side"] or match["old"] or "", "alpha")
        )
        entry = sides.setdefault((*target, int(match["index"] or 0)), {})
        entry[side] = info.read().float()
        if match["matrix"]:
            entry["published"] = torch.ones(())
        if default_alpha is not None:
            chosen = next((v for key, v in pattern.items() if match["module"].endswith(key)), default_alpha)
            entry.setdefault("alpha", torch.tensor(float(chosen)))
    if unknown or not sides:
        raise ValueError(
            f"{path}: {len(unknown)} keys match no module of the transformer ({name_list(unknown)}). Use a LoRA that "
            "was made for this model."
        )
    return _assemble(path, sides)


def _assemble(path: Path, sides: dict[tuple[str, Piece, int], dict[str, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    grouped: dict[str, list[tuple[Piece, int, Tensor, Tensor]]] = {}
    for (native, piece, index), entry in sides.items():
        if "A" not in entry or "B" not in entry:
            raise ValueError(f"{path}: the LoRA of {piece.module} is incomplete: it needs both A (down) and B (up).")
        down, up = entry["A"].flatten(1), entry["B"].flatten(1)
        rank = down.shape[0]
        if up.shape[1] != rank:
            raise ValueError(
                f"{path}: the LoRA of {piece.module} has ranks {rank} and {up.shape[1]}; they must be equal."
            )
        alpha = 1.0 if "published" in entry else float(entry.get("alpha", torch.tensor(float(rank))))
        grouped.setdefault(native, []).append((piece, index, down, up * (alpha / rank)))
    return {
        native: _fuse(path, native, sorted(parts, key=lambda p: (p[1], p[0].rows)))
        for native, parts in sorted(grouped.items())
    }


def _fuse(path: Path, native: str, parts: list[tuple[Piece, int, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """One pair out of the pieces' pairs: A stacked, B placed in each piece's rows."""
    if len(parts) == 1 and not parts[0][0].rows:
        return parts[0][2], parts[0][3]
    if all(not piece.rows for piece, *_ in parts):  # published: q, k, v stacked along the output
        total = sum(up.shape[0] for *_, up in parts)
        starts = [sum(up.shape[0] for *_, up in parts[:i]) for i in range(len(parts))]
        ranges = [[(start, start + up.shape[0])] for start, (*_, up) in zip(starts, parts, strict=True)]
    else:
        piece, _, _, up = parts[0]
        total = up.shape[0] * piece.parts // sum(stop - start for start, stop in piece.rows)
        ranges = [piece.row_ranges(total) for piece, *_ in parts]
    fused_up = torch.zeros(total, sum(down.shape[0] for _, _, down, _ in parts))
    column = 0
    for rows, (piece, _, down, up) in zip(ranges, parts, strict=True):
        if up.shape[0] != sum(stop - start for start, stop in rows):
            raise ValueError(f"{path}: the LoRA of {piece.module} has {up.shape[0]} rows, which does not fit {native}.")
        columns = slice(column, column + down.shape[0])
        for (start, stop), section in zip(rows, up.split([stop - start for start, stop in rows]), strict=True):
            fused_up[start:stop, columns] = section
        column += down.shape[0]
    return torch.cat([down for _, _, down, _ in parts]), fused_up


def save_lora(pairs: LoraPairs, path: str | Path, *, overwrite: bool = False, source_sha256: str = "") -> Path:
    """Write a LoRA as safetensors, atomically, under native names: ``diffusion_model.layers.0.qkv.lora_A.weight``.

    ComfyUI's own loaders read them.
    """
    state = {
        f"diffusion_model.{module}.lora_{side}.weight": tensor.contiguous()
        for module, pair in pairs.items()
        for side, tensor in zip("AB", pair, strict=True)
    }
    header = CheckpointMetadata(kind="lora", source_sha256=source_sha256).header()
    return write_safetensors(path, tensor_plan(state), header, overwrite=overwrite)


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
