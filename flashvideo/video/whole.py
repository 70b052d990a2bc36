"""Whether a video's file was cut short: from what its container says of its own length, without reading the frames."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_BRAND, _BRAND_PLACE = b"ftyp", 4  # of .mp4 and .mov, behind the first box's length
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # of .mkv


def is_cut_short(path: Path) -> bool:
    """Whether a file is empty, or a .mp4, .mov or .mkv that ends before its container says that it does.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(8)
        if b"\0\0".startswith(head[:2]) and _BRAND.startswith(head[_BRAND_PLACE:]):
            return not _boxes_end_at(stream, size)
        if _EBML.startswith(head[:4]):
            return not _segment_ends_at(stream, size)
    return False


def _boxes_end_at(stream: BinaryIO, size: int) -> bool:
    """Whether the last of a file's boxes ends where the file does, and index and data are among them."""
    position, found = 0, set()
    while position < size:
        stream.seek(position)
        header = stream.read(16).ljust(16, b"\0")
        length, kind = struct.unpack(">I4s", header[:8])
        if length == 1:  # a longer number follows
            length = struct.unpack(">Q", header[8:])[0]
        if length < 8:
            return False
        found.add(kind)
        position += length
    return position == size and {b"moov", b"mdat"} <= found


def _segment_ends_at(stream: BinaryIO, size: int) -> bool:
    """Whether the segment, which holds everything, ends where the file does."""
    stream.seek(4)
    length = _ebml_number(stream)
    if length is None:
        return False
    stream.seek(length, 1)
    if stream.read(4) != _SEGMENT:
        return False
    length = _ebml_number(stream)
    return length is not None and stream.tell() + length == size


def _ebml_number(stream: BinaryIO) -> int | None:
    """A length: as many zero bits as bytes follow, a one, the number. None if it is cut off, or not known yet."""
    first = stream.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    data = stream.read(more)
    number = int.from_bytes(bytes([first[0] ^ 1 << 7 - more]) + data, "big")
    return None if len(data) < more or number == (1 << 7 * (more + 1)) - 1 else number
