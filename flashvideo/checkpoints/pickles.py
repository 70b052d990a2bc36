"""Torch's files, zip archives and what it wrote before 1.6: an object tree, and tensors mapped from the file."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .unpickling import StorageRef, TensorRef, TensorUnpickler

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # zip local file header: signature, name length, extra length
_LARGEST_TREE = 32 << 20  # bytes of pickle; the published checkpoints have less than one of 32
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


@dataclass(frozen=True)
class _Record:
    """Bytes of a storage in the file."""

    start: int
    size: int
    compressed: bool = False


class PickledFile:
    """A ``torch.save`` file: its object tree with :class:`TensorRef` leaves, and tensors mapped from the file."""

    def __init__(self, path: Path) -> None:
        """Read the object tree of ``path``.

        Raises:
            ValueError: a truncated file, one with code in it, or one that is no torch checkpoint.
        """
        self.path, self._size = path, path.stat().st_size
        try:
            storage = torch.UntypedStorage.from_file(str(path), False, self._size)
            self._bytes = torch.empty(0, dtype=torch.uint8).set_(storage)  # type: ignore[arg-type]
            zipped = bytes(self._bytes[:4].tolist()) == b"PK\x03\x04"
            self.tree, self._records = self._read_zip() if zipped else self._read_legacy()
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is damaged or truncated ({error}). Download or copy it again.") from error

    def _read_zip(self) -> tuple[Any, dict[str, _Record]]:
        with zipfile.ZipFile(self.path) as archive:
            members = {member.filename: member for member in archive.infolist()}
            pickled = next((n for n in members if n.endswith("/data.pkl") or n == "data.pkl"), None)
            if pickled is None:
                raise ValueError(f"{self.path} is a zip archive without data.pkl, not a torch file. Unpack it first.")
            if len(members) < len(archive.infolist()):
                raise zipfile.BadZipFile("two records have one name")
            prefix = pickled[: -len("data.pkl")]
            order = members.get(prefix + "byteorder")
            if order is not None and self._content(archive, order).strip() != b"little":
                raise ValueError(
                    f"{self.path} was saved on a big-endian machine; convert it there to safetensors first."
                )
            tree, _ = self._load(io.BytesIO(self._content(archive, members[pickled])))
        data = prefix + "data/"
        return tree, {n[len(data) :]: self._record(member) for n, member in members.items() if n.startswith(data)}

    def _content(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > min(self._size, _LARGEST_TREE):
            raise ValueError(
                f"{self.path} cannot be read as a checkpoint: its {Path(member.filename).name} is compressed or larger "
                f"than {_LARGEST_TREE >> 20} MiB, which torch does not write. Save it again with torch."
            )
        return archive.read(member)

    def _record(self, member: zipfile.ZipInfo) -> _Record:
        start = member.header_offset + _LOCAL_HEADER.size
        header = bytes(self._bytes[member.header_offset : start].tolist()).ljust(_LOCAL_HEADER.size, b"\0")
        _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        stored = member.compress_type == zipfile.ZIP_STORED
        return _Record(start + name_length + extra_length, member.file_size, not stored)

    def _read_legacy(self) -> tuple[Any, dict[str, _Record]]:
        """Five pickles, then each storage behind its number of elements."""
        with self.path.open("rb") as file:
            stream = io.BytesIO(file.read(_LARGEST_TREE))
        magic, protocol, system = (self._load(stream)[0] for _ in range(3))
        if magic != _LEGACY_MAGIC or protocol != _LEGACY_PROTOCOL:
            raise ValueError(
                f"{self.path} is a pickle, but not as torch writes checkpoints; nothing in it was executed. Save the "
                "weights with torch.save, or get them as .safetensors."
            )
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise ValueError(f"{self.path} was saved on a big-endian machine; convert it there to safetensors first.")
        tree, storages = self._load(stream)
        keys, _ = self._load(stream)
        records, position = {}, stream.tell()
        for key in keys if isinstance(keys, list) else []:
            if not isinstance(key, str) or key not in storages or position + 8 > self._size:
                raise EOFError("its storages are not where they should be")
            count = int.from_bytes(bytes(self._bytes[position : position + 8].tolist()), "little")
            records[key] = _Record(position + 8, count * storages[key].dtype.itemsize)
            position += 8 + records[key].size
        return tree, records

    def _load(self, stream: io.BytesIO) -> tuple[Any, dict[str, StorageRef]]:
        unpickler = TensorUnpickler(stream, room=stream.getbuffer().nbytes)
        try:
            return unpickler.load(), unpickler.storages
        except Exception as error:  # a damaged pickle makes the unpickler raise anything
            raise ValueError(
                f"{self.path} cannot be read as a checkpoint: {error or type(error).__name__}. Nothing in it was "
                "executed. Get the file from a source that you trust, in .safetensors form if there is one."
            ) from error

    def check(self, ref: TensorRef) -> None:
        """Raise ValueError unless a tensor lies inside of a record, and is no larger than the whole file."""
        record = self._records.get(ref.storage.key)
        if record is None:
            raise ValueError(
                f"{self.path} is damaged: its storage {ref.storage.key!r} is missing. Download or copy it again."
            )
        if record.compressed:
            raise ValueError(
                f"{self.path} has compressed tensors, which torch does not write. Save it again with torch."
            )
        inside = len(ref.shape) == len(ref.stride) and min((ref.offset, *ref.shape, *ref.stride)) >= 0
        inside = inside and math.prod(ref.shape) * ref.dtype.itemsize <= self._size
        inside = inside and 0 <= record.start <= record.start + record.size <= self._size
        if inside and 0 not in ref.shape:
            last = ref.offset + sum((n - 1) * step for n, step in zip(ref.shape, ref.stride, strict=True))
            inside = (last + 1) * ref.dtype.itemsize <= record.size
        if not inside:
            raise ValueError(
                f"{self.path} is damaged: a tensor lies outside of its storage or claims more than the file has. "
                "Download or copy it again."
            )

    def tensor(self, ref: TensorRef) -> Tensor:
        """A tensor that :meth:`check` found sound, read-only in spirit: a view of the mapped file."""
        place, size = self._records[ref.storage.key], ref.dtype.itemsize
        record = self._bytes[place.start : place.start + place.size]
        if record.storage_offset() % size:
            record = record.clone()
        elements = record[: record.numel() // size * size].view(ref.dtype)
        return elements.as_strided(ref.shape, ref.stride, elements.storage_offset() + ref.offset)
