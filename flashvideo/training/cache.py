"""Clips encoded once: latents and prompt embeddings on disk, which every epoch then reads.

A cache is a folder of ``cache.json`` (what it was made from), ``shard-*.safetensors`` and ``skipped.jsonl``; see
:mod:`flashvideo.training.cache_building`.
"""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any

from ..checkpoints.checksums import DamagedFileError
from ..checkpoints.files import WeightFile, open_weights
from ..checkpoints.paths import expanded

INDEX, SKIPPED = "cache.json", "skipped.jsonl"
LAYOUT = 1
KEY = "flashvideo.cache."


def read_index(folder: Path) -> dict[str, Any]:
    """What a cache was made from.

    Raises:
        ValueError: no cache, or another version's.
        DamagedFileError: its index is none.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} is no cache of latents: it has no {INDEX}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFileError(
            f"{folder / INDEX} cannot be read ({error}). Building the cache again mends it."
        ) from error
    if not isinstance(index, dict) or index.get("layout") != LAYOUT:
        raise ValueError(f"{folder} is a cache of another version. Delete it to have it made anew.")
    return index


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def shard_count(index: dict[str, Any]) -> int:
    return math.ceil(index["count"] / index["clips per shard"])


def open_shard(path: Path) -> WeightFile:
    """A shard's file; its tensors are compared with their checksums when they are read.

    Raises:
        ValueError: no such file.
        DamagedFileError: it is not as it was written.
    """
    if not path.exists():
        raise ValueError(f"The cache {path.parent} is not finished: {path.name} is missing. Build it again.")
    try:
        return open_weights(path)
    except ValueError as error:
        raise DamagedFileError(f"{error} Building the cache again makes it anew.") from error


class LatentCache:
    """A finished cache, read through memory maps; safe to be read by several threads.

    ``cache[i]`` is a dictionary: ``mean`` and (if kept) ``std`` ``[16, T, h, w]`` in VAE space, ``low_mean`` and
    ``low_std`` ``[K, 16, T, h, w]`` of the degraded copies, ``embeds`` ``[L, D]``, ``caption`` and ``name``; tensors
    in the cache's precision on the CPU.

    Attributes:
        settings: the table of settings that it was made with.
        names, captions: of all clips, in order.

    Raises:
        ValueError: no cache, or one that is not finished.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = expanded(folder)
        index = read_index(self.folder)
        self.settings: dict[str, Any] = index["settings"]
        self.names: list[str] = []
        self.captions: list[str] = []
        self._places: list[tuple[int, str]] = []
        self._files: dict[int, tuple[WeightFile, list[str]]] = {}
        self._lock = threading.Lock()
        for number in range(shard_count(index)):
            self._list(number)

    def _list(self, number: int) -> None:
        path = self.folder / shard_name(number)
        for entry in json.loads(open_shard(path).metadata[KEY + "clips"]):
            self._places.append((number, f"{entry['index']:08d}."))
            self.names.append(entry["name"])
            self.captions.append(entry["caption"])

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, prefix = self._places[index]
        file, parts = self._file(number)
        tensors: dict[str, Any] = {part: file.tensors[prefix + part].read() for part in parts}
        return {**tensors, "caption": self.captions[index], "name": self.names[index]}

    def _file(self, number: int) -> tuple[WeightFile, list[str]]:
        """A shard's open file and the parts that each of its clips has."""
        with self._lock:
            if number not in self._files:
                file = open_shard(self.folder / shard_name(number))
                self._files[number] = (file, sorted({name.partition(".")[2] for name in file.tensors}))
            return self._files[number]


def latent_statistics(cache: LatentCache) -> tuple[float, float]:
    """Mean and standard deviation of the numbers in latents that are drawn from the posterior.

    A stage's latent scale is one over the deviation, so that the transformer sees about unit variance.
    """
    total = squares = 0.0
    count = 0
    for index in range(len(cache)):
        entry = cache[index]
        mean = entry["mean"].double()
        total += float(mean.sum())
        squares += float(mean.square().sum())
        if "std" in entry:
            squares += float(entry["std"].double().square().sum())
        count += mean.numel()
    average = total / count
    return average, math.sqrt(max(0.0, squares / count - average**2))
