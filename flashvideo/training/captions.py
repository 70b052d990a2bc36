"""Captions of clips: a text beside each file, or one table for a folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .media import BadClipError

TABLES = tuple(f"{stem}.{kind}" for stem in ("captions", "metadata") for kind in ("json", "jsonl", "csv"))
FILE_KEYS = ("file_name", "file", "video", "image", "path")
TEXT_KEYS = ("text", "caption", "prompt")


def clean_caption(text: str) -> str:
    """One line, without spaces at its ends."""
    return " ".join(text.split())


def read_caption_tables(folder: Path) -> dict[str, str]:
    """The captions of all tables in a folder (not in those below it), by file name as the tables give it.

    Tables are ``captions`` or ``metadata`` with the extension ``.json`` (an object of name and text, or a list of
    objects), ``.jsonl`` or ``.csv`` (with a line of column names).

    Raises:
        ValueError: a table that cannot be understood.
    """
    captions: dict[str, str] = {}
    for path in (folder / name for name in TABLES):
        if path.is_file():
            captions.update(_read_table(path))
    return captions


def caption_in_table(table: Mapping[str, str], name: str) -> str | None:
    """The caption of a file, looked up by its path in the folder, then by its name, with and without extension."""
    path = Path(name)
    for key in (name, path.with_suffix("").as_posix(), path.name, path.stem):
        if key in table:
            return table[key]
    return None


def read_caption_file(path: Path) -> str:
    """The text of a file.

    Raises:
        BadClipError: not readable.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadClipError(f"its caption {path.name} cannot be read ({error})") from error


def caption_of_object(value: Any) -> str | None:
    """The caption in a JSON value: a text, or an object with one under a usual key."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return next((value[key] for key in TEXT_KEYS if isinstance(value.get(key), str)), None)
    return None


def _read_table(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            given = json.loads(text)
            if isinstance(given, dict):
                return dict(_pairs_of_object(given, path))
            return dict(_pairs(given if isinstance(given, list) else [given], path))
        if path.suffix == ".jsonl":
            return dict(_pairs([json.loads(line) for line in text.splitlines() if line.strip()], path))
        return dict(_pairs(list(csv.DictReader(text.splitlines(keepends=True))), path))
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix[1:]}: {error}.") from error


def _pairs_of_object(given: dict[str, Any], path: Path) -> Iterable[tuple[str, str]]:
    for name, value in given.items():
        text = caption_of_object(value)
        if text is None:
            raise ValueError(f"{path}: {name!r} has {value!r}; expected a text.")
        yield name, text


def _pairs(rows: Iterable[Any], path: Path) -> Iterable[tuple[str, str]]:
    for number, row in enumerate(rows, 1):
        entry = row if isinstance(row, dict) else {}
        name = next((entry[key] for key in FILE_KEYS if isinstance(entry.get(key), str)), None)
        text = caption_of_object(entry)
        if name is None or text is None:
            raise ValueError(
                f"{path}: entry {number} is {row!r}; expected a file under one of {', '.join(FILE_KEYS)} and a text "
                f"under one of {', '.join(TEXT_KEYS)}."
            )
        yield Path(name).as_posix(), text
