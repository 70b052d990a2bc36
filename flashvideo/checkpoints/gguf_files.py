"""GGUF files, read by the ``gguf`` package where that is installed and dequantised a block of rows at a time."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .files import RowReader, TensorInfo, read_in_blocks
from .outputs import replacing

_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
_QUANTIZED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
_T5_NAMES = {  # llama.cpp's names of T5's encoder -> transformers', both in front of `.weight`
    "token_embd": "shared",
    "enc.output_norm": "encoder.final_layer_norm",
    **{f"enc.blk.#.attn_{x}": f"encoder.block.#.layer.0.SelfAttention.{x}" for x in "qkvo"},
    "enc.blk.#.attn_norm": "encoder.block.#.layer.0.layer_norm",
    "enc.blk.#.attn_rel_b": "encoder.block.#.layer.0.SelfAttention.relative_attention_bias",
    "enc.blk.#.ffn_norm": "encoder.block.#.layer.1.layer_norm",
    "enc.blk.#.ffn_gate": "encoder.block.#.layer.1.DenseReluDense.wi_0",
    "enc.blk.#.ffn_up": "encoder.block.#.layer.1.DenseReluDense.wi_1",
    "enc.blk.#.ffn_down": "encoder.block.#.layer.1.DenseReluDense.wo",
}
_NUMBERS = ("B", "b", "H", "h", "I", "i", "f", "?", "", "", "Q", "q", "d")  # by the code of a value
_TEXT, _LIST, _MOST_DIMENSIONS = 8, 9, 8
_ORIGINAL_SHAPE = "comfy.gguf.orig_shape."  # of tensors that ComfyUI-GGUF's converter has flattened


@dataclass(frozen=True)
class GgmlWeight:
    """A tensor in one of ggml's quantised formats.

    Attributes:
        format: ggml's name of it.
        shape: of the tensor.
        packed: bytes, ``[rows, bytes a row]``.
        kind: the format as the ``gguf`` package numbers it.
    """

    format: str
    shape: tuple[int, ...]
    packed: Any
    kind: Any

    scalar = False  # of one scale, which ggml's formats do not have

    def rows(self) -> RowReader:
        """A function of (start, stop) that gives these rows in fp32."""
        from gguf.quants import dequantize

        each = self.packed.shape[0] // self.shape[0]  # packed rows in a row of the tensor

        def read(start: int, stop: int) -> Tensor:
            values = torch.from_numpy(dequantize(self.packed[start * each : stop * each], self.kind))
            return values.reshape(stop - start, *self.shape[1:])

        return read

    def read(self) -> Tensor:
        """The whole tensor in fp32."""
        return read_in_blocks(self.rows(), torch.empty(self.shape))


def open_gguf(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a GGUF file, T5's under the names that transformers gives them.

    Raises:
        ValueError: the package is missing, the file is damaged, or a format is not read.
    """
    try:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    except ImportError as error:
        raise ValueError(
            f"{path} is a GGUF file, which takes the package `gguf`: `pip install gguf`, or use the model as "
            ".safetensors (bf16, fp16, or fp8 with scales)."
        ) from error
    data = np.memmap(path, mode="r")
    tensors: dict[str, TensorInfo] = {}
    try:
        header = _Header(data)
        if not header.tensors:
            raise ValueError("it has no tensors")
        for name, dimensions, code, offset in header.tensors:
            kind = GGMLQuantizationType(code)
            if kind.name not in (*_PLAIN, *_QUANTIZED):
                raise ValueError(f"{name} is {kind.name}, expected one of {', '.join((*_PLAIN, *_QUANTIZED))}")
            block, size = GGML_QUANT_SIZES[kind]
            columns, rows = dimensions[0], math.prod(dimensions[1:])
            start, count = header.data + offset, rows * columns // block * size
            shape = header.shapes.get(name, tuple(reversed(dimensions)))
            whole = min(*dimensions, *shape) > 0 and math.prod(shape) == rows * columns and not columns % block
            inside = whole and start + count <= len(data) and (kind.name in _PLAIN or not rows % shape[0])
            if not inside or _name(name) in tensors:
                raise ValueError(f"{name} does not fit into it as {list(shape)}")
            packed = data[start : start + count].reshape(rows, -1)
            tensors[_name(name)] = _info(_name(name), shape, packed, kind)
    except (ValueError, KeyError, IndexError, OverflowError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is a GGUF file that cannot be read ({error}). Download or copy it again, or use the model as "
            ".safetensors."
        ) from error
    return tensors


