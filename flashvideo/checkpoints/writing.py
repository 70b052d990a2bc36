"""Writing safetensors one tensor at a time, so that a checkpoint never has to fit into memory as a whole."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

_DTYPE_CODES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.bool: "BOOL", torch.uint8: "U8"},
    **{torch.int8: "I8", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64"},
}
TensorPlan = Mapping[str, tuple[tuple[int, ...] | torch.Size, torch.dtype, Callable[[], Tensor]]]


def check_writable(path: Path, *, overwrite: bool, size: int = 0, option: str = "overwrite=True (--overwrite)") -> None:
    """Raise before any work if ``path`` cannot be written: it exists, its folder is missing or closed, the disk is full.

    Raises:
        ValueError: with what to do.
    """
    folder = path.parent
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected the name of a file to write.")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already and was kept. Choose another name, or pass {option}.")
    if not folder.is_dir():
        raise ValueError(f"The folder {folder} does not exist. Make it first, or choose another place.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{folder} cannot be written to ({error.strerror}). Choose another place.") from error
    free = shutil.disk_usage(folder).free
    if size > free:
        raise ValueError(
            f"{folder} has {free / 1e9:.2f} GB free, {path.name} takes {size / 1e9:.2f} GB. Make room first."
        )


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under ``path`` whole or not at all, whatever interrupts the writing."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(
            error.errno, f"{path} could not be written ({error.strerror}); nothing was left behind"
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_safetensors(path: str | Path, plan: TensorPlan, metadata: dict[str, str], *, overwrite: bool = False) -> Path:
    """Write ``{name: (shape, dtype, read)}`` in the given order; each tensor is read, written and dropped.

    Raises:
        ValueError: an output that cannot be written.
        OSError: the disk fills up or fails while writing; nothing is left behind.
    """
    path = Path(path).expanduser()
    header: dict[str, object] = {"__metadata__": metadata}
    position = 0
    for name, (shape, dtype, _) in plan.items():
        size = torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": _DTYPE_CODES[dtype], "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    check_writable(path, overwrite=overwrite, size=position)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name, (shape, dtype, read) in plan.items():
            tensor = read()
            if tuple(tensor.shape) != tuple(shape) or tensor.dtype != dtype:
                raise ValueError(f"{name} came as {tensor.dtype} {list(tensor.shape)}; planned {dtype} {list(shape)}.")
            stream.write(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return path
