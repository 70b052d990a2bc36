"""Noise schedule of both stages and time grid of Stage II."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .checks import NOISE_STEPS, check_positive

BETA_START, BETA_END = 0.00085, 0.012


@lru_cache(maxsize=1)
def _alphas_cumprod() -> Tensor:
    """Cumulative products of 1 - beta, beta linear in its square root: ``[1000]`` double."""
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, NOISE_STEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)


def _zero_terminal_snr(alphas_cumprod: Tensor, shift_scale: float) -> Tensor:
    """sqrt(alpha_bar), ascending in noise, moved and stretched so that the last is 0 and the first stays."""
    shifted = (alphas_cumprod / (shift_scale + (1 - shift_scale) * alphas_cumprod)).float()
    roots = shifted.sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    return (roots - last) * (first / (first - last))


def zero_snr_table(shift_scale: float = 1.0) -> Tensor:
    """sqrt(alpha_bar) of the 1000 noise steps, ``[1000]`` fp32: index 0 is clean, 999 exactly 0 (pure noise).

    Scaled-linear betas 0.00085 to 0.012 with the zero-terminal-SNR rescale of arXiv 2305.08891. ``shift_scale`` other
    than 1 shifts the signal-to-noise ratio first; neither stage uses it.
    """
    return _zero_terminal_snr(_alphas_cumprod(), shift_scale)


def signal_and_noise(step: int | Tensor) -> tuple[Tensor, Tensor]:
    """Amplitudes of signal and noise at entries of :func:`zero_snr_table`; their squares add up to 1.

    Args:
        step: index or indices, 0 (clean) to 999 (pure noise).

    Returns:
        ``sqrt(alpha_bar)`` and ``sqrt(1 - alpha_bar)``, shape and device of ``step``.
    """
    index = torch.as_tensor(step)
    signal = zero_snr_table().to(index.device)[index]
    return signal, (1 - signal**2).sqrt()


@dataclass(frozen=True)
class SolverLevels:
    """Noise levels of a Stage I run, in step order, in double precision.

    Attributes:
        alphas: ``n + 1`` times sqrt(alpha_bar) of the solver; 0 is pure noise, 1 is clean.
        snapped: ``n`` times sqrt(alpha_bar) at which v is turned into x0.
    """

    alphas: list[float]
    snapped: list[float]


@dataclass(frozen=True)
class Stage1Schedule:
    """Noise levels of a Stage I run, in step order.

    Attributes:
        timesteps: ``[n]`` integers for the transformer, 999 first.
        alphas: ``[n + 1]`` sqrt(alpha_bar) of the solver, 0 first, 1 last. The zero-terminal-SNR rescale is done
            after sub-sampling, so these are not entries of the table of 1000.
        snapped: ``[n]`` nearest entries of that table, used to turn v into x0.
        snapped_index: ``[n]`` their indices.
    """

    timesteps: Tensor
    alphas: Tensor
    snapped: Tensor
    snapped_index: Tensor

    @property
    def levels(self) -> SolverLevels:
        """The levels as the solver takes them."""
        return SolverLevels(self.alphas.double().tolist(), self.snapped.double().tolist())


def stage1_schedule(num_steps: int, shift_scale: float = 1.0) -> Stage1Schedule:
    """Noise levels for ``num_steps`` evaluations: equally spaced from 999 towards 0, 0 excluded.

    Raises:
        ValueError: fewer than one step or more than 1000.
    """
    check_positive("num_steps", num_steps)
    if num_steps > NOISE_STEPS:
        raise ValueError(f"num_steps is {num_steps}; the schedule has {NOISE_STEPS} steps. Use fewer.")
    points = np.linspace(NOISE_STEPS - 1, 0, num_steps, endpoint=False).astype(np.int64)
    timesteps = torch.from_numpy(points)
    if num_steps == 1:  # one level is both the first and the last: only pure noise is left of it
        noisy = torch.zeros(1)
    else:
        noisy = _zero_terminal_snr(_alphas_cumprod()[timesteps.flip(0)], shift_scale).flip(0)
    table = zero_snr_table(shift_scale)
    index = (noisy[:, None] - table[None]).abs().argmin(dim=1)
    return Stage1Schedule(timesteps, torch.cat((noisy, torch.ones(1))), table[index], index)


def flow_times(num_steps: int, shift: float = 2.5, dtype: torch.dtype = torch.float32) -> Tensor:
    """Stage II's times, 0 = low resolution to 1 = high: ``[num_steps + 1]``.

    ``t' = 1 - shift (1 - t) / (1 + (shift - 1)(1 - t))`` on a uniform ``t``: steps grow towards the end for shift > 1;
    1 gives the paper's uniform grid (Algorithm 2).

    Args:
        dtype: the arithmetic's; ``torch.bfloat16`` gives the grid of the authors' production run.

    Raises:
        ValueError: no step, or a shift that is not positive.
    """
    check_positive("num_steps", num_steps)
    if not shift > 0:
        raise ValueError(f"shift is {shift}; expected a positive number (2.5 by default, 1 for uniform steps).")
    uniform = _uniform(num_steps, dtype)
    times = 1 - shift * (1 - uniform) / (1 + (shift - 1) * (1 - uniform))
    times[0] = 0  # exactly, whatever the rounding
    return times


def _uniform(num_steps: int, dtype: torch.dtype) -> Tensor:
    """0 to 1 in equal steps; below fp32 the step is rounded first, as in the authors' run (torch 2.15 rounds once)."""
    if dtype.itemsize >= 4:
        return torch.linspace(0, 1, num_steps + 1, dtype=dtype)
    step, index = (torch.ones((), dtype=dtype) / num_steps).float(), torch.arange(num_steps + 1)
    return torch.where(index < (num_steps + 1) // 2, step * index, 1 - step * (num_steps - index)).to(dtype)


def network_timestep(time: Tensor) -> Tensor:
    """What the transformer is called with at a time of Stage II's flow: 1000 at time 0, 0 at time 1."""
    return 1000 - 1000 * time
