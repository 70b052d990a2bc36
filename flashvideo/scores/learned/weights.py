"""Files that packages look for."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch

_CHUNK = 1 << 20  # bytes that are read at once for a checksum


@dataclass(frozen=True)
class Weights:
    """A file that a package looks for.

    Attributes:
        folder: below that of PyTorch's hub.
        name: of the file.
        repository: in Hugging Face's cache, instead of ``folder``.
        package: beside which ``folder`` lies, in a checkout of its repository, instead of the hub.
        sha256: of the file, where another one would be downloaded over it.
    """

    folder: str
    name: str
    repository: str = ""
    package: str = ""
    sha256: str = ""

    def path(self) -> Path:
        return self._home() / self.folder / self.name

    def _home(self) -> Path:
        if not self.package:
            return Path(torch.hub.get_dir())
        found = importlib.util.find_spec(self.package)
        return Path(found.origin).parents[1] if found is not None and found.origin else Path()

    def fault(self) -> str:
        """What is wrong with it, in words; "" if nothing is."""
        if self.repository:
            from huggingface_hub import constants, try_to_load_from_cache

            found = try_to_load_from_cache(self.repository, self.name, cache_dir=constants.HF_HUB_CACHE)
            where = f"{self.repository} is not in {constants.HF_HUB_CACHE}"
            return "" if isinstance(found, str) else f"{self.name} of {where}"
        path = self.path()
        if not path.is_file():
            return f"{path.name} is not in {path.parent}"
        if self.sha256 and _sha256(path) != self.sha256:
            return f"{path} is damaged: its SHA-256 is not {self.sha256}"
        return ""


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()
