"""Reading torch's zip checkpoints without running anything in them.

A pickle is a program. This reader lets it build dictionaries, lists and numbers, turns tensors into inert references
to a place in the file, and everything else (a training script's Namespace, say) into placeholders that do nothing.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # zip local file header: signature, name length, extra length
_SAFE_BUILTINS = {"set": set, "frozenset": frozenset, "dict": dict, "list": list, "tuple": tuple, "int": int}
_SAFE_BUILTINS |= {"float": float, "bool": bool, "str": str, "bytes": bytes, "complex": complex, "object": object}
# Functions of these modules have no place in a checkpoint: a file that names them is refused, not only defused.
_CODE_MODULES = {
    *("__builtin__", "_pickle", "_thread", "asyncio", "builtins", "code", "codeop", "commands", "ctypes", "http"),
    *("importlib", "inspect", "marshal", "multiprocessing", "nt", "operator", "os", "pickle", "pip", "pkgutil"),
    *("popen2", "posix", "posixpath", "pty", "runpy", "shutil", "signal", "site", "smtplib", "socket", "subprocess"),
    *("sys", "tempfile", "threading", "timeit", "urllib", "webbrowser"),
}


class InertPlaceholder:
    """Stands for an object that is not rebuilt. It accepts whatever a pickle does to it and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> InertPlaceholder:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> InertPlaceholder:
        return InertPlaceholder()

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass

    def add(self, _: Any) -> None:
        pass


@dataclass(frozen=True)
class StorageRef:
    """A storage record in the archive."""

    key: str
    dtype: torch.dtype


@dataclass(frozen=True)
class TensorRef:
    """Where a tensor lies: a strided view (in elements) of a storage record."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype


def _tensor_ref(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> TensorRef:
    if not isinstance(storage, StorageRef):
        raise pickle.UnpicklingError("a tensor without a storage")
    return TensorRef(storage, int(offset), tuple(int(n) for n in size), tuple(int(n) for n in stride))


def _tensor_ref_v3(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> TensorRef:
    """Newer dtypes (fp8) are saved as bytes with the dtype beside them."""
    if not isinstance(storage, StorageRef) or not isinstance(dtype, torch.dtype):
        raise pickle.UnpicklingError("a tensor without a storage or dtype")
    return _tensor_ref(StorageRef(storage.key, dtype), offset, size, stride)


def _first(value: Any, *_: Any) -> Any:
    return value


_STORAGE_DTYPES = {
    **{"DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16},
    **{"BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32},
    **{"ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool},
    **{"UntypedStorage": torch.uint8, "TypedStorage": torch.uint8},
}


class _TensorUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return _tensor_ref
        if (module, name) == ("torch._utils", "_rebuild_tensor_v3"):
            return _tensor_ref_v3
        if module == "torch._utils" and name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return _first
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch", "Size"):
            return tuple
        if module in ("torch", "torch.storage"):
            if name in _STORAGE_DTYPES:
                return StorageRef("", _STORAGE_DTYPES[name])
            if isinstance(value := getattr(torch, name, None), torch.dtype):
                return value
        if module in ("builtins", "__builtin__") and name in _SAFE_BUILTINS:
            return _SAFE_BUILTINS[name]
        if module.split(".")[0] in _CODE_MODULES:
            raise pickle.UnpicklingError(f"it contains code: it asks to run {module}.{name}")
        return type(name.rsplit(".", 1)[-1], (InertPlaceholder,), {"__module__": "placeholder." + module})

    def persistent_load(self, pid: Any) -> Any:
        kind, storage_type, key = pid[0], pid[1], pid[2]
        if kind != "storage" or not isinstance(storage_type, StorageRef):
            raise pickle.UnpicklingError("an unknown kind of stored object")
        return StorageRef(str(key), storage_type.dtype)


class PickledFile:
    """A ``torch.save`` zip file: its object tree with :class:`TensorRef` leaves, and tensors mapped from the file."""

    def __init__(self, path: Path) -> None:
        """Read the object tree of ``path``.

        Raises:
            ValueError: a truncated file, one with code in it, or one that is no torch checkpoint.
        """
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                records = {info.filename: info for info in archive.infolist()}
                name = next((n for n in records if n.endswith("/data.pkl") or n == "data.pkl"), None)
                if name is None:
                    raise ValueError(f"{path} is a zip file but no torch checkpoint: it has no data.pkl.")
                self._prefix = name[: -len("data.pkl")]
                self._check_byte_order(archive, records)
                with archive.open(name) as stream:
                    self.tree = self._load(stream)
            self._records = {
                n[len(self._prefix) + 5 :]: i for n, i in records.items() if n.startswith(self._prefix + "data/")
            }
            size = path.stat().st_size
            self._bytes = self._map(size)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is damaged or truncated ({error}). Download or copy it again.") from error

    def _load(self, stream: IO[bytes]) -> Any:
        try:
            return _TensorUnpickler(stream).load()
        except zipfile.BadZipFile:
            raise
        except Exception as error:  # a damaged pickle makes the unpickler raise anything
            raise ValueError(
                f"{self.path} cannot be read as a checkpoint: {error or type(error).__name__}. Nothing in it was "
                "executed. Get the file from a source that you trust, in .safetensors form if there is one."
            ) from error

    def _check_byte_order(self, archive: zipfile.ZipFile, records: dict[str, zipfile.ZipInfo]) -> None:
        record = records.get(self._prefix + "byteorder")
        if record is not None and archive.read(record).strip() != b"little":
            raise ValueError(f"{self.path} was saved on a big-endian machine; convert it there to safetensors first.")

    def _map(self, size: int) -> Tensor:
        storage = torch.UntypedStorage.from_file(str(self.path), False, size)
        return torch.empty(0, dtype=torch.uint8).set_(storage)  # type: ignore[arg-type]

    def check(self, ref: TensorRef) -> None:
        """Raise ValueError unless a tensor lies inside of a record of the archive."""
        info = self._records.get(ref.storage.key)
        if info is None:
            raise ValueError(
                f"{self.path} is damaged: its storage {ref.storage.key!r} is missing. Download or copy it again."
            )
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(
                f"{self.path} has compressed tensors, which torch does not write. Save it again with torch."
            )
        inside = min((ref.offset, *ref.shape, *ref.stride)) >= 0 and len(ref.shape) == len(ref.stride)
        if inside and 0 not in ref.shape:
            last = ref.offset + sum((n - 1) * step for n, step in zip(ref.shape, ref.stride, strict=True))
            inside = (last + 1) * ref.dtype.itemsize <= self._record(ref.storage.key).numel()
        if not inside:
            raise ValueError(
                f"{self.path} is damaged: a tensor lies outside of its storage. Download or copy it again."
            )

    def _record(self, key: str) -> Tensor:
        info = self._records[key]
        start = info.header_offset + _LOCAL_HEADER.size
        header = bytes(self._bytes[info.header_offset : start].tolist()).ljust(_LOCAL_HEADER.size, b"\0")
        _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        start += name_length + extra_length
        return self._bytes[start : start + info.file_size]

    def tensor(self, ref: TensorRef) -> Tensor:
        """A tensor that :meth:`check` found sound, read-only in spirit: a view of the mapped file."""
        record, size = self._record(ref.storage.key), ref.dtype.itemsize
        if record.storage_offset() % size:
            record = record.clone()
        elements = record[: record.numel() // size * size].view(ref.dtype)
        return elements.as_strided(ref.shape, ref.stride, elements.storage_offset() + ref.offset)
