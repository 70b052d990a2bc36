"""Training runs as TOML files: read strictly, so that a misspelt key never trains the wrong thing."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

from ..checkpoints.paths import expanded
from ..method.checks import shortened
from ..runs.settings import MAX_SEED

T = TypeVar("T")
MAX_COUNT = 10**9  # of steps
MAX_BATCH = 1 << 16
MAX_WORKERS = 1024
MAX_FILE = 1 << 20  # bytes of a configuration


@dataclass(frozen=True)
class RunSettings:
    """How to optimise; defaults are the paper's (section 4.2).

    Attributes:
        seed: of everything that is drawn; the same seed gives the same run.
        learning_rate, betas, weight_decay, max_grad_norm: of the optimiser.
        warmup_steps: over which the learning rate rises from zero.
        decay: of the learning rate over all phases: ``constant`` (the paper's) or ``cosine``, down to 1 %.
        optimizer: ``adamw``, ``adamw8bit`` (needs bitsandbytes) or ``muon`` (small models from nothing).
        precision: ``fp32``, ``bf16`` or ``fp16`` autocast; weights stay as they are.
        gradient_checkpointing: recompute activations instead of keeping them.
        gradient_accumulation: micro-batches per step.
        ema: decay of the averaged weights that are exported, 0 for none.
        save_every, keep: steps between checkpoints to resume from, and how many of them stay.
        log_every: steps between lines of the log.
        workers: threads that prepare batches ahead; 0 prepares them in line.
    """

    seed: int = 0
    learning_rate: float = 4e-5
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 1e-4
    max_grad_norm: float = 0.1
    warmup_steps: int = 0
    decay: Literal["constant", "cosine"] = "constant"
    optimizer: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    gradient_checkpointing: bool = False
    gradient_accumulation: int = 1
    ema: float = 0.0
    save_every: int = 1000
    keep: int = 2
    log_every: int = 50
    workers: int = 0

    def check(self) -> None:
        """Raise ValueError for settings that cannot run."""
        _positive("run.learning_rate", self.learning_rate)
        _positive("run.max_grad_norm", self.max_grad_norm)
        for name in ("gradient_accumulation", "save_every", "log_every", "keep"):
            _positive(f"run.{name}", getattr(self, name), MAX_COUNT)
        _at_most("run.warmup_steps", self.warmup_steps, MAX_COUNT)
        _at_most("run.workers", self.workers, MAX_WORKERS)
        _at_most("run.seed", self.seed, MAX_SEED)
        for name in ("warmup_steps", "workers", "seed", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"run.{name} is {getattr(self, name)}; expected zero or more.")
        if not 0 <= self.ema < 1:
            raise ValueError(f"run.ema is {self.ema}; expected 0 (none) to below 1, for example 0.999.")


@dataclass(frozen=True)
class Phase:
    """A stretch of a run with its own data; each kind of training adds its settings.

    Attributes:
        steps: optimiser steps.
        batch_size: samples of one micro-batch on one device.
    """

    steps: int = 1000
    batch_size: int = 1

    def check(self, where: str) -> None:
        """Raise ValueError for settings that cannot run."""
        _positive(f"{where}.steps", self.steps, MAX_COUNT)
        _positive(f"{where}.batch_size", self.batch_size, MAX_BATCH)


def _positive(name: str, value: float, most: float = math.inf) -> None:
    if (isinstance(value, float) and not math.isfinite(value)) or value <= 0:
        raise ValueError(f"{name} is {value}; expected a positive number.")
    _at_most(name, value, most)


def _at_most(name: str, value: float, most: float) -> None:
    if value > most:
        raise ValueError(f"{name} is {shortened(value)}; expected at most {most}.")


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a file, put onto those of the file that it ``extends``, if it does (a path beside it).

    Tables are merged; everything else, phases included, is replaced.

    Raises:
        ValueError: no such file, one that is not TOML, or files that extend one another.
    """
    path = expanded(path).resolve()
    table, seen = _read_one(path), [path]
    while (base := table.pop("extends", None)) is not None:
        seen.append((seen[-1].parent / str(base)).resolve())
        if len(set(seen)) < len(seen):
            raise ValueError(f"{path} extends itself: {' -> '.join(one.name for one in seen)}.")
        table = _merged(_read_one(seen[-1]), table)
    return table


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(name), dict)
        merged[name] = _merged(below[name], value) if both else value
    return merged


def _read_one(path: Path) -> dict[str, Any]:
    try:
        if (size := path.stat().st_size) > MAX_FILE:
            raise ValueError(f"{path} has {size} bytes; expected a configuration of at most {MAX_FILE}.")
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(f"There is no configuration {path}. The bundled ones lie in flashvideo/configs.") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}). Give a TOML file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:  # arrays in arrays in arrays
        raise ValueError(f"{path} is not valid TOML: {error}") from error


def to_toml(table: dict[str, Any], place: str = "") -> str:
    """What :func:`read_toml` gave, as TOML again."""
    tables = {name: value for name, value in table.items() if isinstance(value, dict)}
    lists = {name: value for name, value in table.items() if isinstance(value, list) and value and _all_tables(value)}
    # JSON writes strings, numbers, booleans and lists of them as TOML does.
    lines = [f"{json.dumps(n)} = {json.dumps(v)}" for n, v in table.items() if n not in tables and n not in lists]
    for name, value in tables.items():
        lines += ["", f"[{place}{json.dumps(name)}]", to_toml(value, f"{place}{json.dumps(name)}.")]
    for name, entries in lists.items():
        for entry in entries:
            lines += ["", f"[[{place}{json.dumps(name)}]]", to_toml(entry, f"{place}{json.dumps(name)}.")]
    return "\n".join(lines)


def _all_tables(values: list[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)


def from_table(kind: type[T], table: Any, where: str) -> T:
    """Build a dataclass from a TOML table; tables inside become dataclasses, too.

    Raises:
        ValueError: an unknown key, a missing one or a value of another type, named by its place in the file.
    """
    if not isinstance(table, dict):
        raise ValueError(f"{where} is {table!r}; expected a table.")
    hints = typing.get_type_hints(kind)
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(table) - set(fields))
    if unknown:
        raise ValueError(f"{where}: unknown {', '.join(unknown)}. Known: {', '.join(sorted(fields))}.")
    for name, entry in fields.items():
        required = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if required and name not in table:
            raise ValueError(f"{where}.{name} is missing.")
    return kind(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in table.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_table(hint, value, where)  # type: ignore[arg-type]
    if origin in (typing.Union, types.UnionType):
        return _convert(next(option for option in arguments if option is not type(None)), value, where)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{where} is {value!r}; expected one of {', '.join(map(repr, arguments))}.")
        return value
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where} is {value!r}; expected a table.")
        return {name: _convert(arguments[1], entry, f"{where}.{name}") for name, entry in value.items()}
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} is {value!r}; expected a list.")
        if arguments[-1] is not Ellipsis and len(arguments) != len(value):
            raise ValueError(f"{where} has {len(value)} entries; expected {len(arguments)}.")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_convert(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is None and isinstance(hint, type) and (not isinstance(value, hint) or (hint is int and value is True)):
        raise ValueError(f"{where} is {value!r}; expected {hint.__name__}.")
    return value


def field_of_phases(default: Any) -> Any:
    """A dataclass field for a tuple of phases."""
    return field(default_factory=lambda: (default(),))
