"""Options that several commands share, and how they become settings."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from ..checkpoints.files import name_list, open_weights
from ..checkpoints.metadata import STAGES
from ..checkpoints.paths import expanded
from ..loading.convert import OUTPUT_DTYPES
from ..loading.model_store import ModelStore, find_models, models_folder
from ..loading.source import stored_student
from ..method.checks import shortened
from ..method.student import check_student_guidance
from ..runs.fields import Setting, settings_of
from ..runs.settings import Stage1Settings, Stage2Settings, VideoSettings
from ..runs.sizes import ANY_SIZE, FIXED_SIZES, SIZES, parse_size, size_name, target_size

SETTINGS_FILE = "settings.json"  # in a models folder
_MAX_SETTINGS = 1 << 20  # bytes
_DTYPES = {name: dtype for name, dtype in OUTPUT_DTYPES.items() if dtype.itemsize > 1}
Size = tuple[int, int]
_ANY_SHAPE = (256, 480)  # to check a size with that depends on one
_Settings = TypeVar("_Settings", Stage1Settings, Stage2Settings)


@dataclass(frozen=True)
class Option:
    """A setting as it is named from outside. The two sides of a size are one option.

    Attributes:
        name: without the dashes in front.
        fields: what it sets.
    """

    name: str
    fields: tuple[Setting, ...]

    @property
    def is_size(self) -> bool:
        return len(self.fields) == 2

    @property
    def help(self) -> str:
        return self.fields[0].help

    @property
    def range(self) -> str:
        """The values that run, in words."""
        if self.is_size:
            return ANY_SIZE if self.fields[0].of_input else FIXED_SIZES
        return self.fields[0].range

    @property
    def expected(self) -> str:
        """The same, as messages say it."""
        return self.range if self.is_size else self.fields[0].expected

    def value(self, settings: Any) -> Any:
        """What one would give to get these settings."""
        values = [getattr(settings, one.name) for one in self.fields]
        return size_name(*values) if self.is_size else values[0]

    def chosen(self, value: Any, shape: Size | None = None) -> dict[str, Any]:
        """The fields' values for what was given; ``shape`` is (height, width) of what is enlarged, for its size."""
        values = self._size(value, shape) if self.is_size else (value,)
        return {
            one.name: each if one.given is None else one.given(each)
            for one, each in zip(self.fields, values, strict=True)
        }

    def _size(self, text: str, shape: Size | None) -> Size:
        if shape is None or not self.fields[0].of_input:
            return parse_size(text)
        return target_size(text, *shape)

    def check_default(self, value: Any) -> None:
        """Raise ValueError unless a value of a ``settings.json`` runs; numbers may be words there."""
        kind = self.fields[0].kind
        if self.is_size:
            self._size(str(value), _ANY_SHAPE)
        else:
            self.fields[0].check(value if kind is str else kind(str(value)))

    def add_to(self, group: Any, name: str, default: Any, shown: str) -> None:
        """Add it to a parser's group under a name; ``shown`` is what the help says of the default."""
        more = (f" One of {self.range}." if self.is_size else "") + (f" (default: {shown})" if shown else "")
        text = (self.help + more).replace("%", "%%")
        kind, choices = self.fields[0].kind, self.fields[0].choices
        if kind is bool:  # given without a value, it turns the default round
            group.add_argument(f"--{name}", action="store_const", const=not self.fields[0].default, help=text)
        elif choices:
            group.add_argument(f"--{name}", choices=choices, default=default, help=text)
        else:
            group.add_argument(f"--{name}", type=str if self.is_size else kind, default=default, help=text)


def _shown(default: Any) -> str:
    """A default in words; "" for what is off."""
    if default is None or isinstance(default, bool):
        return ""
    return f"{default:g}" if isinstance(default, float) else str(default)


def options_of(kind: type) -> list[Option]:
    """The options of a settings dataclass, in the order of its fields."""
    grouped: dict[str, list[Setting]] = {}
    for one in settings_of(kind).values():
        if one.option:
            grouped.setdefault(one.option, []).append(one)
    return [Option(name, tuple(fields)) for name, fields in grouped.items()]


