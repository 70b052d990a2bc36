"""Which learned measures there are, and the files without which their packages would download something."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from ..frames import Frame
from .pictures import load_pictures
from .videos import load_dover, load_faster_vqa
from .weights import Weights

_PYIQA = "pyiqa"


class Meter(Protocol):
    """Measures one video."""

    def add(self, frame: Frame) -> None: ...

    def result(self) -> dict[str, float | None]:
        """Numbers by their ids."""


@dataclass(frozen=True)
class Kind:
    """A learned measure.

    Attributes:
        label: its name in writing.
        weights: without which it would download something.
        load: loads it by its name and weights on a device; gives what makes a video's meter, given the frames that are
            expected.
        package: by which it is computed.
        against_true: it compares with a true video.
        ids: of its numbers, where it has several; else its name.
    """

    label: str
    weights: tuple[Weights, ...]
    load: Callable[[str, tuple[Weights, ...], torch.device], Callable[[int], Meter]] = load_pictures
    package: str = _PYIQA
    against_true: bool = False
    ids: tuple[str, ...] = ()

    def fault(self) -> str:
        """Why it cannot be loaded, in words; "" if nothing is known against it."""
        if importlib.util.find_spec(self.package) is None:
            return f"{self.package} is not installed"
        return next(filter(None, (weights.fault() for weights in self.weights)), "")

    def remedy(self, name: str) -> str:
        """What to do about a fault."""
        if self.package != _PYIQA:
            return f"docs/scores.md says how to have {self.package} and its weights. Or leave it out."
        if importlib.util.find_spec(_PYIQA) is None:
            return 'Install it: pip install "flashvideo[metrics]".'
        pictures = "a.png -r b.png" if self.against_true else "a.png"
        return (
            f"`{_PYIQA} {name} -t {pictures}`, run once with a network, fetches it; FlashVideo downloads nothing. "
            "Or leave it out."
        )


_CLIP_RN50 = "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"
_VIT = "timm/vit_base_patch8_224.augreg2_in21k_ft_in1k"
KINDS = {  # as pyiqa 0.1.16, the repositories of DOVER and FAST-VQA, and what they are built on look for them
    "niqe": Kind("NIQE", (Weights("pyiqa", "niqe_modelparameters.mat"),)),
    "musiq": Kind("MUSIQ", (Weights("pyiqa", "musiq_koniq_ckpt-e95806b9.pth"),)),
    "maniqa": Kind("MANIQA", (Weights("pyiqa", "ckpt_koniq10k.pt"), Weights("", "model.safetensors", repository=_VIT))),
    "clipiqa": Kind("CLIP-IQA", (Weights("clip", "RN50.pt", sha256=_CLIP_RN50),)),
    "dover": Kind(
        "DOVER",
        (
            Weights("pretrained_weights", "DOVER.pth", package="dover"),
            Weights("checkpoints", "convnext_tiny_1k_224_ema.pth"),
        ),
        load_dover,
        package="dover",
        ids=("dover_technical", "dover_aesthetic"),
    ),
    "fastervqa": Kind(
        "FasterVQA",
        (Weights("pretrained_weights", "FAST_VQA_3D_1_1.pth", package="fastvqa"),),
        load_faster_vqa,
        package="fastvqa",
    ),
    "lpips": Kind(
        "LPIPS",
        (Weights("pyiqa", "LPIPS_v0.1_alex-df73285e.pth"), Weights("checkpoints", "alexnet-owt-7be5be79.pth")),
        partial(load_pictures, against_true=True),
        against_true=True,
    ),
    "dists": Kind(
        "DISTS",
        (Weights("pyiqa", "DISTS_weights-f5e65c96.pth"), Weights("checkpoints", "vgg16-397923af.pth")),
        partial(load_pictures, against_true=True),
        against_true=True,
    ),
}
