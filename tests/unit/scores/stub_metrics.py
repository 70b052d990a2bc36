"""Packages with the signatures of pyiqa 0.1.16, DOVER and FAST-VQA, whose weights nobody may hand on, and the files
that they look for.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch

from flashvideo.scores.learned import KINDS, Weights

# The number is made of the pictures alone: their mean, or their mean difference.
_PYIQA = """
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
# A view's score is its mean, and what the file of weights has for it.
_EVALUATOR = """
import torch
from torch import nn

print("the package prints")
SEEN = {{}}


class {name}(nn.Module):
    def __init__(self, backbone_size="divided", backbone_preserve_keys="fragments,resize", multi=False, layer=-1,
                 backbone={{}}, divide_head=False, vqa_head=dict(in_channels=768), var=False):
        super().__init__()
        assert vqa_head == dict(in_channels=768, hidden_channels=64)
        assert set(backbone) == set(backbone_preserve_keys.split(","))
        for key in backbone if divide_head else ["vqa"]:
            setattr(self, key + "_head", nn.Linear(1, 1))

    def forward(self, vclips, inference=True, return_pooled_feats=False, reduce_scores={reduced}, pooled=False, **more):
        print("forward")
        scores = []
        for key, clips in vclips.items():
            SEEN[key] = clips
            head = getattr(self, key + "_head", None) or self.vqa_head
            scores.append(clips.mean((1, 2, 3, 4)) + head.bias)
        return sum(scores) if reduce_scores else scores
"""
_MODULES = {
    "dover": _EVALUATOR.format(name="DOVER", reduced=False),
    "fastvqa": _EVALUATOR.format(name="DiViDeAddEvaluator", reduced=True),
}
_HEAD = {"weight": torch.zeros(1, 1), "bias": torch.tensor([0.1])}
_CONTENTS = {
    "DOVER.pth": {f"{view}_head.{name}": value for view in ("technical", "aesthetic") for name, value in _HEAD.items()},
    "FAST_VQA_3D_1_1.pth": {
        "state_dict": {f"vqa_head.{name}": value for name, value in _HEAD.items()},
        "validation_results": [np.float64(0.8)],
    },
}


class Stub:
    """The packages as if they were installed, the last two from checkouts; with a cache of their own."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._hub, self._face, self._checkouts = folder / "torch" / "hub", folder / "face", folder / "checkouts"
        files = {"pyiqa/__init__.py": _PYIQA}
        for package, models in _MODULES.items():
            files |= {f"{package}/__init__.py": "from .models import *", f"{package}/models/__init__.py": models}
        for name, source in files.items():
            path = self._checkouts / name.partition("/")[0] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        patch.setattr(torch.hub, "_hub_dir", None)
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(self._face))
        for package in ("pyiqa", *_MODULES):
            patch.syspath_prepend(str(self._checkouts / package))
            for module in (package, f"{package}.models"):
                patch.delitem(sys.modules, module, raising=False)

    @property
    def module(self) -> Any:
        return importlib.import_module("pyiqa")

    def calls(self, name: str) -> list[Any]:
        return [call for call in self.module.CALLS if call[0] == name]

    def seen(self, package: str) -> dict[str, torch.Tensor]:
        """The views that a network was given last."""
        return importlib.import_module(f"{package}.models").SEEN

    def path(self, weights: Weights) -> Path:
        if weights.repository:
            repository = self._face / f"models--{weights.repository.replace('/', '--')}"
            return repository / "snapshots" / "0a1b" / weights.name
        home = self._checkouts / weights.package if weights.package else self._hub
        return home / weights.folder / weights.name

    def put(self, *names: str) -> None:
        """The files of measures; without anything in them where the stub does not read them."""
        for weights in (weights for name in names for weights in KINDS[name].weights):
            path = self.path(weights)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            if content := _CONTENTS.get(weights.name):
                torch.save(content, path)
            if weights.repository:
                reference = path.parents[2] / "refs" / "main"
                reference.parent.mkdir(exist_ok=True)
                reference.write_text("0a1b")
