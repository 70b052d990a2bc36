"""Random draws that depend on a seed and their purpose alone, not on what was drawn before them."""

from __future__ import annotations

import hashlib
from typing import Literal

import torch

Purpose = Literal["stage1 start", "stage1 solver", "posterior", "degradation"]


def generator_for(seed: int, purpose: Purpose) -> torch.Generator:
    """A CPU generator for one purpose of a run.

    Drawing on the CPU, with a generator for each purpose, makes a run's noise the same on every device, with any
    offloading, and when Stage II runs later from a saved preview.
    """
    return torch.Generator("cpu").manual_seed(mixed_seed(seed, purpose))


def mixed_seed(*parts: int | str) -> int:
    """One seed, 0 to 2^63 - 1, that depends on every part."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
