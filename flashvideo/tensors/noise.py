"""Where noise comes from: one generator for a batch, or one for each of its samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator] | None


def standard_normal(shape: Sequence[int], generator: Generators) -> Tensor:
    """One draw in fp32, on the generator's device.

    Args:
        shape: ``[B, ...]``.
        generator: one of the whole batch, or a sequence with one for each sample, which is then drawn as it is alone;
            None is torch's default one on the CPU.

    Raises:
        ValueError: a sequence that is not as long as the batch.
    """
    check_generators(generator, shape[0])
    if generator is None or isinstance(generator, torch.Generator):
        device = torch.device("cpu") if generator is None else generator.device
        return torch.randn(tuple(shape), generator=generator, device=device, dtype=torch.float32)
    return torch.cat([standard_normal((1, *shape[1:]), one) for one in generator])


def check_generators(generator: Generators, batch: int) -> None:
    """Raise ValueError unless there is one generator, or one for each sample."""
    if generator is not None and not isinstance(generator, torch.Generator) and len(generator) != batch:
        raise ValueError(
            f"there are {len(generator)} generators for a batch of {batch}; expected one for each sample, or a single "
            "one for all."
        )
