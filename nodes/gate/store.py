"""What the gate keeps on disk: samples and their previews outlive ComfyUI's caches. Imports nothing of ComfyUI.

A batch of latents has a folder of the store, named by what it was made from (its signature). There are its entry,
``<hash>.safetensors`` for each sample and ``<hash>-<key>.mp4``, its preview, where the key tells which VAE and frame
rate made it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...flashvideo.checkpoints.outputs import make_folder
from ...flashvideo.checkpoints.writing import tensor_plan, write_safetensors
from ..kept.store import KeptStore, is_hash

log = logging.getLogger(__name__)


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
    """The batches of a store. Safe to use from several threads."""

    def __init__(self, kept: KeptStore) -> None:
        self.kept = kept

    # ---- reading

    def batch(self, signature: str) -> Batch | None:
        """What is known of a signature, or None."""
        if not is_hash(signature):
            return None
        try:
            if (entry := self.kept.entry(signature)) is None:
                return None
            batch = Batch.from_json(entry)
            if batch.signature != signature:
                raise ValueError("it is another batch's")
            return batch
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            log.warning("FlashVideo: a damaged batch of previews is ignored (%s: %s)", signature, error)
            return None

    def latent(self, signature: str, sample: str) -> dict[str, Any] | None:
        """A sample's LATENT; None if it is missing, damaged, or not what its name says."""
        if not (is_hash(signature) and is_hash(sample)):
            return None
        try:
            with safe_open(self.kept.folder(signature) / f"{sample}.safetensors", framework="pt") as file:
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
        return self.kept.folder(signature) / f"{sample}-{key}.mp4"

    def has_previews(self, batch: Batch, key: str) -> bool:
        return all(self.preview(batch.signature, sample, key).is_file() for sample in batch.hashes)

    # ---- writing

    def add(self, signature: str, latents: Iterable[dict[str, Any]]) -> Batch:
        """Keep a batch's samples; it has no previews yet."""
        folder = self.kept.folder(signature)
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
        self.kept.note(batch.signature, batch.as_json())
        for preview in self.kept.folder(batch.signature).glob("*.mp4"):
            if not preview.stem.endswith(f"-{batch.key}"):
                with contextlib.suppress(OSError):  # Windows removes nothing that is being played
                    preview.unlink()
        self.kept.make_room(batch.signature)