@dataclass(frozen=True)
class OptionGroup:
    """The options of a command for one kind of settings.

    Attributes:
        title: over them in the help.
        kind: dataclass of the settings.
        leave_out: options that the command does not have.
        renamed: option -> what the command calls it.
    """

    title: str
    kind: type
    leave_out: Collection[str] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)

    def options(self) -> list[tuple[str, Option]]:
        """The options with the command's names for them."""
        options = [option for option in options_of(self.kind) if option.name not in self.leave_out]
        return [(self.renamed.get(option.name, option.name), option) for option in options]

    def add_to(self, parser: argparse.ArgumentParser, usual: Any, otherwise: str = "") -> None:
        """Add the options, their defaults from ``usual``; None: none, and the help says what holds ``otherwise``."""
        group = parser.add_argument_group(self.title)
        for name, option in self.options():
            default = None if usual is None else option.value(usual)
            shown = otherwise if usual is None else _shown(default)
            option.add_to(group, name, default, shown)

    def settings(self, options: argparse.Namespace, base: _Settings, shape: Size | None = None) -> _Settings:
        """``base`` with the options that were given, checked.

        Args:
            shape: (height, width) of what is enlarged, for sizes that depend on it.

        Raises:
            ValueError: settings that cannot run.
        """
        changes: dict[str, Any] = {}
        for name, option in self.options():
            value = getattr(options, name.replace("-", "_"), None)
            changes |= {} if value is None else option.chosen(value, shape)
        settings = replace(base, **changes)
        settings.check()
        return settings


_STAGE1 = OptionGroup(STAGES["stage1"], Stage1Settings)
_STAGE2 = OptionGroup(STAGES["stage2"], Stage2Settings)
_STAGE2_BESIDE = OptionGroup(STAGES["stage2"], Stage2Settings, leave_out=("seed",))  # Stage I's is of both
_STAGE2_ALONE = OptionGroup(STAGES["stage2"], Stage2Settings, leave_out=("motion",))  # the preview's embeddings hold it
_VIDEO = OptionGroup("video", VideoSettings)


def add_stage1_options(parser: argparse.ArgumentParser) -> None:
    """The options of Stage I and of the videos."""
    _STAGE1.add_to(parser, Stage1Settings())
    _VIDEO.add_to(parser, VideoSettings())


def add_stage2_options(parser: argparse.ArgumentParser, *, defaults: bool) -> None:
    """Stage II's options; without defaults they are ``None`` and a preview's own settings hold."""
    if defaults:
        _STAGE2_BESIDE.add_to(parser, Stage2Settings())
    else:
        _STAGE2_ALONE.add_to(parser, None, "as the preview was made for")


def stage1_settings(options: argparse.Namespace) -> Stage1Settings:
    return _STAGE1.settings(options, Stage1Settings())


def stage2_settings(options: argparse.Namespace, base: Stage2Settings, shape: Size | None = None) -> Stage2Settings:
    """``base`` with the options that were given; ``shape`` is (height, width) of the preview."""
    return _STAGE2.settings(options, base, shape)


def settings_of_models(options: argparse.Namespace, base: Stage2Settings, shape: Size) -> Stage2Settings:
    """``base`` with what :func:`model_defaults` says, at 1080p if it says nothing of sizes.

    Args:
        shape: (height, width) of what is enlarged.

    Raises:
        ValueError: a ``settings.json`` that cannot be read.
    """
    table = model_defaults(options)
    values = argparse.Namespace(size=table.get("size", size_name(*SIZES["1080p"])))
    for option in options_of(Stage2Settings):
        if (
            (name := option.name.replace("-", "_")) in table
            and not option.is_size
            and option.fields[0].kind is not bool
        ):
            setattr(values, name, option.fields[0].kind(table[name]))
    return _STAGE2.settings(values, base, shape)


def settings_table() -> str:
    """All options of the stages and their videos as a Markdown table."""
    lines = ["| option | default | values | |", "|---|---|---|---|"]
    for group in (_STAGE1, _STAGE2_BESIDE, _VIDEO):
        for name, option in group.options():
            default = _shown(option.value(group.kind()))
            shown = f"`{default}`" if default else "off"
            lines.append(f"| `--{name}` | {shown} | {option.range} | {option.help} |")
    return "\n".join(lines)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("models")
    group.add_argument(
        "--models",
        default=os.environ.get("FLASHVIDEO_MODELS"),
        help="folder of stage1, stage2, the VAE and the text encoder; 'tiny' is bundled (default: $FLASHVIDEO_MODELS)",
    )
    add_paths(group, "stage1", "stage2", "vae", "text-encoder", "tokenizer")
    group.add_argument("--lora", metavar="FILE", help="LoRA to merge into Stage I, of any naming")
    group.add_argument("--lora-scale", type=float, default=1.0, metavar="S")
    add_device(group)
    group.add_argument(
        "--dtype",
        choices=_DTYPES,
        help="of transformers and text encoder (default: the files'; fp32 for fp16 files on a CPU)",
    )
    group.add_argument("--vae-dtype", choices=_DTYPES, help="of the VAE (default: bf16 on a GPU, else as --dtype)")
    group.add_argument(
        "--offload",
        choices=("auto", "none", "cpu", "disk"),
        nargs="?",
        const="cpu",
        default="auto",
        help="take each model off the device after use: into host memory (cpu), by loading it again (disk), not at all "
        "(none), or whatever fits what is free (auto)",
    )


