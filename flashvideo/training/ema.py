"""Averaged weights: an exponential moving average, which is what a run exports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class AveragedWeights:
    """Exponential moving average of parameters, in fp32.

    Args:
        parameters: that are trained; always given in this order.
        decay: of the average. In the first steps it is smaller, ``(1 + n) / (10 + n)``, so that the start is forgotten.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.averages = [p.detach().float().clone() for p in parameters]

    @torch.no_grad()
    def update(self, parameters: Sequence[nn.Parameter]) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        current = [p.detach().float() for p in parameters]
        torch._foreach_lerp_(self.averages, current, 1 - decay)

    @contextmanager
    def swapped_in(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """The parameters hold their averages inside, and what they held before afterwards."""
        before = [p.detach().clone() for p in parameters]
        _copy(parameters, self.averages)
        try:
            yield
        finally:
            _copy(parameters, before)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "averages": self.averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = int(state["steps"])
        shapes = [[tuple(t.shape) for t in tensors] for tensors in (state["averages"], self.averages)]
        if shapes[0] != shapes[1]:
            raise KeyError("the averaged weights have other shapes")
        for average, stored in zip(self.averages, state["averages"], strict=True):
            average.copy_(stored)


@torch.no_grad()
def _copy(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
