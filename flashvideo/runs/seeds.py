"""Random draws that depend on a seed and their purpose alone, not on what was drawn before them."""

from __future__ import annotations

from typing import Literal

import torch

from ..method.seeds import mixed_seed

Purpose = Literal["stage1 start", "stage1 solver", "posterior", "degradation"]


def generator_for(seed: int, purpose: Purpose) -> torch.Generator:
    """A CPU generator for one purpose of a run.

    Drawing on the CPU, with a generator for each purpose, makes a run's noise the same on every device, with any
    offloading, and when Stage II runs later from a saved preview.
    """
    return torch.Generator("cpu").manual_seed(mixed_seed(seed, purpose))
