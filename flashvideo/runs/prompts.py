"""Files of prompts: plain text, and VBench's JSON with its names and numbers of videos."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoints.files import name_list
from ..method.checks import check_positive, check_text, shortened

log = logging.getLogger(__name__)

SAMPLES = 5  # videos of a prompt, as VBench counts
SAMPLES_OF = {"temporal_flickering": 25}  # of a dimension's: a filter keeps the static ones only
MAX_SAMPLES = 100  # of a prompt, so that the seeds of the next can be told beforehand
_MAX_FILE = 64 << 20  # bytes
_MAX_NAME = 255  # bytes, of Linux' and Windows' file systems
_LONGEST_ENDING = "-99.degraded.safetensors"
_NOT_ON_WINDOWS = '\\:*?"<>|'
_FORBIDDEN = "/" + (_NOT_ON_WINDOWS if os.name == "nt" else "")
_ONE_CASE = sys.platform in ("win32", "darwin")  # whose disks keep one file of names that differ in case


@dataclass(frozen=True)
class SampledPrompt:
    """A prompt of a benchmark.

    Attributes:
        position: of its entry in the file, the first of several, from 0. Seeds are counted by it.
        text: what the models read.
        name: what its videos are called: the benchmark's own prompt, also where ``text`` is a longer one.
        samples: how many videos it gets.
    """

    position: int
    text: str
    name: str
    samples: int = SAMPLES


def is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json"


def prompts_in(text: str) -> list[str]:
    """Prompts, one a line; blank lines and those that begin with # do not count."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def read_prompts(path: Path) -> list[str]:
    """:func:`prompts_in` a text file.

    Raises:
        ValueError: no such file, or no prompt in it.
    """
    prompts = prompts_in(_read(path, "a UTF-8 text file, one prompt a line"))
    if not prompts:
        raise ValueError(f"{path} has no prompts in it. Write one a line.")
    for index, prompt in enumerate(prompts):
        check_text(f"prompt {index + 1} of {path}", prompt)
    return prompts


def read_sampled(path: Path, names: Path | None = None, samples: int | None = None) -> list[SampledPrompt]:
    """Prompts of a benchmark, each once, in the file's order.

    Args:
        path: text, one prompt a line; or JSON, a list of prompts or of VBench's objects (``prompt_en``, ``dimension``).
        names: another such file, whose n-th prompt names the videos of the n-th of ``path``; None: ``path`` itself.
        samples: videos of each prompt; None: 5, and 25 of VBench's dimension temporal_flickering.

    Raises:
        ValueError: files that cannot be read, or have other numbers of prompts; prompts that cannot name a file.
    """
    if samples is not None:
        check_positive("--samples", samples)
        if samples > MAX_SAMPLES:
            raise ValueError(f"--samples is {samples}; expected at most {MAX_SAMPLES} videos of a prompt.")
    named = _entries(names or path)
    texts = [text for text, _ in (_entries(path) if names else named)]
    if len(texts) != len(named):
        raise ValueError(
            f"{path} has {len(texts)} prompts and {names} names {len(named)}; expected as many. Each line of --names "
            "belongs to the same line of --prompts."
        )
    merged: dict[str, SampledPrompt] = {}
    left_out = []
    for position, (text, (name, dimensions)) in enumerate(zip(texts, named, strict=True)):
        count = samples or max((SAMPLES_OF.get(one, SAMPLES) for one in dimensions), default=SAMPLES)
        key = name.casefold() if _ONE_CASE else name
        first = merged.setdefault(key, SampledPrompt(position, text, name, count))
        merged[key] = replace(first, samples=max(first.samples, count))
        left_out += [text] if text != first.text else []
    if left_out:
        log.warning(
            "%d prompts of %s have the file name of an earlier one, which is made instead of them: %s.",
            len(left_out),
            path,
            name_list([shortened(text) for text in left_out]),
        )
    prompts = list(merged.values())
    _check_names(names or path, prompts)
    return prompts


def _read(path: Path, expected: str) -> str:
    try:
        if (size := path.stat().st_size) > _MAX_FILE:
            raise ValueError(f"{path} has {size} bytes; expected a text file of at most {_MAX_FILE}. Divide it.")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The prompts of {path} cannot be read ({error}). Give {expected}.") from error


def _entries(path: Path) -> list[tuple[str, Sequence[str]]]:
    """(prompt, dimensions) of all entries of a file."""
    if not is_json(path):
        return [(prompt, ()) for prompt in read_prompts(path)]
    try:
        table = json.loads(_read(path, "a UTF-8 file"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}). Give a list of prompts, or VBench's file as it is.") from error
    if not isinstance(table, list) or not table:
        raise ValueError(f"{path} holds {shortened(table)}; expected a list of prompts, or of VBench's objects.")
    return [_entry(f"entry {index + 1} of {path}", entry) for index, entry in enumerate(table)]


def _entry(where: str, entry: Any) -> tuple[str, Sequence[str]]:
    prompt, dimensions = entry, []
    if isinstance(entry, dict):
        prompt, dimensions = entry.get("prompt_en"), entry.get("dimension", [])
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f'{where} is {shortened(entry)}; expected a prompt, or an object with one as "prompt_en".')
    dimensions = [dimensions] if isinstance(dimensions, str) else dimensions
    if not isinstance(dimensions, list) or not all(isinstance(one, str) for one in dimensions):
        raise ValueError(f'{where} has the "dimension" {shortened(dimensions)}; expected a list of names.')
    check_text(where, prompt)
    return prompt.strip(), dimensions


def _check_names(path: Path, prompts: list[SampledPrompt]) -> None:
    """Raise ValueError for prompts that cannot name files here; warn of those that cannot on Windows."""
    elsewhere = []
    for prompt in prompts:
        found = [sign for sign in prompt.name if sign in _FORBIDDEN or ord(sign) < 32]
        size = len(prompt.name.encode()) + len(_LONGEST_ENDING)
        if found or size > _MAX_NAME:
            reason = (
                f"it has {name_list(sorted(set(map(repr, found))))}"
                if found
                else f"it has {len(prompt.name.encode())} bytes; expected at most {_MAX_NAME - len(_LONGEST_ENDING)}"
            )
            raise ValueError(
                f"The prompt {shortened(prompt.name)} of {path} cannot name a file: {reason}. Give other names for all "
                "prompts with --names."
            )
        elsewhere += [prompt.name] if set(prompt.name) & set(_NOT_ON_WINDOWS) else []
    if elsewhere:
        log.warning(
            "Files of %d prompts cannot be copied to Windows, whose names have none of %s: %s.",
            len(elsewhere),
            " ".join(_NOT_ON_WINDOWS),
            name_list([shortened(name) for name in elsewhere]),
        )
