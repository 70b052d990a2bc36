"""Files of latents: a preview's, degraded or refined ones, with all that made them and that goes on from there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.file_kinds import LEGACY_TORCH, SAFETENSORS, TORCH, misnamed
from ..checkpoints.files import open_weights
from ..checkpoints.paths import expanded
from ..checkpoints.writing import tensor_plan, write_safetensors
from ..method.checks import check_noise_step, check_text, shortened
from ..tensors.checks import check_latents
from ..video.files import DEFAULT_FPS, check_fps
from .fields import check_known, is_number
from .settings import Stage1Settings, Stage2Settings

RECORD_FORMAT = "1"
_KEY, _INTERIM = "flashvideo.preview", "flashvideo.interim"
CONTENTS = ("preview", "degraded", "refined")
_STAGE1_LATENTS = "preview_latents"
_DESCRIBED = ("format", "content", "prompt", "fps", "noise_step", "stage1", "stage2", "models")
_MAX_DESCRIPTION = 1 << 20  # characters; the longest prompt, escaped, takes an eighth
_STAGE1_MODELS = ("stage1", "text", "lora")  # what a run of Stage II alone does not know


@dataclass(frozen=True)
class Record:
    """Latents with their history.

    Attributes:
        latents: ``[1, 16, T, h, w]`` in VAE space, fp32.
        content: ``preview`` (Stage I's result), ``degraded`` (Stage II's start, at full size) or ``refined``.
        noise_step: what the latents were degraded with; ``None`` for those that were not.
        preview_latents: Stage I's result where ``latents`` are no longer that; ``None`` if it is not known.
        prompt: as given, without Stage II's motion prefix.
        stage1_embeds, stage2_embeds: ``[1, 226, D]`` of both stages' prompts.
        stage1, stage2: settings; Stage II's are those that the run was asked for.
        fps: frames per second of the video.
        models: what made it, for information: name -> description.
    """

    latents: Tensor
    prompt: str
    stage1_embeds: Tensor
    stage2_embeds: Tensor
    stage1: Stage1Settings = field(default_factory=Stage1Settings)
    stage2: Stage2Settings = field(default_factory=Stage2Settings)
    fps: float = DEFAULT_FPS
    content: str = "preview"
    noise_step: int | None = None
    models: dict[str, str] = field(default_factory=dict)
    preview_latents: Tensor | None = None

    @property
    def stage1_latents(self) -> Tensor | None:
        """Stage I's result ``[1, 16, T, h, w]``, if it is here."""
        return self.latents if self.content == "preview" else self.preview_latents

    def as_degraded(self, latents: Tensor, stage2: Stage2Settings, models: dict[str, str]) -> Record:
        """The same history with degraded latents in place of the preview's; ``models`` are those of this run."""
        return replace(
            self,
            latents=latents,
            stage2=stage2,
            content="degraded",
            noise_step=stage2.noise_step,
            models=self.models_with_stage2(models),
            preview_latents=self.stage1_latents,
        )

    def as_refined(self, latents: Tensor, stage2: Stage2Settings, models: dict[str, str]) -> Record:
        """The same history with refined latents, which carry no noise step; ``models`` are those of this run."""
        return replace(
            self,
            latents=latents,
            stage2=stage2,
            content="refined",
            noise_step=None,
            models=self.models_with_stage2(models),
            preview_latents=self.stage1_latents,
        )

    def models_with_stage2(self, models: dict[str, str]) -> dict[str, str]:
        """What made the record and what Stage II, of a run with ``models``, makes of it."""
        return {**models, **{name: text for name, text in self.models.items() if name in _STAGE1_MODELS}}

    def check(self, name: str) -> None:
        """Raise ValueError for contents that cannot be refined or decoded; ``name`` is what messages call it."""
        check_latents(f"the latents of {name}", self.latents)
        check_text(f"the prompt of {name}", self.prompt)
        if self.content == "degraded":
            check_noise_step(-1 if self.noise_step is None else self.noise_step)
        check_fps(self.fps, f"the fps of {name}")
        try:
            self.stage1.check()
            self.stage2.check()
        except ValueError as error:
            raise ValueError(f"{name} has settings that cannot run: {error}") from error
        if self.preview_latents is not None:
            check_latents(f"the preview's latents in {name}", self.preview_latents)
        for part in ("latents", "preview_latents", "stage1_embeds", "stage2_embeds"):
            tensor = getattr(self, part)
            if tensor is None:
                continue
            if not part.endswith("latents") and (tensor.ndim != 3 or not tensor.is_floating_point()):
                raise ValueError(f"{name} has {part} of shape {list(tensor.shape)}; expected floating [1, 226, D].")
            if not torch.isfinite(tensor).all():
                raise ValueError(f"{name} has NaN or infinite {part}. Make it again.")

    def description(self) -> dict[str, Any]:
        """All settings, as they are embedded in video files."""
        return {
            "format": RECORD_FORMAT,
            "content": self.content,
            "prompt": self.prompt,
            "fps": self.fps,
            "noise_step": self.noise_step,
            "stage1": self.stage1.to_dict(),
            "stage2": self.stage2.to_dict(),
            "models": dict(sorted(self.models.items())),
        }

    def save(self, path: str | Path, *, overwrite: bool = False, interim: bool = False) -> Path:
        """Write as safetensors, atomically.

        Args:
            overwrite: replace an existing file.
            interim: mark the file as one that goes once its video is there (:func:`is_interim`).

        Raises:
            ValueError: an output that cannot be written.
        """
        tensors = {"latents": self.latents.float().cpu()}
        if self.preview_latents is not None:
            tensors[_STAGE1_LATENTS] = self.preview_latents.float().cpu()
        tensors |= {"stage1_embeds": self.stage1_embeds.cpu(), "stage2_embeds": self.stage2_embeds.cpu()}
        header = {"format": "pt", _KEY: json.dumps(self.description()), **({_INTERIM: "yes"} if interim else {})}
        return write_safetensors(path, tensor_plan(tensors), header, overwrite=overwrite)


