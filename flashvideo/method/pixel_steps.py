"""The single losses that DEG_pixel is made of, their parameters drawn already: the same for all frames of a clip."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .seeds import mixed_seed

Interpolation = Literal["area", "bilinear", "bicubic"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
JPEG_QUALITIES = (1, 100)
CRFS = (0, 51)


class Codecs(Protocol):
    """What compresses: files are no matter of the method's, so whoever switches compression on brings it along."""

    def jpeg(self, frames: Tensor, quality: float) -> Tensor:
        """``[f, 3, h, w]`` in 0..1, each through JPEG; ``quality`` is on libjpeg's scale, 1 (worst) to 100."""
        ...

    def h264(self, video: Tensor, crf: float) -> Tensor:
        """``[3, F, h, w]`` in 0..1 through H.264; ``crf`` is x264's, 0 to 51."""
        ...


class Step(Protocol):
    def __call__(self, frames: Tensor, first: int) -> Tensor:
        """``[f, 3, h, w]``, of which the first is number ``first`` of its clip."""
        ...


@dataclass(frozen=True)
class Blur:
    """A Gaussian with its two deviations along axes that are turned by ``angle``."""

    side: int
    sigma_x: float
    sigma_y: float
    angle: float

    def __call__(self, frames: Tensor, first: int) -> Tensor:
        reach = self.side // 2
        frames = F.pad(frames, (reach, reach, reach, reach), mode="replicate")
        if self.sigma_x == self.sigma_y:
            line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float32) / self.sigma_x) ** 2)
            row = (line / line.sum()).to(frames.device).expand(3, 1, 1, -1)
            return F.conv2d(F.conv2d(frames, row, groups=3), row.transpose(2, 3), groups=3)
        kernel = self._kernel(reach).to(frames.device).expand(3, 1, -1, -1)
        return F.conv2d(frames, kernel, groups=3)

    def _kernel(self, reach: int) -> Tensor:
        axis = torch.arange(-reach, reach + 1, dtype=torch.float32)
        y, x = axis[:, None], axis[None, :]
        along = x * math.cos(self.angle) + y * math.sin(self.angle)
        across = y * math.cos(self.angle) - x * math.sin(self.angle)
        kernel = torch.exp(-0.5 * ((along / self.sigma_x) ** 2 + (across / self.sigma_y) ** 2))
        return kernel / kernel.sum()


@dataclass(frozen=True)
class Resize:
    height: int
    width: int
    mode: Interpolation

    def __call__(self, frames: Tensor, first: int) -> Tensor:
        size = (self.height, self.width)
        if self.mode == "area":
            return F.interpolate(frames, size=size, mode="area")
        return F.interpolate(frames, size=size, mode=self.mode, align_corners=False, antialias=True).clamp_(0, 1)


@dataclass(frozen=True)
class Noise:
    """Noise of its own for each frame; drawn on the CPU from the frame's number, so that it differs nowhere else."""

    kind: Literal["gaussian", "poisson"]
    strength: float
    grey: bool
    seed: int

    def __call__(self, frames: Tensor, first: int) -> Tensor:
        drawn = torch.stack([self._drawn(frame.cpu(), first + index) for index, frame in enumerate(frames)])
        return (frames + drawn.to(frames.device)).clamp_(0, 1)

    def _drawn(self, frame: Tensor, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, number))
        shown = frame.mean(dim=0, keepdim=True) if self.grey else frame
        if self.kind == "gaussian":
            return torch.randn(shown.shape, generator=generator) * (self.strength / 255)
        counts = shown.clamp(0, 1) * 255
        return (torch.poisson(counts, generator=generator) - counts) * (self.strength / 255)


@dataclass(frozen=True)
class Jpeg:
    """Compression frame by frame; :class:`Codecs` does it."""

    quality: float


@dataclass(frozen=True)
class H264:
    """Compression that needs all frames of a clip at once, unlike the other steps; :class:`Codecs` does it."""

    crf: float
