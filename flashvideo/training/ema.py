"""Averaged weights: an exponential moving average, which is what a run exports."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoints.files import open_weights
from ..checkpoints.writing import tensor_plan, write_safetensors


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

    def save(self, path: Path) -> None:
        """Write the averages and the number of steps that they hold as safetensors."""
        plan = tensor_plan({_name(number): average for number, average in enumerate(self.averages)})
        write_safetensors(path, plan, {"steps": str(self.steps)})

    def load(self, path: Path) -> None:
        """Go on from what :meth:`save` wrote.

        Raises:
            ValueError: a file that is damaged, or of other parameters.
        """
        weights = open_weights(path)
        expected = {_name(number): tuple(average.shape) for number, average in enumerate(self.averages)}
        steps = weights.metadata.get("steps", "")
        if weights.kind != "safetensors" or weights.shapes != expected or not re.fullmatch(r"[0-9]{1,18}", steps):
            raise ValueError(f"{path} does not hold the averages of these weights.")
        self.steps = int(steps)
        for number, average in enumerate(self.averages):
            average.copy_(weights.tensors[_name(number)].read())


def _name(number: int) -> str:
    return f"average_{number}"


@torch.no_grad()
def _copy(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
