"""Checksums in the headers of our safetensors files: flipped bits, swapped tensors and changed descriptions are found.

A file has one CRC-32 for each tensor, of its dtype, shape and bytes, and one for what the header says in our name.
Each is looked at when its tensor is read, so that nothing is read twice.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .files import TensorInfo

KEY = "flashvideo.checksums"
_OURS = "flashvideo."
_HEADER = ""  # in the place of a tensor's name: the sum of the header's other entries


class DamagedFileError(ValueError):
    """A file that does not hold what was written into it."""


def checksum(tensor: Tensor) -> str:
    """CRC-32 of a tensor's dtype, shape and bytes as eight hexadecimal digits."""
    start = zlib.crc32(f"{tensor.dtype} {list(tensor.shape)}".encode())
    flat = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
    return f"{zlib.crc32(flat.numpy().data, start):08x}"


def as_metadata(sums: Mapping[str, str], metadata: Mapping[str, str]) -> str:
    """The header's entry :data:`KEY`, given the checksums of all tensors and the other entries."""
    return json.dumps({_HEADER: _of_header(metadata), **sums})


def without_sums(names: Iterable[str], metadata: Mapping[str, str]) -> str:
    """As :func:`as_metadata` and as long, while the sums are not known yet."""
    return as_metadata(dict.fromkeys(names, "0" * 8), metadata)


def _of_header(metadata: Mapping[str, str]) -> str:
    ours = {name: text for name, text in metadata.items() if name.startswith(_OURS) and name != KEY}
    return f"{zlib.crc32(json.dumps(ours, sort_keys=True).encode()):08x}"


def with_checks(path: Path, tensors: dict[str, TensorInfo], metadata: Mapping[str, str]) -> dict[str, TensorInfo]:
    """The same tensors, each compared with its checksum when it is read; files without checksums as they are.

    Raises:
        DamagedFileError: a header that is not what was written.
    """
    if KEY not in metadata:
        return tensors
    try:
        sums = json.loads(metadata[KEY])
        right = set(sums) == {_HEADER, *tensors} and sums[_HEADER] == _of_header(metadata)
    except (ValueError, TypeError, RecursionError):
        right = False
    if not right:
        raise DamagedFileError(_words(path, "its header has"))
    return {name: replace(info, read=partial(_read, path, name, info, sums[name])) for name, info in tensors.items()}


def _read(path: Path, name: str, info: TensorInfo, expected: str) -> Tensor:
    tensor = info.read()
    if checksum(tensor) != expected:
        raise DamagedFileError(_words(path, f"{name} has"))
    return tensor


def compare(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Compare what another reader than ours read of a file, all of its tensors, with the checksums in its header.

    Raises:
        DamagedFileError: a tensor that is not as it was written.
    """
    for name, expected in json.loads(metadata.get(KEY, "{}")).items():
        if name != _HEADER and checksum(tensors[name]) != expected:
            raise DamagedFileError(_words(path, f"{name} has"))


def _words(path: Path, what: str) -> str:
    return (
        f"{path} is not as it was written: {what} changed since. The disk or a copy damaged it, or another program "
        "changed it and kept the checksums. Copy, download or make it again."
    )
