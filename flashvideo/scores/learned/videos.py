"""Measures of whole videos: DOVER and FasterVQA, by the networks of their repositories."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from ...checkpoints.files import open_weights
from ..frames import Frame
from .views import SIDE, Fragments, View, spread, thumbnail
from .weights import Weights

_LENGTH, _STEP = 32, 2  # frames of a clip, and from one to the next
_HEAD = {"in_channels": 768, "hidden_channels": 64}
_DOVER: dict[str, Any] = {  # dover.yml
    "backbone": {
        "technical": {"type": "swin_tiny_grpb", "checkpoint": True, "pretrained": None},
        "aesthetic": {"type": "conv_tiny"},
    },
    "backbone_preserve_keys": "technical,aesthetic",
    "divide_head": True,
    "vqa_head": _HEAD,
}
_FASTER_VQA: dict[str, Any] = {  # options/fast/f3dvqa-b.yml
    "backbone": {"fragments": {"checkpoint": False, "pretrained": None}},
    "backbone_size": "swin_tiny_grpb",
    "backbone_preserve_keys": "fragments",
    "divide_head": False,
    "vqa_head": _HEAD,
}


class _VideoMeter:
    """Keeps views of a video and gives them to a network at its end.

    What is drawn by chance, as its authors do, is drawn alike every time.
    """

    def __init__(self, net: nn.Module, device: torch.device, expected: int) -> None:
        self._net, self._device = net, device
        chance = torch.Generator().manual_seed(0)
        self._views = self._chosen(expected, chance) if expected else {}

    def _chosen(self, total: int, chance: torch.Generator) -> dict[str, tuple[View, int]]:
        """By their names: views, and how many clips each is."""
        raise NotImplementedError

    def add(self, frame: Frame) -> None:
        if not self._views:
            raise ValueError("the file does not tell how many frames it has, of which some are chosen; an MP4 does")
        if min(frame.video.shape[1:]) < SIDE:
            raise ValueError(f"it needs sides of {SIDE} pixels or more")
        for view, _ in self._views.values():
            view.add(frame)

    def _clips(self) -> dict[str, torch.Tensor]:
        return {name: view.clips(count).to(self._device) for name, (view, count) in self._views.items()}


class DoverMeter(_VideoMeter):
    """In percent, as the program that its authors publish for folders of videos writes it, and the paper's tables have
    it: the technical view in three clips, the aesthetic one in one.
    """

    def _chosen(self, total: int, chance: torch.Generator) -> dict[str, tuple[View, int]]:
        technical, aesthetic = spread(total, 3, _LENGTH, _STEP, chance), spread(total, _LENGTH, 1, _STEP, chance)
        fragments = Fragments(len(technical), _LENGTH, chance)
        return {"technical": (View(technical, fragments), 3), "aesthetic": (View(aesthetic, thumbnail), 1)}

    def result(self) -> dict[str, float | None]:
        technical, aesthetic = (float(score.mean()) for score in self._net(self._clips(), reduce_scores=False))
        return {
            "dover_technical": 100 * _sigmoid((technical - 0.1107) / 0.07355),
            "dover_aesthetic": 100 * _sigmoid((aesthetic + 0.08285) / 0.03774),
        }


class FasterVqaMeter(_VideoMeter):
    """0 to 1: one clip of eight runs of four frames each."""

    def _chosen(self, total: int, chance: torch.Generator) -> dict[str, tuple[View, int]]:
        frames = spread(total, 8, _LENGTH // 8, _STEP, chance)
        return {"fragments": (View(frames, Fragments(_LENGTH, 8, chance)), 1)}

    def result(self) -> dict[str, float | None]:
        score = float(self._net(self._clips()).mean())
        return {"fastervqa": _sigmoid((score - 0.14759505) / 0.03613452)}


def load_dover(_: str, weights: tuple[Weights, ...], device: torch.device) -> Callable[[int], DoverMeter]:
    """By the network of https://github.com/VQAssessment/DOVER."""
    network = importlib.import_module("dover.models").DOVER
    return partial(DoverMeter, _loaded(network(**_DOVER), weights, device), device)


def load_faster_vqa(_: str, weights: tuple[Weights, ...], device: torch.device) -> Callable[[int], FasterVqaMeter]:
    """By the network of https://github.com/VQAssessment/FAST-VQA-and-FasterVQA."""
    network = importlib.import_module("fastvqa.models").DiViDeAddEvaluator
    return partial(FasterVqaMeter, _loaded(network(**_FASTER_VQA), weights, device), device)


def _loaded(net: nn.Module, weights: tuple[Weights, ...], device: torch.device) -> nn.Module:
    file = open_weights(weights[0].path())
    net.load_state_dict({name: info.load(info.dtype) for name, info in file.tensors.items()})
    return net.to(device)


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))
