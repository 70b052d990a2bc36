"""Guidance inside ComfyUI whose branch without a prompt is evaluated now and then, as the library's ``SparseGuidance``.

Core evaluates both branches in one function, which MODEL patches may replace; here it is wrapped, so that patches of
guidance see both predictions as ever.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

_BRANCHES = "sampler_calc_cond_batch_function"  # core's name for a replacement


class DifferenceGuider(comfy.samplers.CFGGuider):
    """Core's guider, which knows c - u: the network's output with the prompt less the one without.

    Attributes:
        difference: of the last evaluation of both branches, or set from outside.
        reuse: whether the next evaluation takes it instead of evaluating u.
    """

    difference: Tensor
    reuse = False

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Any:
        """The guided estimate of the clean latent; ``timestep`` is a sigma here."""
        options = model_options or {}
        branches = partial(self._branches, options.get(_BRANCHES, _branches_of_core))
        return super().predict_noise(x, timestep, {**options, _BRANCHES: branches}, seed)

    def _branches(self, evaluate: Callable[[dict[str, Any]], list[Tensor]], args: dict[str, Any]) -> list[Tensor]:
        """The estimates with and without the prompt."""
        conditional, unconditional = args["conds"]
        if unconditional is None:  # guidance 1
            return evaluate(args)
        share = _share_of_output(args["model"].model_sampling, args["sigma"])
        if self.reuse:
            estimate = evaluate({**args, "conds": [conditional, None]})[0]
            return [estimate, estimate - share * self.difference.to(estimate)]
        estimates = evaluate(args)
        self.difference = (estimates[0] - estimates[1]) / share
        return estimates


class SparseGuider(DifferenceGuider):
    """Evaluates both branches at the first of ``every`` guided evaluations of a run, and reuses their difference."""

    every = 1

    def sample(self, *inputs: Any, **more: Any) -> Any:
        """A run; a GUIDER may have several."""
        self._evaluations = count()
        return super().sample(*inputs, **more)

    def _branches(self, evaluate: Callable[[dict[str, Any]], list[Tensor]], args: dict[str, Any]) -> list[Tensor]:
        if args["conds"][1] is not None:
            self.reuse = next(self._evaluations) % self.every != 0
        return super()._branches(evaluate, args)


def _branches_of_core(args: dict[str, Any]) -> list[Tensor]:
    options = args["model_options"]
    estimates: list[Tensor] = comfy.samplers.calc_cond_batch(
        args["model"], args["conds"], args["input"], args["sigma"], options
    )
    return estimates


def _share_of_output(sampling: Any, sigma: Tensor) -> Tensor:
    """What the estimate of the clean latent takes of the network's output at each sigma, ``[B, 1, 1, 1, 1]``."""
    one = torch.ones(len(sigma), 1, 1, 1, 1, device=sigma.device)
    share: Tensor = sampling.calculate_denoised(sigma, one, torch.zeros_like(one))
    return share
