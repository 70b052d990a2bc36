"""A transformer file seen through native names: what it is, what is missing, and each parameter assembled on demand."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.files import TensorInfo, WeightFile, name_list, open_weights, row_blocks
from ..checkpoints.layouts import (
    DetectedLayout,
    Layout,
    Piece,
    detect_transformer,
    infer_transformer_config,
    transformer_layout,
)
from ..checkpoints.metadata import read_metadata
from ..checkpoints.parts import ModelPart, model_part
from ..method.student import Student
from ..tensors.sizes import LATENT_CHANNELS
from .lora import LoraPairs

log = logging.getLogger(__name__)

_BALLAST = re.compile(r"(^|\.)loss|freqs_(sin|cos)$|(^|\.)position_embeddings\.weight$")
_MERGE = (
    "It holds a LoRA that PEFT has not merged: merge it (merge_and_unload) and save that, or save the adapter alone "
    "and load it as a LoRA."
)
NETWORK_KEYWORDS = {
    *("num_layers", "num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "patch_size"),
    *("text_embed_dim", "time_embed_dim", "max_text_seq_length", "norm_eps"),
    *("use_noise_step_embedding", "use_frame_count_embedding", "position_encoding"),
}


@dataclass(frozen=True)
class _Part:
    """A file's tensors for one piece of one native parameter."""

    name: str
    rows: tuple[tuple[int, int], ...]
    lora: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class TransformerSource:
    """An opened transformer checkpoint.

    Attributes:
        weights: the file.
        layout: what its names are.
        config: constructor keywords of the network.
        latent_scale: the checkpoint's own, if it carries one.
        student: what it was distilled for, if it is a student.
        parts: native parameter -> its pieces; those whose pieces the file lacks are left out.
        missing, unexpected, ballast, outside: names; ``outside`` is what lies beside the model's prefix.
    """

    weights: WeightFile
    layout: DetectedLayout
    config: dict[str, Any]
    latent_scale: float | None
    student: Student | None
    parts: dict[str, tuple[_Part, ...]]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    ballast: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    shape_errors: tuple[str, ...] = field(default=())

    @property
    def kind(self) -> str:
        """``stage2`` if it has one of Stage II's extra embeddings, else ``stage1``."""
        extra = self.config["use_noise_step_embedding"] or self.config["use_frame_count_embedding"]
        return "stage2" if extra else "stage1"

    @cached_property
    def lora_rank(self) -> int:
        """Rank of the LoRA that the file carries unmerged, 0 if none."""
        pairs = [pair for parts in self.parts.values() for part in parts for pair in part.lora]
        return self.weights.tensors[pairs[0][0]].shape[0] if pairs else 0

    def check(self) -> None:
        """Raise ValueError that names missing, unexpected and wrongly shaped keys; log what is skipped."""
        path = self.weights.path
        problems = []
        if self.missing:
            problems.append(f"missing: {name_list(self.missing)}")
        if self.unexpected:
            problems.append(f"unexpected: {name_list(self.unexpected)}")
        if self.shape_errors:
            problems.append(f"wrong shape: {name_list(self.shape_errors)}")
        if problems:
            unmerged = any(".base_layer." in name for name in self.unexpected)
            advice = _MERGE if unmerged else "Use an unchanged checkpoint, or convert the right file."
            raise ValueError(
                f"{path} does not hold a whole {self.kind} transformer ({self.layout.kind} layout). "
                f"{'; '.join(problems)}. {advice}"
            )
        skipped = [*self.ballast, *self.outside]
        if skipped:
            log.info(
                "%s: skipped %d entries that the model does not use (%s)", path.name, len(skipped), name_list(skipped)
            )

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a native parameter, from the file's header."""
        shapes = [self.weights.tensors[part.name].shape for part in self.parts[name]]
        rest = [torch.Size(shapes[0][1:]).numel()] if len(shapes[0]) > 1 else []
        return (sum(shape[0] for shape in shapes), *rest)

    def whole_tensors(self) -> dict[str, TensorInfo] | None:
        """Native parameter -> the one tensor of the file that it is; None if some are put together from several."""
        if any(len(parts) > 1 or parts[0].lora for parts in self.parts.values()):
            return None
        return {name: self.weights.tensors[parts[0].name] for name, parts in self.parts.items()}

    def read(self, name: str, dtype: torch.dtype, lora: LoraPairs | None = None) -> Tensor:
        """One native parameter in its own memory.

        The file's LoRA and ``lora`` are added in fp32 and the sum is rounded once, a block of rows at a time.
        """
        module, _, leaf = name.rpartition(".")
        added = (lora or {}).get(module) if leaf == "weight" else None
        out = torch.empty(self.shape(name), dtype=dtype)
        for part in self.parts[name]:
            stored = self.weights.tensors[part.name].rows()
            own = self._own_lora(part)
            taken = 0
            for start, stop in part.rows:
                for row, end in row_blocks(start, stop, out[0].numel()):
                    source = slice(taken + row - start, taken + end - start)
                    block = stored(source.start, source.stop)
                    block = block.flatten(1) if block.ndim == 4 else block  # the published patch embedding
                    if own is not None:
                        block = block.float().add(own[1][source] @ own[0])
                    if added is not None:
                        block = block.float().add(added[1][row:end].float() @ added[0].float())
                    out[row:end] = block
                taken += stop - start
        return out

    def _own_lora(self, part: _Part) -> tuple[Tensor, Tensor] | None:
        """The file's own LoRA of a piece as (A, B) with its scale: W + (1/r) concat_i(B_i A_i), alpha being 1."""
        if not part.lora:
            return None
        downs, ups = zip(*((self.weights.tensors[n].read().float() for n in pair) for pair in part.lora), strict=True)
        return torch.cat(downs), torch.block_diag(*ups) / downs[0].shape[0]


