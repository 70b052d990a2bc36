"""What our safetensors files say of themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .files import TensorInfo, WeightFile

FORMAT_VERSION = "1"
STAGES = {"stage1": "Stage I", "stage2": "Stage II"}  # kind of a transformer -> what people call it
_PREFIX = "flashvideo."
NOTE = "flashvideo_metadata"  # a header as a tensor, in files of programs that write headers of their own
_LONGEST_NOTE = 1 << 20


@dataclass(frozen=True)
class CheckpointMetadata:
    """Header of a native file.

    Attributes:
        kind: ``stage1``, ``stage2``, ``vae``, ``lora``; "" for files that are not ours.
        version: of the format.
        dtype: of the weights: fp32, bf16, fp16, fp8_e4m3.
        source_sha256: of the file that it was converted from.
        latent_scale: model space = latents times this, where the checkpoint has its own.
        config: the network's constructor keywords.
        student: what a distilled Stage II was made for; None for others.
    """

    kind: str = ""
    version: str = FORMAT_VERSION
    dtype: str = ""
    source_sha256: str = ""
    latent_scale: float | None = None
    config: dict[str, Any] = field(default_factory=dict)
    student: dict[str, Any] | None = None

    def header(self) -> dict[str, str]:
        """Entries for a safetensors header."""
        entries = {"kind": self.kind, "version": self.version, "dtype": self.dtype, "source_sha256": self.source_sha256}
        if self.latent_scale is not None:
            entries["latent_scale"] = repr(float(self.latent_scale))
        if self.config:
            entries["config"] = json.dumps(self.config, sort_keys=True)
        if self.student is not None:
            entries["student"] = json.dumps(self.student, sort_keys=True)
        return {"format": "pt", **{_PREFIX + key: value for key, value in entries.items()}}


def metadata_tensor(metadata: CheckpointMetadata) -> Tensor:
    """A header as the tensor :data:`NOTE`, which stays beside the weights whoever saves them."""
    return torch.tensor(list(json.dumps(metadata.header()).encode()), dtype=torch.uint8)


def split_note(tensors: dict[str, TensorInfo]) -> tuple[dict[str, str], dict[str, TensorInfo]]:
    """(the entries of :data:`NOTE` among tensors, the others)."""
    note = tensors.get(NOTE)
    if note is None:
        return {}, tensors
    try:
        if note.dtype != torch.uint8 or torch.Size(note.shape).numel() > _LONGEST_NOTE:
            raise ValueError(f"it is {note.dtype} {list(note.shape)}")
        entries = json.loads(bytes(note.read().flatten().tolist()))
        if not isinstance(entries, dict) or not all(isinstance(text, str) for text in entries.values()):
            raise ValueError("it is no table of texts")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{note.name or NOTE} is damaged ({error}). Save the model again.") from error
    ours = {key: text for key, text in entries.items() if key.startswith(_PREFIX)}
    return ours, {name: info for name, info in tensors.items() if name != NOTE}


def read_metadata(weights: WeightFile) -> CheckpointMetadata:
    """The header of ``weights``; empty for files that are not ours.

    Raises:
        ValueError: a header of a newer format, or a damaged one.
    """
    entries = {k[len(_PREFIX) :]: v for k, v in weights.metadata.items() if k.startswith(_PREFIX)}
    if not entries.get("kind"):
        return CheckpointMetadata()
    if entries.get("version", FORMAT_VERSION) != FORMAT_VERSION:
        raise ValueError(
            f"{weights.path} has format version {entries['version']}, this program reads {FORMAT_VERSION}. Update it."
        )
    try:
        scale = entries.get("latent_scale")
        config = json.loads(entries.get("config", "{}"))
        if not isinstance(config, dict):
            raise ValueError("its config is no table")
        return CheckpointMetadata(
            kind=entries["kind"],
            dtype=entries.get("dtype", ""),
            source_sha256=entries.get("source_sha256", ""),
            latent_scale=None if scale is None else float(scale),
            config=config,
            student=json.loads(entries.get("student", "null")),
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{weights.path} has a damaged header ({error}). Convert or download it again.") from error
