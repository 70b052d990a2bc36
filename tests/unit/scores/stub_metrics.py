"""A package with the signatures of pyiqa 0.1.16, whose weights nobody may hand on, and the files that it looks for."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch

from flashvideo.scores.learned import KINDS, Weights

# The number is made of the pictures alone: their mean, or their mean difference.
_SOURCE = """
import torch

print("the package prints")
CALLS = []
FAILING = {}


class InferenceModel(torch.nn.Module):
    def __init__(self, metric_name, device=None):
        super().__init__()
        print("Loading pretrained model", metric_name)
        self.metric_name, self.device = metric_name, device

    def forward(self, target, ref=None, **kwargs):
        print("forward")
        CALLS.append((self.metric_name, tuple(target.shape), float(target.min()), float(target.max()), ref is not None))
        if failing := FAILING.get(self.metric_name):
            return failing()
        value = target.mean() if ref is None else (target - ref).abs().mean()
        return value.reshape(1, 1)


def create_metric(metric_name, as_loss=False, device=None, **kwargs):
    CALLS.append(("create", metric_name, device))
    if creating := FAILING.get("create"):
        creating(metric_name)
    return InferenceModel(metric_name, device)
"""


class Stub:
    """The package as if it were installed, with a cache of its own."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._hub, self._face = folder / "torch" / "hub", folder / "face"
        package = folder / "packages" / "pyiqa" / "__init__.py"
        package.parent.mkdir(parents=True)
        package.write_text(_SOURCE)
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        patch.setattr(torch.hub, "_hub_dir", None)
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(self._face))
        patch.delitem(sys.modules, "pyiqa", raising=False)
        patch.syspath_prepend(str(package.parent.parent))

    @property
    def module(self) -> Any:
        return importlib.import_module("pyiqa")

    def calls(self, name: str) -> list[Any]:
        return [call for call in self.module.CALLS if call[0] == name]

    def path(self, weights: Weights) -> Path:
        if weights.repository:
            repository = self._face / f"models--{weights.repository.replace('/', '--')}"
            return repository / "snapshots" / "0a1b" / weights.name
        return self._hub / weights.folder / weights.name

    def put(self, *names: str) -> None:
        """The files of measures, without anything in them."""
        for weights in (weights for name in names for weights in KINDS[name].weights):
            path = self.path(weights)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            if weights.repository:
                reference = path.parents[2] / "refs" / "main"
                reference.parent.mkdir(exist_ok=True)
                reference.write_text("0a1b")
