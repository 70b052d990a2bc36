"""Writing safetensors one tensor at a time, so that a checkpoint never has to fit into memory as a whole."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from . import checksums
from .outputs import check_writable, naming_disk_errors, replacing
from .paths import expanded

_DTYPE_CODES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.bool: "BOOL", torch.uint8: "U8"},
    **{torch.int8: "I8", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64"},
}
TensorPlan = Mapping[str, tuple[tuple[int, ...] | torch.Size, torch.dtype, Callable[[], Tensor]]]


def tensor_plan(tensors: Mapping[str, Tensor]) -> TensorPlan:
    """The plan of tensors that are in memory already."""
    return {name: (tensor.shape, tensor.dtype, partial(_given, tensor)) for name, tensor in tensors.items()}


def _given(tensor: Tensor) -> Tensor:
    return tensor


def write_safetensors(path: str | Path, plan: TensorPlan, metadata: dict[str, str], *, overwrite: bool = False) -> Path:
    """Write ``{name: (shape, dtype, read)}`` in the given order; each tensor is read, written and dropped.

    The header gets a checksum of every tensor, see :mod:`flashvideo.checkpoints.checksums`.

    Raises:
        ValueError: an output that cannot be written.
        OSError: the disk fills up or fails while writing; nothing is left behind.
    """
    path = expanded(path)
    header: dict[str, object] = {"__metadata__": {**metadata, checksums.KEY: checksums.without_sums(plan, metadata)}}
    position = 0
    for name, (shape, dtype, _) in plan.items():
        size = torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": _DTYPE_CODES[dtype], "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    check_writable(path, overwrite=overwrite, size=position)
    sums = {}
    with replacing(path) as temporary, naming_disk_errors(path), temporary.open("wb") as stream:
        stream.write(_encoded(header))
        for name, (shape, dtype, read) in plan.items():
            tensor = read()
            if tuple(tensor.shape) != tuple(shape) or tensor.dtype != dtype:
                raise ValueError(f"{name} came as {tensor.dtype} {list(tensor.shape)}; planned {dtype} {list(shape)}.")
            tensor = tensor.detach().contiguous().cpu()
            sums[name] = checksums.checksum(tensor)
            stream.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
        header["__metadata__"] = {**metadata, checksums.KEY: checksums.as_metadata(sums, metadata)}
        stream.seek(0)
        stream.write(_encoded(header))  # as long as before
    return path


def _encoded(header: dict[str, object]) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
