"""How strongly a LoRA acts: every place where a file, or what lies beside it, may say so, and which one holds.

In this order: a module's ``alpha``, PEFT's configuration in the header, ``adapter_config.json`` beside the file, plain
entries of the header. Who states nothing acts with scale 1, as everywhere; published files with 1 / rank.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..checkpoints.files import WeightFile, name_list
from ..checkpoints.metadata import read_metadata

_CONFIG_FILE = "adapter_config.json"
_CONFIG_ENTRIES = ("lora_adapter_metadata", "adapter_config", "peft_config", "lora_config")  # the first is diffusers'
_PLAIN_ENTRIES = {  # field of PEFT's configuration -> its names as plain entries of a header
    "lora_alpha": ("lora_alpha", "alpha", "network_alpha", "ss_network_alpha"),
    "r": ("r", "rank", "lora_rank", "lora_dim", "network_dim", "ss_network_dim"),
    "use_rslora": ("use_rslora", "rslora", "rs_lora"),
    "alpha_pattern": ("alpha_pattern",),
    "rank_pattern": ("rank_pattern",),
}
_MORE_THAN_LORA = {  # field of PEFT's configuration -> what it makes of the adapter, if it is set
    "use_dora": "a DoRA",
    "lora_bias": "a LoRA with biases of its own",
    "modules_to_save": "a LoRA with whole modules trained beside it",
    "trainable_token_indices": "a LoRA with trained tokens beside it",
    "layer_replication": "a LoRA of repeated layers",
    "target_parameters": "a LoRA of bare parameters",
    "alora_invocation_tokens": "an activated LoRA",
    "use_qalora": "a QALoRA",
    "use_bdlora": "a block-diagonal LoRA",
    "arrow_config": "a mixture of LoRAs",
    "kasa_config": "a KaSA",
    "monteclora_config": "a MonteCLoRA",
}
_CHANGED_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")  # starts that change the model's own weights
_WITHOUT_EFFECT = {  # on what a trained adapter does
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "bias"),
    *("inference_mode", "target_modules", "exclude_modules", "lora_dropout", "fan_in_fan_out", "layers_to_transform"),
    *("layers_pattern", "megatron_config", "megatron_core", "init_lora_weights", "loftq_config", "eva_config"),
    *("corda_config", "lora_ga_config", "velora_config", "qalora_group_size", "runtime_config", "ensure_weight_tying"),
}
_SETTINGS_OF_USE = ("scale", "scaling", "lora_scale", "lora_weight", "strength")
_QUANTIFIER = re.compile(r"(?<![\\(])[*+{?]")
_OF_GROUP = re.compile(r"\)[*+{]")
_MOST_QUANTIFIERS, _LONGEST_PATTERN, _MOST_EXPRESSIONS = 3, 500, 200
_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf"}


@dataclass(frozen=True)
class LoraScale:
    """What B A is multiplied by.

    Attributes:
        value: the factor.
        formula: how it comes about, such as ``alpha 8 / sqrt(rank 4)``.
        source: where that is stated.
    """

    value: float
    formula: str
    source: str

    def __str__(self) -> str:
        return f"{self.value:.6g} ({self.formula}, {self.source})"

    @classmethod
    def published(cls, rank: int) -> LoraScale:
        """Of the authors' files, which state none."""
        return cls(1 / rank, f"alpha 1 / rank {rank}", "as the authors have it")


@dataclass(frozen=True)
class _Pattern:
    """An entry of ``alpha_pattern`` or ``rank_pattern``: an expression for a name, or for its end after a dot."""

    text: str
    expression: re.Pattern[str]
    value: Any

    def fits(self, names: tuple[str, ...]) -> bool:
        return any(self.expression.match(name) for name in names)


