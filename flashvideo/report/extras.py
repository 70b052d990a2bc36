"""Other weights to compare with: ``NAME=PATH[,noise_step=N][,base=PATH][,only=SECTION]``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from ..checkpoints.files import open_weights
from ..checkpoints.paths import expanded
from ..loading.load import fitting_lora, load_stage1, load_stage2, open_stage
from ..loading.source import stored_student
from ..method.checks import check_noise_step
from ..runs.inspect import inspect_checkpoint
from .models import Extra, LoadedModels, Stage
from .record import Weights, hash_weights, joint

_COMPARED = ("training", "sizes", "adaptation", "cost")


@dataclass(frozen=True)
class ExtraFile:
    """A checkpoint, or a LoRA with the transformer that it belongs to.

    Attributes:
        base: of a LoRA.
        noise_step, only: see :class:`~flashvideo.report.models.Extra`.
    """

    name: str
    path: Path
    stage: Stage
    base: Path | None = None
    noise_step: int | None = None
    only: str | None = None

    def hashes(self) -> dict[str, Weights]:
        """By the names that :func:`~flashvideo.report.run.run_report` takes; a LoRA's with its base's."""
        files = [self.path] if self.base is None else [self.base, self.path]
        return {f"extra {self.name}": joint(*map(hash_weights, files))}

    def load(self, dtype: torch.dtype | None, device: torch.device) -> Any:
        """The transformer, LoRA merged."""
        loader = load_stage1 if self.stage == "stage1" else load_stage2
        lora = None if self.base is None else self.path
        return loader(self.base or self.path, dtype=dtype, device=device, lora=lora)

    def extra(self, models: LoadedModels, dtype: torch.dtype | None, device: torch.device) -> Extra:
        """In its stage's place; loaded at first use."""
        own = models.with_stage(self.stage, lambda: self.load(dtype, device))
        return Extra(self.name, self.stage, own, self.noise_step, self.only, stored_student(open_weights(self.path)))


def parse_extra(text: str) -> ExtraFile:
    """Read an option and the headers of its files.

    Raises:
        ValueError: another form, files that are missing, damaged or of another kind, a LoRA without its base.
    """
    first, *more = text.split(",")
    name, equals, path = first.partition("=")
    options = dict(part.partition("=")[::2] for part in more)
    unknown = set(options) - {"noise_step", "base", "only"}
    if not name or not equals or not path or unknown or not all(options.values()):
        raise ValueError(
            f"extra {text!r}; expected NAME=PATH, with ,noise_step=N, ,base=PATH or ,only=SECTION after it if needed."
        )
    only, step = options.get("only"), options.get("noise_step")
    if only not in (None, *_COMPARED):
        raise ValueError(f"the extra {name} is only for {only!r}; expected one of {', '.join(_COMPARED)}.")
    if step is not None:
        if not step.isdecimal():
            raise ValueError(f"noise_step of the extra {name} is {step!r}; expected a whole number, 0 to 999.")
        check_noise_step(int(step))
    file, base = (expanded(one) if one else None for one in (path, options.get("base")))
    assert file is not None
    return ExtraFile(name, file, _stage_of(name, file, base), base, None if step is None else int(step), only)


def check_text_width(extra: ExtraFile, text_width: int, text_length: int) -> None:
    """Raise ValueError unless the transformer takes the prompts that the others take."""
    config = open_stage(extra.base or extra.path, extra.stage).config
    width, length = config["text_embed_dim"], config.get("max_text_seq_length", text_length)
    if (width, length) != (text_width, text_length):
        raise ValueError(
            f"the extra {extra.name} takes prompts of {length} tokens of width {width}; the models take "
            f"{text_length} of {text_width}. Give weights that were trained with the same text encoder."
        )


def _stage_of(name: str, path: Path, base: Path | None) -> Stage:
    for one in (path, base):
        if one is not None and not one.exists():
            raise ValueError(f"There is no {one}, which was given for the extra {name}.")
    kind = inspect_checkpoint(path, values=False).kind
    if kind == "lora":
        if base is None:
            raise ValueError(f"{path} is a LoRA. Name the transformer that it was trained on: {name}={path},base=PATH.")
        kind = inspect_checkpoint(base, values=False).kind
        if kind in ("stage1", "stage2"):
            fitting_lora(path, 1.0, open_stage(base, kind))
    elif base is not None:
        raise ValueError(f"the extra {name} has a base, but {path} is no LoRA. Leave the base out.")
    if kind not in ("stage1", "stage2"):
        raise ValueError(f"{base or path} is no transformer of Stage I or II (found: {kind}), given for extra {name}.")
    open_stage(base or path, kind)
    return cast(Stage, kind)
