"""Weights in few bits with scales beside them, as ComfyUI and the common quantisers store them, read as what they mean.

A file seen through :func:`unquantized` has one tensor a weight: scales are part of it, and so are the notes that say
what it is. Values are ``stored * scale`` in fp32; the scales of activations, which only serve products in few bits,
change nothing. What cannot be read exactly is refused by its name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .files import RowReader, TensorInfo, WeightFile, read_in_blocks

_NOTES = {  # what lies beside `X.weight`, under all its names -> ComfyUI's name
    **dict.fromkeys(("weight_scale", "scale_weight", "weight_scale_inv"), "weight_scale"),
    **dict.fromkeys(("input_scale", "scale_input"), "input_scale"),
    **{name: name for name in ("weight_scale_2", "pre_quant_scale", "comfy_quant")},
}
_MARKER = re.compile(r"(^|\.)scaled_fp8$")  # says of a whole file that its `scale_weight` are fp8's
_FP8 = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
_GROUPS = {"mxfp8": 32, "nvfp4": 16}  # columns that share a scale
_FORMATS = (*_FP8, *_GROUPS, "int8_tensorwise")
_NVFP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # the fourth bit is the sign
_LARGEST_NOTE = 1 << 16  # bytes of JSON
_FOREIGN = {  # whose tensors these are; their codes mean nothing without that program
    "Nunchaku (SVDQuant)": re.compile(r"\.(wscales|wzeros|wcscales|smooth_factor|smooth_factor_orig)$"),
    "GPTQ or AWQ": re.compile(r"\.(qweight|qzeros|g_idx)$"),
    "bitsandbytes": re.compile(r"\.(absmax|quant_map|SCB|weight_format)$|\.quant_state\."),
    "Quanto": re.compile(r"\.weight\._(data|scale|shift)$"),
    "compressed-tensors": re.compile(r"\.weight_(packed|shape|zero_point|g_idx)$"),
    "torchao": re.compile(r"\._weight_(qdata|scale)$|\.weight:tensor_impl"),
    "HQQ": re.compile(r"\.W_q$"),
    "ComfyUI's asym_w4a8_int8": re.compile(r"\.weight_(s_rel|s_channel|codebook)$"),
}


@dataclass(frozen=True)
class QuantizedWeight:
    """A matrix in few bits.

    Attributes:
        format: ComfyUI's name of it; "" for wider numbers with a scale.
        values: the tensor in few bits.
        notes: the tensors beside it by ComfyUI's names, ``comfy_quant`` left out.
        config: what ``comfy_quant`` or the file's header says of it.
    """

    format: str
    values: TensorInfo
    notes: Mapping[str, TensorInfo]
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix; ``nvfp4`` stores two columns in a byte."""
        stored = self.values.shape
        return (*stored[:-1], 2 * stored[-1]) if self.format == "nvfp4" else stored

    @property
    def scalar(self) -> bool:
        """Whether fp8 or int8 has one scale for the whole matrix."""
        return self.format not in _GROUPS and torch.Size(self.notes["weight_scale"].shape).numel() == 1

    def rows(self) -> RowReader:
        """A function of (start, stop) that gives these rows in fp32."""
        values, columns = self.values.read(), torch.Size(self.shape[1:]).numel()
        scale, block = self._scales()
        group = _rotation_group(self.config)
        rotation = _hadamard(group) if group else None
        smoothing = self.notes.get("pre_quant_scale")
        factor = None if smoothing is None else smoothing.read().float().flatten()

        def read(start: int, stop: int) -> Tensor:
            rows = self._decoded(values[start:stop])
            of_rows = scale[torch.arange(start, stop) // block[0]]
            if scale.shape[1] > 1:
                of_rows = of_rows.repeat_interleave(block[1], dim=1)[:, :columns]
            rows = rows.mul_(of_rows.reshape(*of_rows.shape, *[1] * (rows.ndim - 2)))
            if rotation is not None:
                rows = (rows.view(len(rows), -1, group) @ rotation).view(len(rows), columns)
            return rows if factor is None else rows.mul_(factor)

        return read

    def read(self) -> Tensor:
        """The whole matrix in fp32."""
        return read_in_blocks(self.rows(), torch.empty(self.shape))

    def _decoded(self, stored: Tensor) -> Tensor:
        if self.format == "nvfp4":  # even columns in the upper half of a byte
            table = torch.tensor([*_NVFP4, *(-value for value in _NVFP4)])
            return table[torch.stack((stored >> 4, stored & 15), dim=-1).flatten(1).int()]
        if stored.dtype == torch.uint8:
            stored = stored.view(_FP8[self.format])
        return stored.to(torch.float32, copy=True)

    def _scales(self) -> tuple[Tensor, tuple[int, int]]:
        """fp32 ``[row blocks, column blocks]`` and the size of a block."""
        scale = self.notes["weight_scale"].read()
        if self.format not in _GROUPS:
            grid, block = scale_grid(self.shape, tuple(scale.shape))
            return scale.float().reshape(grid), block
        group = _GROUPS[self.format]
        codes = _unswizzled(scale.view(torch.uint8), self.shape[0], self.shape[1] // group)
        if self.format == "mxfp8":
            return torch.exp2(codes.double() - 127).float(), (1, group)
        whole = self.notes["weight_scale_2"].read().float().reshape(())
        return codes.view(torch.float8_e4m3fn).float() * whole, (1, group)

    def check(self) -> None:
        """Raise ValueError that says, without the weight's name, why it cannot be read."""
        if self.format not in ("", *_FORMATS):
            raise ValueError(f"is quantised as {self.format!r}, which is not read")
        if len(self.shape) < 2 or 0 in self.shape:
            raise ValueError(f"has shape {list(self.shape)}, and scales belong to a matrix")
        self._check_values()
        needed = {"weight_scale", "weight_scale_2"} if self.format == "nvfp4" else {"weight_scale"}
        if lacking := needed - set(self.notes):
            raise ValueError(f"lacks its {' and '.join(sorted(lacking))}")
        if "weight_scale_2" in set(self.notes) - needed:
            raise ValueError(f"has a weight_scale_2, which {self.format or 'a plain weight'} does not have")
        columns = torch.Size(self.shape[1:]).numel()
        for name, expected in (("input_scale", 1), ("weight_scale_2", 1), ("pre_quant_scale", columns)):
            if name in self.notes and torch.Size(self.notes[name].shape).numel() != expected:
                raise ValueError(f"has a {name} of shape {list(self.notes[name].shape)}, expected {expected} numbers")
        scale = self.notes["weight_scale"]
        if self.format not in _GROUPS:
            scale_grid(self.shape, scale.shape)
        else:
            self._check_groups(scale)
        if group := _rotation_group(self.config):
            power_of_4 = group >= 4 and not group & (group - 1) and group.bit_length() % 2
            if self.format != "int8_tensorwise" or not power_of_4 or columns % group:
                raise ValueError(f"is rotated (convrot) in groups of {group}, which does not fit {columns} columns")

    def _check_values(self) -> None:
        dtype = self.values.dtype
        allowed = {"nvfp4": (torch.uint8,), "int8_tensorwise": (torch.int8,), "mxfp8": (*_FP8.values(), torch.uint8)}
        if self.format in _FP8:
            right = dtype.is_floating_point or dtype == torch.uint8  # bits in bytes
        else:
            right = dtype in allowed[self.format] if self.format else dtype.is_floating_point
        if not right:
            raise ValueError(f"is stored as {dtype}, which {self.format or 'no known format'} is not")

    def _check_groups(self, scale: TensorInfo) -> None:
        group, (rows, columns) = _GROUPS[self.format], (self.shape[0], torch.Size(self.shape[1:]).numel())
        expected = (-(-rows // 128) * 128, -(-(columns // group) // 4) * 4)
        if len(self.shape) != 2 or columns % group or scale.dtype.itemsize != 1 or scale.shape != expected:
            raise ValueError(
                f"has {self.format} scales {scale.dtype} {list(scale.shape)}, expected bytes {list(expected)} for "
                f"{list(self.shape)}"
            )


def scale_grid(shape: tuple[int, ...], scale: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    """How a scale divides a matrix: (row blocks, column blocks), (rows of a block, columns of a block).

    One number, one a row (``[R]`` or ``[R, 1]``), or one a block whose sides are powers of two, the last one cut off
    (``[R, C]``, or ``[R, C, 1]`` as musubi-tuner has it).

    Raises:
        ValueError: a scale that fits no such division.
    """
    rows, columns = shape[0], torch.Size(shape[1:]).numel()
    if torch.Size(scale).numel() == 1:
        return (1, 1), (rows, columns)
    down, across, *rest = (*scale, 1) if len(scale) == 1 else scale
    if len(shape) == 2 and rest in ([], [1]) and 0 not in scale:
        block = _block_side(rows, down), _block_side(columns, across)
        if 0 not in block:
            return (down, across), block
    raise ValueError(
        f"has a scale of shape {list(scale)}; expected one number, one a row or one a block of {list(shape)}"
    )


def _block_side(size: int, parts: int) -> int:
    """Length of the blocks that cut ``size`` into ``parts``, 0 if there are none."""
    if parts in (1, size):
        return size // parts
    side = 1 << (-(-size // parts) - 1).bit_length()
    return side if -(-size // side) == parts else 0


def _unswizzled(scales: Tensor, rows: int, columns: int) -> Tensor:
    """``[rows, columns]`` out of cuBLAS's order: tiles of 128 x 4, in each the rows 32 apart side by side."""
    tiles = scales.reshape(-(-rows // 128), -(-columns // 4), 32, 4, 4)
    whole = tiles.permute(0, 3, 2, 1, 4).reshape(-(-rows // 128) * 128, -(-columns // 4) * 4)
    return whole[:rows, :columns].contiguous()


def _rotation_group(config: Mapping[str, Any]) -> int:
    """Columns that were rotated together before they were rounded, 0 if none."""
    inner = config.get("params")
    stated = {**(inner if isinstance(inner, dict) else {}), **config}
    size = stated.get("convrot_groupsize", 256)
    return (size if isinstance(size, int) else -1) if stated.get("convrot") else 0


def _hadamard(size: int) -> Tensor:
    """The rotation, its own inverse: the regular Hadamard matrix of a power of 4."""
    matrix, four = torch.ones(1, 1), 1 - 2 * torch.eye(4).flip(0)
    while len(matrix) < size:
        matrix = torch.kron(matrix, four)
    return matrix / size**0.5


def unquantized(weights: WeightFile) -> WeightFile:
    """The same file with one tensor a weight; only the notes are read, which are small.

    Raises:
        ValueError: a format that is not read, or scales that do not fit; the message names it.
    """
    for writer, pattern in _FOREIGN.items():
        if name := next(filter(pattern.search, weights.tensors), ""):
            raise ValueError(
                f"{weights.path} is quantised by {writer} ({name}), which is not read. Use the model in bf16, fp16, or "
                "fp8 with scales as ComfyUI writes it."
            )
    tensors: dict[str, TensorInfo] = {}
    notes: dict[str, dict[str, TensorInfo]] = {}
    for name, info in weights.tensors.items():
        module, _, leaf = name.rpartition(".")
        if f"{module}.weight" in weights.tensors and leaf in _NOTES:
            if _NOTES[leaf] in notes.setdefault(f"{module}.weight", {}):
                raise ValueError(f"{weights.path} has two tensors for {_NOTES[leaf]} of {module}: it is damaged.")
            notes[f"{module}.weight"][_NOTES[leaf]] = info
        elif not _MARKER.search(name):
            tensors[name] = info
    stated = _header_layers(weights)
    for name in {**notes, **{f"{layer}.weight": None for layer in stated if f"{layer}.weight" in tensors}}:
        beside = notes.get(name, {})
        try:
            note = beside.pop("comfy_quant", None)
            config = stated.get(name.removesuffix(".weight"), {}) if note is None else _read_note(note)
            tensors[name] = _weight(tensors[name], beside, config)
        except ValueError as error:
            raise ValueError(
                f"{weights.path}: {name} {error}. Use a file as ComfyUI writes it, or the model in bf16."
            ) from error
    return replace(weights, tensors=tensors)


def _weight(values: TensorInfo, notes: dict[str, TensorInfo], config: dict[str, Any]) -> TensorInfo:
    stated = config.get("format", "")
    if not stated and "weight_scale" not in notes:
        return values  # a scale of activations alone
    of_dtype = {torch.int8: "int8_tensorwise", **{dtype: name for name, dtype in _FP8.items()}}
    weight = QuantizedWeight(str(stated or of_dtype.get(values.dtype, "")), values, notes, config)
    weight.check()
    return TensorInfo(weight.shape, values.dtype, weight.read, values.name, weight)


def _read_note(note: TensorInfo) -> dict[str, Any]:
    if note.dtype != torch.uint8 or len(note.shape) != 1 or note.shape[0] > _LARGEST_NOTE:
        raise ValueError(f"has a comfy_quant of {note.dtype} {list(note.shape)}, expected the bytes of a JSON table")
    return _table(bytes(note.read().tolist()), "comfy_quant")


def _table(text: str | bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"has a {name} that is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"has a {name} that is no table")
    return value


def _header_layers(weights: WeightFile) -> dict[str, dict[str, Any]]:
    """What the header says of each quantised layer."""
    text = weights.metadata.get("_quantization_metadata")
    if not text:
        return {}
    try:
        layers = _table(text, "_quantization_metadata").get("layers")
        if not isinstance(layers, dict) or not all(isinstance(layer, dict) for layer in layers.values()):
            raise ValueError("has a _quantization_metadata without its table of layers")
    except ValueError as error:
        raise ValueError(f"{weights.path} {error}: it is damaged. Download or make it again.") from error
    return layers
