"""The report's file: all results, with which weights, settings, code and versions."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..checkpoints.files import sha256
from ..checkpoints.outputs import write_text
from .results import Result

FILE = "report.json"
_FORMAT = 1
_PACKAGES = ("torch", "diffusers", "transformers", "numpy", "av")


@dataclass(frozen=True)
class Weights:
    """One part of the models: the name of its file or folder, and the SHA-256 of its bytes."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Section:
    """A finished section and what it was measured with.

    Attributes:
        fingerprint: of weights, settings and device; the same means that nothing need be measured again.
        code: hash of all code that decides the numbers, see :mod:`~flashvideo.report.sources`.
    """

    result: Result
    fingerprint: str
    weights: dict[str, Weights]
    settings: dict[str, Any]
    place: dict[str, str]
    versions: dict[str, str]
    code: str


@dataclass(frozen=True)
class Mark:
    """What a section must have been measured with, to be as good as measured again: fingerprint and code."""

    fingerprint: str
    code: str


@dataclass(frozen=True)
class Report:
    """Everything that is known, by section."""

    sections: dict[str, Section] = field(default_factory=dict)

    def with_section(self, name: str, section: Section) -> Report:
        return replace(self, sections={**self.sections, name: section})

    def results(self, marks: Mapping[str, Mark]) -> dict[str, Result]:
        """Results that were measured with these weights and settings, in the order of ``marks``; stale ones too."""
        return {name: self.sections[name].result for name, mark in marks.items() if self._fits(name, mark)}

    def stale(self, marks: Mapping[str, Mark]) -> tuple[str, ...]:
        """Sections of these weights and settings that were measured with other code."""
        return tuple(
            name for name, mark in marks.items() if self._fits(name, mark) and self.sections[name].code != mark.code
        )

    def _fits(self, name: str, mark: Mark) -> bool:
        return name in self.sections and self.sections[name].fingerprint == mark.fingerprint


def read_report(folder: Path) -> Report:
    """What earlier runs left in a folder; an empty report if nothing.

    Raises:
        ValueError: a file that no report wrote.
    """
    path = folder / FILE
    if not path.exists():
        return Report()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != _FORMAT:
            raise ValueError(f"format {values['format']}")
        return Report({name: _section(section) for name, section in values["sections"].items()})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read as a report ({error}). Remove it, or write to another folder."
        ) from error


def write_report(folder: Path, report: Report, floors: list[dict[str, Any]]) -> Path:
    """Write ``report.json``, whole or not at all.

    Args:
        floors: as dictionaries, for readers.
    """
    values = {"format": _FORMAT, "floors": floors, "sections": {k: asdict(v) for k, v in report.sections.items()}}
    path = folder / FILE
    write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    return path


def _section(values: dict[str, Any]) -> Section:
    weights = {name: Weights(**one) for name, one in values["weights"].items()}
    return Section(**{**values, "result": Result.from_dict(values["result"]), "weights": weights})


def fingerprint(
    name: str, weights: Mapping[str, Weights], settings: Mapping[str, Any], place: Mapping[str, str]
) -> str:
    """One hash of all that decides a section's numbers; where a file lies does not."""
    hashes = {part: one.sha256 for part, one in weights.items()}
    text = json.dumps([name, hashes, settings, place], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_weights(path: Path) -> Weights:
    """Of a file, or of all files of a folder in the order of their names."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return Weights(path.name, sha256(tuple(files)))


def joint(first: Weights, *more: Weights) -> Weights:
    """Weights that are used together, such as a LoRA and its transformer."""
    together = (first, *more)
    return Weights(" + ".join(one.file for one in together), " + ".join(one.sha256 for one in together))


def versions() -> dict[str, str]:
    """Of FlashVideo, Python and the packages that compute."""
    from .. import __version__

    numbers = {"flashvideo": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            numbers[package] = version(package)
        except PackageNotFoundError:
            numbers[package] = "unknown"
    return numbers