def open_transformer(path: str | Path) -> TransformerSource:
    """Open a transformer checkpoint of any supported layout; nothing but headers is read.

    Raises:
        ValueError: an unreadable file or one without a FlashVideo transformer in it.
    """
    part = model_part(open_weights(path), "transformer")
    weights = part.weights
    detected = detect_transformer(list(weights.tensors))
    if detected is None or detected.num_layers == 0:
        raise ValueError(
            f"{path} has no FlashVideo or CogVideoX transformer in it ({len(weights.tensors)} tensors, for example "
            f"{name_list(list(weights.tensors)[:3])}). Give stage1, stage2 or a file converted from them."
        )
    if detected.num_layers > len(weights.tensors):
        raise ValueError(
            f"{path} has names of {detected.num_layers} layers and {len(weights.tensors)} tensors: it is damaged or no "
            "FlashVideo transformer. Use an unchanged checkpoint."
        )
    if detected.kind in ("diffusers", "comfyui"):
        _check_is_text_to_video(weights)
    metadata = read_metadata(weights)
    layout = transformer_layout(detected.kind, detected.num_layers)
    native = {
        f"{module}.{leaf}": shape
        for module, pieces in layout.items()
        for leaf in ("weight", "bias")
        if len(pieces) == 1 and (shape := weights.shapes.get(f"{pieces[0].module}.{leaf}")) is not None
    }
    try:
        config = infer_transformer_config(native, detected.num_layers)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    stored = {**metadata.config, **(weights.config if detected.kind == "native" else {})}
    config.update({k: v for k, v in stored.items() if k in NETWORK_KEYWORDS and k not in config})
    if detected.kind == "published" and config["use_noise_step_embedding"] != config["use_frame_count_embedding"]:
        config["use_noise_step_embedding"] = config["use_frame_count_embedding"] = True  # Stage II has both
    for embedding, keyword in (
        ("noise_step_embedding", "use_noise_step_embedding"),
        ("frame_count_embedding", "use_frame_count_embedding"),
    ):
        if not config[keyword]:
            layout = {module: pieces for module, pieces in layout.items() if not module.startswith(embedding)}
    latent_scale = metadata.latent_scale or stored.get("latent_scale")
    return _account(part, detected, layout, config, latent_scale, stored_student(weights))


def stored_student(weights: WeightFile) -> Student | None:
    """What a transformer says that it was distilled for, or a LoRA that it makes a student for; ``None``: nothing.

    Raises:
        ValueError: a damaged header.
    """
    table = read_metadata(weights).student or weights.config.get("student")
    return None if table is None else Student.from_table(table, str(weights.path))


