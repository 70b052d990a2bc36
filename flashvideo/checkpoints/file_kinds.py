"""What a file is by its first bytes, so that one given in another's place is called by its name."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

SAFETENSORS, TORCH, LEGACY_TORCH, GGUF = "safetensors", "a torch file", "a pickle", "a GGUF file"
WEIGHTS = (SAFETENSORS, TORCH, LEGACY_TORCH, GGUF)
_HEAD = 4096  # bytes that are looked at
_LONGEST_HEADER = 100_000_000  # of safetensors, by its own rule

_EMPTY, _ZEROS = "empty", "zeros at its beginning, as of an unfinished download"
_AGAIN = "Download or copy it again."
_UNPACK = "Unpack it and give the weights in it."
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (  # place, bytes there, what it is, what to do
    (0, b"GGUF", GGUF, ""),
    (4, b"ftyp", "a video (MP4)", ""),
    (4, b"moov", "a video (MOV)", ""),
    (4, b"mdat", "a video (MOV)", ""),
    (0, b"\x1aE\xdf\xa3", "a video (MKV or WebM)", ""),
    (8, b"AVI ", "a video (AVI)", ""),
    (0, b"OggS", "audio (Ogg)", ""),
    (8, b"WAVE", "audio (WAV)", ""),
    (0, b"ID3", "audio (MP3)", ""),
    (0, b"fLaC", "audio (FLAC)", ""),
    (0, b"\x89PNG", "a picture (PNG)", ""),
    (0, b"\xff\xd8\xff", "a picture (JPEG)", ""),
    (0, b"GIF8", "a picture (GIF)", ""),
    (8, b"WEBP", "a picture (WebP)", ""),
    (0, b"%PDF", "a document (PDF)", ""),
    (0, b"\x89HDF", "weights of TensorFlow (HDF5)", "Give the .safetensors or pytorch_model.bin beside it."),
    (0, b"\x1f\x8b", "an archive (gzip)", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "an archive (7z)", _UNPACK),
    (0, b"Rar!", "an archive (RAR)", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "an archive (zstd)", _UNPACK),
    (0, b"\xfd7zXZ", "an archive (xz)", _UNPACK),
    (0, b"BZh", "an archive (bzip2)", _UNPACK),
    (257, b"ustar", "an archive (tar)", _UNPACK),
    (0, b"MZ", "a program (Windows)", ""),
    (0, b"\x7fELF", "a program (Linux)", ""),
    (0, b"PK\x05\x06", "an empty zip archive", _AGAIN),
    (0, b"\x80", LEGACY_TORCH, ""),
)
_ZIP = b"PK\x03\x04"
_WEB_PAGE = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")


@dataclass(frozen=True)
class FileKind:
    """``name`` of a kind of file, with its article, "" if it is none that is known; ``advice``: what to do about it."""

    name: str
    advice: str = ""

    @property
    def unfinished(self) -> bool:
        """Whether nothing was written into the file yet."""
        return self.name in (_EMPTY, _ZEROS)


def file_kind(path: Path) -> FileKind:
    """What a file is.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    if not head:
        return FileKind(_EMPTY, _AGAIN)
    # before all magic numbers: eight bytes of length may look like any of them
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_HEADER:
        return FileKind(SAFETENSORS)
    if not head.strip(b"\0"):
        return FileKind(_ZEROS, _AGAIN)
    if head.startswith(_ZIP):
        return _zip_kind(path)
    found = next((FileKind(*kind) for place, magic, *kind in _MAGIC if head[place:].startswith(magic)), None)
    return found or _text_kind(path, head)


def _zip_kind(path: Path) -> FileKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, UnicodeDecodeError):
        return FileKind(TORCH)  # whose reader says how it is damaged
    is_torch = any(name == "data.pkl" or name.endswith("/data.pkl") for name in names)
    return FileKind(TORCH) if is_torch else FileKind("a zip archive", _UNPACK)


def misnamed(path: Path, *right: str) -> FileKind:
    """What a file is, where that is certainly none of ``right`` (beginnings of names); else a kind without a name."""
    try:
        kind = file_kind(path) if path.is_file() else FileKind("")
    except OSError:
        return FileKind("")  # whoever opens it says why
    return FileKind("") if kind.name.startswith(right) else kind


def _text_kind(path: Path, head: bytes) -> FileKind:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_WEB_PAGE):
        return FileKind("a web page", "The download gave a login or error page. Download the file itself.")
    if text.startswith(b"version https://git-lfs"):
        return FileKind("a Git LFS pointer", "Run `git lfs pull` in its folder.")
    if text.startswith((b"{", b"[")):
        if path.name.endswith(".index.json"):
            return FileKind("an index of shards (JSON)", "Give the folder that it lies in.")
        return FileKind("JSON", "Give the file with the weights, or its folder.")
    if re.fullmatch(rb"[\t\n\r\x20-\x7e\x80-\xff]+", head) and b"\n" in head and _is_utf8(head):
        return FileKind("a text file", "")
    return FileKind("")


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # a letter cut in two
    return True