def is_interim(path: Path) -> bool:
    """Whether a file of latents was written only to be decoded, by a run that ended before it could remove it."""
    try:
        return _INTERIM in open_weights(path).metadata
    except ValueError:
        return False


def load_record(path: str | Path) -> Record:
    """Read a file of latents.

    Raises:
        ValueError: no such file, another kind of file, or a damaged one.
    """
    kind = misnamed(expanded(path), SAFETENSORS, TORCH, LEGACY_TORCH)
    if kind.name and not kind.advice:
        raise ValueError(
            f"{path} is {kind.name}, not latents of FlashVideo. Give a .preview.safetensors, which `flashvideo "
            "generate` writes beside its video."
        )
    weights = open_weights(path)
    text = weights.metadata.get(_KEY)
    if text is None:
        raise ValueError(
            f"{path} holds no latents of FlashVideo (its header has no {_KEY}). Give a .preview.safetensors, or "
            "another file of latents that `flashvideo generate` wrote."
        )
    try:
        values = _described(text, path)
        read = {name: weights.tensors[name].read().clone() for name in ("latents", "stage1_embeds", "stage2_embeds")}
        if _STAGE1_LATENTS in weights.tensors:
            read[_STAGE1_LATENTS] = weights.tensors[_STAGE1_LATENTS].read().clone()
        record = Record(
            prompt=values["prompt"],
            stage1=Stage1Settings.from_dict(values["stage1"], f"{path}: stage1"),
            stage2=Stage2Settings.from_dict(values["stage2"], f"{path}: stage2"),
            fps=values["fps"],
            content=values["content"],
            noise_step=values["noise_step"],
            models=values.get("models", {}),
            **read,
        )
        record.check(str(path))
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} is a damaged file of latents ({error!r}). Make it again.") from error
    return record


def _described(text: str, path: str | Path) -> dict[str, Any]:
    """What a file's header says of its latents, every value of the kind that it has to be.

    Raises:
        ValueError: another version's, or a damaged one.
    """
    damaged = f"{path} is a damaged file of latents"
    if len(text) > _MAX_DESCRIPTION:
        raise ValueError(
            f"{damaged}: its description has {len(text)} characters, expected at most {_MAX_DESCRIPTION}. "
            "Make it again."
        )
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{damaged} (its description is no JSON: {error}). Make it again.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{damaged}: its description is {shortened(values)}, expected a table. Make it again.")
    if values["format"] != RECORD_FORMAT or values["content"] not in CONTENTS:
        raise ValueError(
            f"{path} was written by another version (format {shortened(values['format']).strip(chr(39))}, content "
            f"{shortened(values['content'])}); this program reads format {RECORD_FORMAT}. Update it."
        )
    check_known(values, _DESCRIBED, str(path))
    models, step = values.get("models", {}), values["noise_step"]
    for name, right, expected in (
        ("prompt", isinstance(values["prompt"], str), "text"),
        ("fps", is_number(values["fps"]), "a number"),
        ("noise_step", step is None or is_number(step), "a number or null"),
        ("models", isinstance(models, dict), "a table of names"),
    ):
        if not right:
            raise ValueError(f"{damaged}: {name} is {shortened(values[name])}, expected {expected}. Make it again.")
    for name, model in models.items():
        check_text(f"a model's name in {path}", name)
        check_text(f"the {name} of models in {path}", model)
    return values