def add_paths(group: Any, *names: str) -> None:
    """Options for the path of each of these parts."""
    for name in names:
        group.add_argument(f"--{name}", metavar="PATH", help=f"{name.replace('-', ' ')}: file or folder")


def add_device(group: Any) -> None:
    group.add_argument("--device", default="auto", help="auto, cuda, cuda:1, mps or cpu (default: auto)")


def folder_defaults(models: str | None) -> dict[str, str]:
    """What the ``settings.json`` of a models folder says, as argparse takes defaults: words, which it converts as if
    they had been typed.

    Args:
        models: as ``--models`` names the folder.

    Raises:
        ValueError: a ``settings.json`` that cannot be read, or with other names or kinds of values.
    """
    file = None if models is None else models_folder(models) / SETTINGS_FILE
    if file is None or not file.is_file():
        return {}
    known = {
        option.name: option
        for kind in (Stage1Settings, Stage2Settings, VideoSettings)
        for option in options_of(kind)
        if option.fields[0].of_models
    }
    try:
        if (size := file.stat().st_size) > _MAX_SETTINGS:
            raise ValueError(f"it has {size} bytes, expected at most {_MAX_SETTINGS}")
        table = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read ({error}). Mend it or take it away.") from error
    if not isinstance(table, dict) or set(table) - set(known):
        wrong = name_list(set(table) - set(known)) if isinstance(table, dict) else shortened(table)
        raise ValueError(f"{file} has {wrong}; expected a table of these: {', '.join(known)}.")
    for name, value in table.items():
        try:
            known[name].check_default(value)
        except (ValueError, RecursionError):
            raise ValueError(f"{file} has {name!r} as {shortened(value)}; expected {known[name].expected}.") from None
    return {name.replace("-", "_"): str(value) for name, value in table.items()}


def model_defaults(options: argparse.Namespace) -> dict[str, str]:
    """What the models that are named say of Stage II's options: a student what it was made for, before all the
    ``settings.json``; see :func:`folder_defaults`.

    Raises:
        ValueError: a ``settings.json`` or a Stage II that cannot be read.
    """
    defaults = folder_defaults(options.models)
    path = find_models(options.models, {"stage2": options.stage2}, (), ("stage2",)).stage2
    student = None if path is None else stored_student(open_weights(path, "transformer"))
    if student is not None:
        own = student.sampling
        defaults |= {
            option.name: str(own[option.fields[0].name])
            for option in options_of(Stage2Settings)
            if option.fields[0].name in own
        }
    return defaults


def check_student(models: ModelStore, stage2: Stage2Settings) -> None:
    """Raise ValueError for guidance on top of a student's own, unless it was asked for."""
    check_student_guidance(models.student, stage2.guidance_scale, stage2.guide_student)


def pick_device(name: str) -> torch.device:
    """``auto`` is this process's GPU, else MPS, else the CPU.

    Raises:
        ValueError: a device that is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device {name!r} cannot be used ({str(error).splitlines()[0]:.120}). Use auto or cpu."
        ) from error
    return device


def model_store(options: argparse.Namespace, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> ModelStore:
    """The models that a command needs, found and checked by their headers.

    Raises:
        ValueError: missing, wrong or damaged files, or a device that is not there.
    """
    given = {
        "stage1": options.stage1,
        "stage2": options.stage2,
        "vae": options.vae,
        "text": options.text_encoder,
        "tokenizer": options.tokenizer,
        "draft": getattr(options, "draft_decoder", None),
    }
    device = pick_device(options.device)
    if options.lora is not None and not expanded(options.lora).exists():
        raise ValueError(f"There is no LoRA file {options.lora}.")
    vae_dtype = _DTYPES[options.vae_dtype] if options.vae_dtype else None
    store = ModelStore(
        find_models(options.models, given, needed, optional),
        device=device,
        dtype=_DTYPES[options.dtype] if options.dtype else None,
        vae_dtype=vae_dtype or (torch.bfloat16 if device.type != "cpu" and options.dtype is None else None),
        lora=options.lora,
        lora_scale=options.lora_scale,
        offload="none" if options.offload == "auto" else options.offload,  # until the sizes are known
    )
    store.check()
    return store