@dataclass(frozen=True)
class _Statement:
    """What one place states."""

    path: Path
    source: str
    alpha: float | None
    rank: int | None
    rank_stabilised: bool
    alphas: tuple[_Pattern, ...]
    ranks: tuple[_Pattern, ...]

    def scale(self, names: tuple[str, ...], rank: int) -> LoraScale | None:
        """Of the module of these names; ``None`` if nothing is stated of it."""
        stated = _chosen(self.ranks, names, self.rank)
        if stated is not None and stated != rank:
            raise ValueError(
                f"{self.path}: {self.source} says rank {stated} of {names[0]}, its tensors have rank "
                f"{rank}. Use the configuration that was saved with these weights, or a folder without it."
            )
        alpha = _chosen(self.alphas, names, self.alpha)
        if alpha is None:
            if self.rank_stabilised or self.alphas:
                raise ValueError(f"{self.path}: {self.source} states no alpha of {names[0]}: its strength is unknown.")
            return None
        if self.rank_stabilised:
            return LoraScale(alpha / math.sqrt(rank), f"alpha {alpha:g} / sqrt(rank {rank})", f"from {self.source}")
        return LoraScale(alpha / rank, f"alpha {alpha:g} / rank {rank}", f"from {self.source}")


def _chosen(patterns: tuple[_Pattern, ...], names: tuple[str, ...], default: Any) -> Any:
    """PEFT's choice: the first that fits."""
    return next((pattern.value for pattern in patterns if pattern.fits(names)), default)


