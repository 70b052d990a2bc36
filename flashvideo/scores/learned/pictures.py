"""Measures of pictures, by pyiqa."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..frames import Frame
from ..sampling import Evenly
from .weights import Weights

FRAMES = 8  # of a video, at most: a frame of 1080p takes some of these measures a minute on a CPU


class PictureMeter:
    """The mean of evenly spaced frames (:class:`~flashvideo.scores.sampling.Evenly`).

    Args:
        name: of its number.
        net: gives it of a picture ``[1, 3, H, W]`` in 0..1, or of it and the true one.
        against_true: the net takes both.
        expected: frames of the video; 0 if nobody knows.
    """

    def __init__(self, name: str, net: Callable[..., Any], against_true: bool, expected: int) -> None:
        self._name, self._net, self._against_true = name, net, against_true
        self._values = Evenly(FRAMES, expected)

    def add(self, frame: Frame) -> None:
        if not self._values.wants(frame.index):
            return
        pictures = [_picture(frame.video)]
        if self._against_true and frame.true is not None:
            pictures.append(_picture(frame.true))
        value = float(torch.as_tensor(self._net(*pictures)).float().mean())
        self._values.add(value if math.isfinite(value) else None)

    def result(self) -> dict[str, float | None]:
        return {self._name: self._values.mean()}


def load_pictures(
    name: str, _: tuple[Weights, ...], device: torch.device, *, against_true: bool = False
) -> Callable[[int], PictureMeter]:
    """pyiqa's measure of that name: gives meters by the frames that are expected."""
    net = importlib.import_module("pyiqa").create_metric(name, device=device)
    return partial(PictureMeter, name, net, against_true)


def _picture(pixels: Tensor) -> Tensor:
    return pixels[None].float().div_(255)
