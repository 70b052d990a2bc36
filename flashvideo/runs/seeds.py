"""Random draws that depend on a seed and their purpose alone, not on what was drawn before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..method.seeds import mixed_seed
from ..tensors.noise import standard_normal

Purpose = Literal["stage1 start", "stage1 solver", "posterior", "degradation"]


def generator_for(seed: int, purpose: Purpose) -> torch.Generator:
    """A CPU generator for one purpose of a run.

    Drawing on the CPU, with a generator for each purpose, makes a run's noise the same on every device, with any
    offloading, and when Stage II runs later from a saved preview.
    """
    return torch.Generator("cpu").manual_seed(mixed_seed(seed, purpose))


def frame_noise(seed: int, purpose: Purpose, index: int, shape: Sequence[int]) -> Tensor:
    """Standard normal noise of one latent frame, fp32 on the CPU, from its place in the video alone.

    However long a video is, and in whichever stretches it is drawn, its latents get the same noise. These are other
    draws than those of :func:`generator_for`, which draws a whole clip at once.

    Args:
        index: of the latent frame in the video.
        shape: of the noise, ``[1, 16, 1, h, w]``.
    """
    return standard_normal(shape, torch.Generator("cpu").manual_seed(mixed_seed(seed, purpose, index)))