@dataclass
class LoraScales:
    """The scales of a LoRA file's modules.

    Attributes:
        statements: of places other than the modules' own alphas, in order.
        folded: of Kohya's trainers' headers, for files without alphas; read when needed.
        unstated: what is said where nothing is stated.
        notes: what people should know of them.
        contradictions: (the scale that is used, another that is stated) -> modules.
    """

    statements: list[_Statement] = field(default_factory=list)
    folded: Callable[[], _Statement] | None = None
    unstated: str = "no alpha is stated"
    notes: list[str] = field(default_factory=list)
    contradictions: dict[tuple[LoraScale, LoraScale], list[str]] = field(default_factory=dict)

    def of(self, names: tuple[str, ...], rank: int, alpha: float | None, *, published: bool, bare: bool) -> LoraScale:
        """Of one module.

        Args:
            names: what it may be called in a configuration's patterns.
            rank: of its tensors.
            alpha: of the file's tensor for this module.
            published: its names are the authors', whose alpha is 1.
            bare: it is stored as ``lora_A`` and ``lora_B``.

        Raises:
            ValueError: a rank that is not its tensors', or half a statement.
        """
        stated = [] if alpha is None else [LoraScale(alpha / rank, f"alpha {alpha:g} / rank {rank}", "from its alpha")]
        stated += [scale for statement in self.statements if (scale := statement.scale(names, rank))]
        if self.folded is not None and not stated:
            statement = self.folded()
            scale = statement.scale(names, rank)
            if scale and not bare:
                stated.append(scale)
            elif scale and not math.isclose(scale.value, 1):
                note = (
                    f"{statement.source} says alpha {statement.alpha:g}, which files of these names have in their "
                    "weights already: scale 1 is used."
                )
                self.notes += [note] if note not in self.notes else []
        for other in stated[1:]:
            if not math.isclose(other.value, stated[0].value, rel_tol=1e-6):
                self.contradictions.setdefault((stated[0], other), []).append(names[0])
        if stated:
            return stated[0]
        if published:
            return LoraScale.published(rank)
        return LoraScale(1.0, "1", self.unstated)

    def all_notes(self, names: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
        """Notes, contradictions and patterns that fit no module, after :meth:`of` was asked for each of ``names``."""
        notes, names = list(self.notes), list(names)
        for (used, other), modules in self.contradictions.items():
            notes.append(f"contradicting scales of {name_list(modules)}: {used}, is used; {other}, is not.")
        for statement in self.statements:
            patterns = (*statement.alphas, *statement.ranks)
            unused = {pattern.text for pattern in patterns if not any(pattern.fits(name) for name in names)}
            if unused:
                notes.append(f"{statement.source} states something of {name_list(unused)}: no module of this file.")
        return tuple(notes)


def read_scales(weights: WeightFile) -> LoraScales:
    """Everything that is stated of a LoRA file's scales, apart from its modules' own alphas.

    Raises:
        ValueError: a configuration that cannot be read, of another kind of adapter, or with values that are no numbers.
    """
    if read_metadata(weights).kind == "lora":  # ours have their scales in B, whatever lies beside them
        return LoraScales(unstated="any other is in the weights already")
    scales = LoraScales()
    header = {**weights.extra, **weights.metadata}
    for entry in _CONFIG_ENTRIES:
        if header.get(entry):
            source = f"{entry} of {weights.path.name}"
            _add_config(scales, weights.path, source, _parse(weights.path, source, header[entry]))
    file, note = _config_beside(weights)
    scales.notes += [note] if note else []
    if file is not None:
        _add_config(scales, weights.path, _CONFIG_FILE, _read_config(file))
    _add_plain(scales, weights, header)
    return scales


def _add_config(scales: LoraScales, path: Path, source: str, config: Mapping[str, Any]) -> None:
    config = _of_transformer(path, source, config)
    _refuse_more_than_lora(path, source, config)
    unknown = [k for k, v in config.items() if v and k not in (*_PLAIN_ENTRIES, *_MORE_THAN_LORA, *_WITHOUT_EFFECT)]
    if unknown:
        scales.notes.append(f"{source} states {name_list(unknown)}, which is not known here and was not regarded.")
    stated = {name: (name, config[name]) for name in _PLAIN_ENTRIES if config.get(name) is not None}
    scales.statements.append(_statement(path, source, stated))


def _add_plain(scales: LoraScales, weights: WeightFile, header: Mapping[str, Any]) -> None:
    """Single entries of a header; those of Kohya's trainers apart, since they stay when the scale is folded away."""
    plain = {key.removeprefix("transformer."): value for key, value in header.items() if value not in ("", "None")}
    for key in (key for key in _SETTINGS_OF_USE if _number(plain.get(key)) not in (None, 1)):
        scales.notes.append(
            f"the header says {key} {shown(plain[key])}: what its maker used it with, and no part of it. Give it "
            "as the strength if you want the same."
        )
    found = {name: [key for key in keys if key in plain] for name, keys in _PLAIN_ENTRIES.items()}
    fields = {name: (keys[0], plain[keys[0]]) for name, keys in found.items() if keys}
    source = f"the header of {weights.path.name}"
    if "lora_alpha" in fields and fields["lora_alpha"][0] == "ss_network_alpha":
        scales.folded = partial(_kohya_statement, weights.path, source, plain)
    elif fields.keys() & {"lora_alpha", "alpha_pattern", "use_rslora"}:
        scales.statements.append(_statement(weights.path, source, fields))


def _kohya_statement(path: Path, source: str, plain: Mapping[str, Any]) -> _Statement:
    """Without a rank: modules may have others than the one of the header, and alpha is divided by theirs."""
    stated = {"lora_alpha": ("ss_network_alpha", plain["ss_network_alpha"])}
    arguments = _parse(path, f"ss_network_args in {source}", plain.get("ss_network_args", "{}"))
    if "rs_lora" in arguments:
        stated["use_rslora"] = ("rs_lora", arguments["rs_lora"])
    return _statement(path, f"ss_network_alpha in {source}", stated)


def _of_transformer(path: Path, source: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a pipeline's configurations that is the transformer's: diffusers puts the component's name before."""
    chosen: dict[str, Any] = {}
    for key, value in config.items():
        component, _, name = str(key).rpartition(".")
        if component not in ("", "transformer"):
            continue
        if name in chosen and chosen[name] != value:
            raise ValueError(
                f"{path}: {source} states two values of {name}: {shown(chosen[name])} and {shown(value)}. Keep one."
            )
        chosen[name] = value
    return chosen


def _refuse_more_than_lora(path: Path, source: str, config: Mapping[str, Any]) -> None:
    """Raise ValueError if a configuration is of an adapter that is not W + s B A on the model's own weights."""
    kinds = [words for name, words in _MORE_THAN_LORA.items() if config.get(name) not in (None, False, [], {}, "")]
    method = config.get("peft_type")
    if method not in (None, "", "LORA"):
        kinds.append(f"PEFT's {method}")
    if config.get("bias") not in (None, "", "none"):
        kinds.append("a LoRA with trained biases beside it")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGED_BASES):
        kinds.append(
            f"a LoRA that began with {start}, for which the model's own weights were changed too (PEFT saves it as a "
            "plain one with path_initial_model_for_weight_conversion)"
        )
    if kinds:
        raise ValueError(f"{path}: {source} says that this is {' and '.join(kinds)}; only plain LoRA is read.")


def _statement(path: Path, source: str, fields: Mapping[str, tuple[str, Any]]) -> _Statement:
    """Numbers out of ``{field: (its name here, value)}``."""

    def patterns(name: str, convert: Any) -> tuple[_Pattern, ...]:
        key, value = fields.get(name, (name, {}))
        if isinstance(value, str):
            value = _parse(path, f"{key} in {source}", value)
        if not isinstance(value, Mapping):
            raise ValueError(f"{path}: {source} says {key} {shown(value)}; expected a table of module names.")
        if sum(_QUANTIFIER.search(str(text)) is not None for text in value) > _MOST_EXPRESSIONS:
            raise ValueError(f"{path}: {source} has more than {_MOST_EXPRESSIONS} expressions in {key}. Name modules.")
        return tuple(
            _Pattern(str(text), _expression(path, source, str(text)), convert(f"{key} of {text}", number))
            for text, number in value.items()
        )

    def alpha(key: str, value: Any) -> float:
        return lora_alpha(value, f"{path}: {source} says {key} {shown(value)}")

    def rank(key: str, value: Any) -> int:
        number = _number(value)
        if number is None or number < 1 or number != int(number):
            raise ValueError(f"{path}: {source} says {key} {shown(value)}; expected a whole number from 1 up.")
        return int(number)

    def flag(key: str, value: Any) -> bool:
        known = {"true": True, "1": True, "false": False, "0": False, "none": False}
        text = shown(value).strip("'").lower()
        if text not in known:
            raise ValueError(f"{path}: {source} says {key} {shown(value)}; expected true or false.")
        return known[text]

    return _Statement(
        path,
        source,
        alpha(*fields["lora_alpha"]) if "lora_alpha" in fields else None,
        rank(*fields["r"]) if "r" in fields else None,
        flag(*fields["use_rslora"]) if "use_rslora" in fields else False,
        patterns("alpha_pattern", alpha),
        patterns("rank_pattern", rank),
    )


def lora_alpha(value: Any, says: str) -> float:
    """An alpha as a number.

    Raises:
        ValueError: NaN, infinity, 0 or no number at all. 0 is no effect to some programs and full effect to others.
    """
    number = _number(value)
    if number is None or number == 0:
        raise ValueError(f"{says}; expected a finite number, not 0. Get an undamaged file, or correct it.")
    return number


def shown(value: Any) -> str:
    """A value for a message: of a table, list or endless number what it is."""
    plain = isinstance(value, (str, float, bool, type(None))) or (isinstance(value, int) and abs(value) < 1 << 64)
    return f"{value!r:.80}" if plain else f"({type(value).__name__})"


def _number(value: Any) -> float | None:
    try:
        number = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number is not None and math.isfinite(number) else None


def _expression(path: Path, source: str, text: str) -> re.Pattern[str]:
    """A pattern out of a file as PEFT takes it: none that is damaged, or that could take forever."""
    quantifiers = len(_QUANTIFIER.findall(text))
    if len(text) > _LONGEST_PATTERN or quantifiers > (1 if _OF_GROUP.search(text) else _MOST_QUANTIFIERS):
        raise ValueError(f"{path}: {source} has the pattern {text:.80}, which could take forever. Name the modules.")
    try:
        return re.compile(rf"(.*\.)?({text})$")
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{path}: {source} has the pattern {text:.80}, which is none ({error}).") from error


def _config_beside(weights: WeightFile) -> tuple[Path | None, str]:
    """``adapter_config.json`` of a file or folder if it belongs to it; else what people should know of it."""
    path = weights.path
    file = (path if path.is_dir() else path.parent) / _CONFIG_FILE
    if not file.is_file():
        return None, ""
    others = [f for f in file.parent.iterdir() if f.suffix in _WEIGHT_SUFFIXES and f not in weights.files]
    if others and not any(own.stem.startswith("adapter_model") for own in weights.files):
        return None, (
            f"{file} was not used: other weights lie there too, and the name that PEFT gives to its own is "
            f"adapter_model. Put {path.name} and it into a folder of their own if they belong together."
        )
    return file, ""


def _read_config(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read ({error}). Get it again, or remove it.") from error
    return _parse(file, "it", text)


def _parse(path: Path, source: str, value: Any) -> dict[str, Any]:
    """A table, out of JSON if it is text."""
    try:
        table = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {source} is no JSON ({error}). Get an undamaged file.") from error
    if not isinstance(table, dict):
        raise ValueError(f"{path}: {source} is no table of settings. Get an undamaged file.")
    return table
