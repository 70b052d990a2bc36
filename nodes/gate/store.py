"""Previews on disk: latents and small videos that outlive ComfyUI's caches and restarts. Imports nothing of ComfyUI.

A folder for each signature (what the latents were made from) holds ``entry.json``, ``<hash>.safetensors`` for each
sample and ``<hash>-<key>.mp4``, where the key tells which VAE and frame rate made the video. Entries that were not used
for longest go first when the store outgrows its limit.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...flashvideo.checkpoints.outputs import replacing

log = logging.getLogger(__name__)

DEFAULT_LIMIT = 1024  # megabytes: some 500 previews of 49 frames
_MEGABYTE = 1 << 20
_HEX = re.compile(r"[0-9a-f]{32}")
_ENTRY, _LIMIT = "entry.json", "limit.json"


def is_hash(text: str) -> bool:
    """Whether a text can be a signature or a content hash."""
    return _HEX.fullmatch(text) is not None


def plain_values(latent: dict[str, Any]) -> dict[str, Any]:
    """What goes with a sample's tensor: numbers and texts. A batch's numbering and masks do not."""
    return {k: v for k, v in latent.items() if k != "batch_index" and isinstance(v, int | float | str)}


def content_hash(latent: dict[str, Any]) -> str:
    """A digest of one sample: its numbers, shape, dtype and plain values."""
    samples = latent["samples"].detach().cpu().contiguous()
    head = json.dumps([str(samples.dtype), list(samples.shape), plain_values(latent)], sort_keys=True)
    digest = hashlib.sha256(head.encode())
    digest.update(samples.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def split_batch(latent: dict[str, Any]) -> list[dict[str, Any]]:
    """The samples of a LATENT, each a LATENT of its own without ``batch_index``."""
    samples: Tensor = latent["samples"]
    return [{**plain_values(latent), "samples": samples[k : k + 1].clone()} for k in range(samples.shape[0])]


@dataclass(frozen=True)
class Preview:
    """One sample as it is shown. ``frames``, ``width`` and ``height`` are of its video, 0 until there is one."""

    hash: str
    frames: int = 0
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Entry:
    """All samples of one batch; ``key`` and ``fps`` are those of the videos."""

    signature: str
    previews: tuple[Preview, ...]
    key: str = ""
    fps: float = 0.0

    @property
    def hashes(self) -> list[str]:
        return [preview.hash for preview in self.previews]


class PreviewStore:
    """The store in a folder. Safe to use from several threads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.generation = 0  # grows when previews vanish, so that ComfyUI's cache does not stand in for them
        self._evicted: set[str] = set()
        self._lock = threading.RLock()

    # ---- reading

    def entry(self, signature: str) -> Entry | None:
        """What is known of a signature, or None."""
        if not is_hash(signature):
            return None
        try:
            data = json.loads((self.root / signature / _ENTRY).read_text(encoding="utf-8"))
            previews = tuple(Preview(**preview) for preview in data.pop("previews"))
            found = Entry(previews=previews, **data)
        except FileNotFoundError:
            with self._lock:
                if signature in self._evicted:
                    self._evicted.discard(signature)
                    self.generation += 1
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("FlashVideo: a damaged preview entry is ignored (%s: %s)", signature, error)
            return None
        return found if all(is_hash(preview.hash) for preview in found.previews) else None

    def latent(self, signature: str, sample: str) -> dict[str, Any] | None:
        """A sample's LATENT; None if it is missing, damaged, or not what its name says."""
        if not (is_hash(signature) and is_hash(sample)):
            return None
        try:
            with safe_open(self.root / signature / f"{sample}.safetensors", framework="pt") as file:
                latent = {"samples": file.get_tensor("samples"), **json.loads(file.metadata()["values"])}
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            log.warning("FlashVideo: a damaged preview latent is ignored (%s: %s)", sample, error)
            return None
        return latent if content_hash(latent) == sample else None

    def has_latents(self, entry: Entry) -> bool:
        return all(self.latent(entry.signature, sample) is not None for sample in entry.hashes)

    def video(self, signature: str, sample: str, key: str) -> Path:
        """Where a sample's video is, or would be."""
        return self.root / signature / f"{sample}-{key}.mp4"

    def has_videos(self, entry: Entry, key: str) -> bool:
        return all(self.video(entry.signature, sample, key).is_file() for sample in entry.hashes)

    # ---- writing

    def add(self, signature: str, samples: Iterable[dict[str, Any]]) -> Entry:
        """Keep the samples of a batch; gives the entry, without videos."""
        folder = self.root / signature
        folder.mkdir(parents=True, exist_ok=True)
        hashes = []
        for latent in samples:
            name = content_hash(latent)
            tensors = {"samples": latent["samples"].detach().cpu().contiguous()}
            with replacing(folder / f"{name}.safetensors") as partial:
                save_file(tensors, partial, {"values": json.dumps(plain_values(latent))})
            hashes.append(name)
        entry = Entry(signature, tuple(Preview(name) for name in hashes))
        self.write(entry)
        return entry

    def write(self, entry: Entry) -> None:
        """Write the entry, remove videos of another key, then make room."""
        folder = self.root / entry.signature
        with self._lock:
            with replacing(folder / _ENTRY) as partial:
                partial.write_text(json.dumps(asdict(entry)), encoding="utf-8")
            self._evicted.discard(entry.signature)
            for video in folder.glob("*.mp4"):
                if not video.stem.endswith(f"-{entry.key}"):
                    video.unlink(missing_ok=True)
            self.make_room(entry.signature)

    def touch(self, signature: str) -> None:
        """Note that an entry was used."""
        file = self.root / signature / _ENTRY
        if file.is_file():
            os.utime(file)

    # ---- size

    @property
    def limit(self) -> int:
        """Megabytes."""
        try:
            return int(json.loads((self.root / _LIMIT).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return DEFAULT_LIMIT

    @limit.setter
    def limit(self, megabytes: int) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        with replacing(self.root / _LIMIT) as partial:
            partial.write_text(json.dumps(megabytes), encoding="utf-8")
        self.make_room()

    def _folders(self) -> list[Path]:
        return [f for f in self.root.iterdir() if f.is_dir() and is_hash(f.name)] if self.root.is_dir() else []

    def size(self) -> int:
        """Bytes of all entries."""
        return sum(_size(folder) for folder in self._folders())

    def make_room(self, keep: str = "") -> None:
        """Remove the entries that were not used for longest until the limit holds; ``keep`` stays."""
        with self._lock:
            folders = sorted(self._folders(), key=_last_used)
            total, allowed = sum(map(_size, folders)), self.limit * _MEGABYTE
            for folder in folders:
                if total <= allowed:
                    break
                if folder.name != keep:
                    total -= _size(folder)
                    self._evicted.add(folder.name)
                    shutil.rmtree(folder, ignore_errors=True)
                    log.info("FlashVideo: the preview store is over %d MB, an old entry was removed", self.limit)

    def empty(self) -> int:
        """Remove all entries; gives the bytes that were freed."""
        with self._lock:
            freed = self.size()
            for folder in self._folders():
                shutil.rmtree(folder, ignore_errors=True)
            self.generation += 1
        return freed


def _size(folder: Path) -> int:
    try:
        return sum(file.stat().st_size for file in folder.iterdir())
    except OSError:  # removed meanwhile
        return 0


def _last_used(folder: Path) -> float:
    try:
        return (folder / _ENTRY).stat().st_mtime
    except OSError:  # half-written by a crash: the first to go
        return 0.0
