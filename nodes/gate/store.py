"""What the gate keeps on disk: samples and their previews outlive ComfyUI's caches. Imports nothing of ComfyUI.

A batch of latents has a folder, named by what it was made from (its signature). There are ``entry.json``,
``<hash>.safetensors`` for each sample and ``<hash>-<key>.mp4``, its preview, where the key tells which VAE and frame
rate made it. Batches that were not used for longest go first when the store outgrows its limit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...flashvideo.checkpoints.outputs import make_folder, write_text
from ...flashvideo.checkpoints.writing import tensor_plan, write_safetensors

log = logging.getLogger(__name__)

DEFAULT_LIMIT = 1024  # megabytes: some 500 previews of 49 frames
_MAX_LIMIT = 1 << 20  # megabytes
_MEGABYTE = 1 << 20
_SETTLED = 2 * 10**9  # nanoseconds after which a change of a folder has another time than the one before it
_HEX = re.compile(r"[0-9a-f]{32}")
_ENTRY, _LIMIT = "entry.json", "limit.json"


def is_hash(text: str) -> bool:
    """Whether a text can be a signature or a content hash."""
    return _HEX.fullmatch(text) is not None


def checked_limit(megabytes: object) -> int:
    """A limit from a file or a request.

    Raises:
        ValueError: no number, or none that a limit can be.
    """
    if isinstance(megabytes, bool) or not isinstance(megabytes, int | float) or not 1 <= megabytes <= _MAX_LIMIT:
        raise ValueError(f"expected 1 to {_MAX_LIMIT} megabytes")
    return int(megabytes)


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
class Sample:
    """Latents of one video by their content, and how large its preview is: all 0 until there is one."""

    hash: str
    frames: int = 0
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Batch:
    """Samples that were made together; ``key`` and ``fps`` are those of their previews."""

    signature: str
    samples: tuple[Sample, ...]
    key: str = ""
    fps: float = 0.0

    @property
    def hashes(self) -> list[str]:
        return [sample.hash for sample in self.samples]

    def as_json(self) -> str:
        """The text of ``entry.json``, where the samples are called previews."""
        data = asdict(self)
        return json.dumps({"previews": data.pop("samples"), **data})

    @classmethod
    def from_json(cls, text: str) -> Batch:
        """The reverse of :meth:`as_json`.

        Raises:
            ValueError, TypeError, KeyError, RecursionError: another program wrote it, or it was damaged.
        """
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError("expected a dictionary")
        batch = cls(samples=tuple(Sample(**sample) for sample in data.pop("previews")), **data)
        if not batch.samples or not all(map(is_hash, batch.hashes)):
            raise ValueError("a sample's name is no hash")
        sizes = [size for sample in batch.samples for size in (sample.frames, sample.width, sample.height)]
        if any(type(size) is not int or size < 0 for size in sizes):
            raise ValueError("a preview's size is no number")
        if (batch.key and not is_hash(batch.key)) or not 0 <= float(batch.fps) < math.inf:
            raise ValueError("the previews' key or frame rate is none")
        return batch


class GateStore:
    """The store in a folder. Safe to use from several threads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.generation = 0  # grows when batches vanish, so that ComfyUI's cache does not stand in for them
        self._evicted: set[str] = set()
        self._known: dict[str, tuple[int, int]] = {}  # a batch -> when its folder changed, its bytes then
        self._lock = threading.RLock()

    # ---- reading

    def batch(self, signature: str) -> Batch | None:
        """What is known of a signature, or None."""
        if not is_hash(signature):
            return None
        try:
            batch = Batch.from_json((self.root / signature / _ENTRY).read_text(encoding="utf-8"))
            if batch.signature != signature:
                raise ValueError("it is another batch's")
            return batch
        except FileNotFoundError:
            with self._lock:
                if signature in self._evicted:
                    self._evicted.discard(signature)
                    self.generation += 1
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            log.warning("FlashVideo: a damaged batch of previews is ignored (%s: %s)", signature, error)
            return None

    def latent(self, signature: str, sample: str) -> dict[str, Any] | None:
        """A sample's LATENT; None if it is missing, damaged, or not what its name says."""
        if not (is_hash(signature) and is_hash(sample)):
            return None
        try:
            with safe_open(self.root / signature / f"{sample}.safetensors", framework="pt") as file:
                # A copy: Windows neither replaces nor removes a file while a tensor of it is in use.
                latent = {**json.loads(file.metadata()["values"]), "samples": file.get_tensor("samples").clone()}
            if content_hash(latent) != sample:
                raise ValueError("its content is not what its name says")
            return latent
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError, RuntimeError) as error:
            log.warning("FlashVideo: a damaged sample is ignored (%s: %s)", sample, error)
            return None

    def has_latents(self, batch: Batch) -> bool:
        return all(self.latent(batch.signature, sample) is not None for sample in batch.hashes)

    def preview(self, signature: str, sample: str, key: str) -> Path:
        """Where a sample's preview is, or would be."""
        return self.root / signature / f"{sample}-{key}.mp4"

    def has_previews(self, batch: Batch, key: str) -> bool:
        return all(self.preview(batch.signature, sample, key).is_file() for sample in batch.hashes)

    # ---- writing

    def add(self, signature: str, latents: Iterable[dict[str, Any]]) -> Batch:
        """Keep a batch's samples; it has no previews yet."""
        folder = self.root / signature
        make_folder(folder)
        hashes = []
        for latent in latents:
            name = content_hash(latent)
            plan, values = tensor_plan({"samples": latent["samples"]}), json.dumps(plain_values(latent))
            write_safetensors(folder / f"{name}.safetensors", plan, {"values": values}, overwrite=True)
            hashes.append(name)
        batch = Batch(signature, tuple(map(Sample, hashes)))
        self.write(batch)
        return batch

    def write(self, batch: Batch) -> None:
        """Write what is known of a batch, remove previews of another key, then make room."""
        folder = self.root / batch.signature
        with self._lock:
            write_text(folder / _ENTRY, batch.as_json())
            self._evicted.discard(batch.signature)
            for preview in folder.glob("*.mp4"):
                if not preview.stem.endswith(f"-{batch.key}"):
                    with contextlib.suppress(OSError):  # Windows removes nothing that is being played
                        preview.unlink()
            self.make_room(batch.signature)

    def touch(self, signature: str) -> None:
        """Note that a batch was used, where that can be noted."""
        with contextlib.suppress(OSError):
            os.utime(self.root / signature / _ENTRY)

    # ---- size

    @property
    def limit(self) -> int:
        """Megabytes."""
        try:
            return checked_limit(json.loads((self.root / _LIMIT).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return DEFAULT_LIMIT
        except (OSError, ValueError, RecursionError) as error:
            log.warning("FlashVideo: %s is damaged (%s); the limit is %d MB.", _LIMIT, error, DEFAULT_LIMIT)
            return DEFAULT_LIMIT

    @limit.setter
    def limit(self, megabytes: int) -> None:
        make_folder(self.root)
        write_text(self.root / _LIMIT, json.dumps(megabytes))
        self.make_room()

    def _folders(self) -> list[Path]:
        return [f for f in self.root.iterdir() if f.is_dir() and is_hash(f.name)] if self.root.is_dir() else []

    def size(self) -> int:
        """Bytes of all batches."""
        return sum(self._sizes().values())

    def _sizes(self) -> dict[Path, int]:
        """Bytes of each batch; a folder's files are looked at again when the folder has changed."""
        sizes, known = {}, {}
        with self._lock:
            for folder in self._folders():
                try:
                    changed = folder.stat().st_mtime_ns
                except OSError:  # removed meanwhile
                    continue
                before = self._known.get(folder.name)
                sizes[folder] = before[1] if before is not None and before[0] == changed else _size(folder)
                if time.time_ns() - changed > _SETTLED:
                    known[folder.name] = changed, sizes[folder]
            self._known = known
        return sizes

    def make_room(self, keep: str = "") -> None:
        """Remove the batches that were not used for longest until the limit holds; ``keep`` stays."""
        with self._lock:
            sizes, limit = self._sizes(), self.limit
            total, allowed = sum(sizes.values()), limit * _MEGABYTE
            for folder in sorted(sizes, key=_last_used) if total > allowed else ():
                if total <= allowed:
                    break
                if folder.name != keep:
                    total -= sizes[folder]
                    self._evicted.add(folder.name)
                    shutil.rmtree(folder, ignore_errors=True)
                    log.info("FlashVideo: the preview store is over %d MB, an old batch was removed", limit)

    def empty(self) -> int:
        """Remove all batches; gives the bytes that were freed."""
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