def write_gguf(
    path: Path, tensors: Mapping[str, tuple[Any, str]], shapes: Mapping[str, Sequence[int]] | None = None
) -> Path:
    """Write a GGUF file by the ``gguf`` package.

    Args:
        tensors: name -> (array, ggml's name of the format that it is packed in).
        shapes: of tensors that are stored flattened, as ComfyUI-GGUF's converter notes them.

    Raises:
        ImportError: the package is missing.
    """
    from gguf import GGMLQuantizationType, GGUFWriter

    with replacing(path) as temporary:
        writer = GGUFWriter(temporary, "cogvideox")
        for name, (packed, label) in tensors.items():
            writer.add_tensor(name, packed, raw_dtype=GGMLQuantizationType[label])
        for name, shape in (shapes or {}).items():
            writer.add_array(f"{_ORIGINAL_SHAPE}{name}", list(shape))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path


def _info(name: str, shape: tuple[int, ...], packed: Any, kind: Any) -> TensorInfo:
    if kind.name not in _PLAIN:
        weight = GgmlWeight(kind.name, shape, packed, kind)
        return TensorInfo(shape, torch.uint8, weight.read, name, weight)
    dtype = _PLAIN[kind.name]
    return TensorInfo(shape, dtype, lambda: torch.from_numpy(packed.copy()).view(dtype).reshape(shape), name)


def _name(name: str) -> str:
    """A name in transformers' words, where it is llama.cpp's of a T5."""
    module, dot, leaf = name.rpartition(".")
    number = re.search(r"(?<=^enc\.blk\.)\d+", module)
    known = _T5_NAMES.get(re.sub(r"(?<=^enc\.blk\.)\d+", "#", module))
    return name if known is None else known.replace("#", number[0] if number else "") + dot + leaf


class _Header:
    """What a GGUF file says before its data, read within its bounds.

    Attributes:
        tensors: (name, dimensions from the last one on, code of the format, place in the data) of each.
        shapes: of those that a converter has flattened.
        data: where the data begin.
    """

    def __init__(self, file: Any) -> None:
        self._file, self._place = file, 4
        version, count, entries = self._number("I"), self._number("Q"), self._number("Q")
        if version not in (2, 3):
            raise ValueError(f"its version is {version}, expected 2 or 3")
        self.shapes: dict[str, tuple[int, ...]] = {}
        alignment = 32
        for _ in range(entries):
            key, value = self._text(), self._value(self._number("I"))
            if key == "general.alignment" and isinstance(value, int) and value > 0:
                alignment = value
            elif key.startswith(_ORIGINAL_SHAPE) and isinstance(value, list) and value:
                self.shapes[key.removeprefix(_ORIGINAL_SHAPE)] = tuple(int(size) for size in value)
        self.tensors = []
        for _ in range(count):
            name, sizes = self._text(), self._number("I")
            dimensions = tuple(self._number("Q") for _ in range(min(sizes, _MOST_DIMENSIONS)))
            if not 1 <= sizes <= _MOST_DIMENSIONS:
                raise ValueError(f"{name} has {sizes} dimensions")
            self.tensors.append((name, dimensions, self._number("I"), self._number("Q")))
        self.data = -(-self._place // alignment) * alignment

    def _bytes(self, count: int) -> bytes:
        if self._place + count > len(self._file):
            raise ValueError("it ends within its header")
        self._place += count
        return self._file[self._place - count : self._place].tobytes()

    def _number(self, code: str) -> Any:
        return struct.unpack("<" + code, self._bytes(struct.calcsize("<" + code)))[0]

    def _text(self) -> str:
        return self._bytes(self._number("Q")).decode("utf-8", "replace")

    def _value(self, kind: int, nested: bool = False) -> Any:
        if kind < len(_NUMBERS) and _NUMBERS[kind]:
            return self._number(_NUMBERS[kind])
        if kind == _TEXT:
            return self._text()
        if kind == _LIST and not nested:
            inner, count = self._number("I"), self._number("Q")
            return [self._value(inner, nested=True) for _ in range(count)]
        raise ValueError(f"a value is of the unknown kind {kind}")