def _check_is_text_to_video(weights: WeightFile) -> None:
    """Raise ValueError for the other CogVideoX transformers, which have the same names."""
    shape = weights.shapes.get("patch_embed.proj.weight", ())
    other = ""
    if len(shape) == 2 and shape[1] in (8 * LATENT_CHANNELS, 16 * LATENT_CHANNELS):
        other = "CogVideoX 1.5, whose patches are two frames long"
    elif len(shape) == 4 and shape[1] == 2 * LATENT_CHANNELS:
        other = "an image-to-video CogVideoX, which takes an image's latents beside the video's"
    if other:
        raise ValueError(f"{weights.path} is {other}; expected CogVideoX-5B for text to video, or FlashVideo's stages.")


def _account(
    part: ModelPart,
    detected: DetectedLayout,
    layout: Layout,
    config: dict[str, Any],
    latent_scale: float | None,
    student: Student | None,
) -> TransformerSource:
    """Match the file's names with the network's parameters."""
    from ..models.network import FlashVideoNetwork  # here: the VAE is read without what the transformer needs

    network = FlashVideoNetwork(**config, device="meta")
    expected = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    weights, parts = part.weights, dict[str, tuple[_Part, ...]]()
    used: set[str] = set()
    missing, wrong = [], []
    for name, shape in expected.items():
        module, _, leaf = name.rpartition(".")
        pieces = [_find_part(weights, piece.module, piece, leaf, shape[0]) for piece in layout[module]]
        absent = [p.module for p, found in zip(layout[module], pieces, strict=True) if found is None]
        missing += [f"{part.prefix}{absentee}.{leaf}" for absentee in absent]
        present = tuple(found for found in pieces if found is not None)
        used.update(n for found in present for n in (found.name, *(x for pair in found.lora for x in pair)))
        if not absent:
            parts[name] = present
            wrong += _wrong_shapes(weights, present, shape)
    rest = {n: info.name for n, info in weights.tensors.items() if n not in used}
    return TransformerSource(
        weights,
        detected,
        config,
        latent_scale,
        student,
        parts,
        missing=tuple(missing),
        unexpected=tuple(name for plain, name in rest.items() if not _BALLAST.search(plain)),
        ballast=tuple(name for plain, name in rest.items() if _BALLAST.search(plain)),
        outside=part.outside,
        shape_errors=tuple(wrong),
    )


def _find_part(weights: WeightFile, module: str, piece: Piece, leaf: str, rows: int) -> _Part | None:
    tensors, ranges = weights.tensors, tuple(piece.row_ranges(rows))
    for name in (f"{module}.{leaf}", f"{module}.original.{leaf}"):
        if name not in tensors:
            continue
        if leaf != "weight":
            return _Part(name, ranges)
        pairs: list[tuple[str, str]] = []
        while f"{module}.matrix_A.{len(pairs)}" in tensors and f"{module}.matrix_B.{len(pairs)}" in tensors:
            pairs.append((f"{module}.matrix_A.{len(pairs)}", f"{module}.matrix_B.{len(pairs)}"))
        return _Part(name, ranges, tuple(pairs))
    return None


def _wrong_shapes(weights: WeightFile, parts: tuple[_Part, ...], expected: tuple[int, ...]) -> list[str]:
    wrong = []
    for part in parts:
        shape = weights.tensors[part.name].shape
        flat = (shape[0], torch.Size(shape[1:]).numel()) if len(shape) == 4 else tuple(shape)
        want = (sum(stop - start for start, stop in part.rows), *expected[1:])
        if flat != want:
            wrong.append(f"{part.name} is {list(shape)}, expected {list(want)}")
        wrong += [
            f"{name} is {weights.tensors[name].dtype}"
            for name in (part.name, *(n for pair in part.lora for n in pair))
            if not weights.tensors[name].numeric
        ]
        if part.lora:
            downs = [weights.tensors[down].shape for down, _ in part.lora]
            ups = [weights.tensors[up].shape for _, up in part.lora]
            fits = all(len(s) == 2 and 0 not in s for s in (*downs, *ups)) and len(want) == 2
            if fits:
                ranks = {s[0] for s in downs} | {s[1] for s in ups}
                fits = all(s[1] == want[1] for s in downs) and sum(s[0] for s in ups) == want[0] and len(ranks) == 1
            if not fits:
                wrong.append(f"{part.lora[0][0]} and its kin are {downs} and {ups}, expected a LoRA of {list(want)}")
    return wrong
