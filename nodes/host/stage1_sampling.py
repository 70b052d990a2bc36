"""Stage I inside ComfyUI: its schedule as SIGMAS, its guidance as a GUIDER, its solver as a SAMPLER.

All three follow the authors' run; together they give the library's ``sample_stage1`` to the last digits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...flashvideo.method.checks import NOISE_STEPS
from ...flashvideo.method.schedules import SolverLevels, stage1_schedule
from ...flashvideo.method.stage1 import GuidanceCurve, stage1_guidance, stage1_steps
from ...flashvideo.tensors.checks import check_latents
from ...flashvideo.tensors.noise import standard_normal
from .guidance import SparseGuider
from .sampling import Stage1Sampling, vp_factors

_SEEDS = 2**63


def stage1_sigmas(model: Any, steps: int) -> Tensor:
    """``[steps + 1]``: the model's sigmas at the authors' whole time steps (999, 979, 959, 940 ...), then 0."""
    table = model.get_model_object("model_sampling").sigmas
    chosen = table[stage1_schedule(steps).timesteps.to(table.device)]
    return torch.cat((chosen, chosen.new_zeros(1))).float().cpu()


class Stage1Guidance(SparseGuider):
    """Classifier-free guidance whose scale changes with the time step, as the authors' code has it."""

    def set_curve(self, scale: float, exponent: float, curve: GuidanceCurve, steps: int = 0) -> None:
        """Settings of ``stage1_guidance``; ``steps`` 0 takes their number from the sigmas."""
        self.scale, self.exponent, self.curve, self.steps = scale, exponent, curve, steps
        self.set_cfg(scale)

    def outer_predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Any:
        """Called by samplers for each evaluation; ``timestep`` is a sigma here.

        Not in ``predict_noise``, around which CFGOverride sets a scale of its own.
        """
        options = model_options or {}
        sigmas = options["transformer_options"]["sample_sigmas"]
        steps = self.steps or len(sigmas) - 1
        index = int((sigmas[:-1] - timestep[0]).abs().argmin())
        number = int(self.inner_model.model_sampling.timestep(timestep[:1]))
        self.cfg = stage1_guidance(self.curve, index, number, steps, self.scale, self.exponent)
        return super().outer_predict_noise(x, timestep, options, seed)


def require_stage1(model: Any) -> None:
    """Raise ValueError for FlashVideo's other stage, whose flow this solver would take for something else."""
    if getattr(model, "flashvideo_stage", "stage1") != "stage1":
        raise ValueError(
            "Stage I Solver samples Stage I; the model is Stage II. Use KSamplerSelect (euler) with Stage II Sigmas, "
            "or the Stage II Refiner."
        )


class Stage1Solver(comfy.samplers.Sampler):
    """DPM-Solver++ 2M SDE in variance-preserving form, where terminal noise is finite.

    On Stage I's own sigmas it is the authors' run, whose solver levels lie a little beside the table's; on any other
    sigmas (split, shortened) it takes the levels from them.

    Args:
        step_noise: the solver's draws in order, instead of those of the seed.
    """

    def __init__(self, step_noise: list[Tensor] | None = None) -> None:
        self.step_noise = step_noise

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """ComfyUI's interface; latents in model space."""
        check_latents("the latent", noise)
        if denoise_mask is not None:
            raise ValueError("Stage I paints whole videos: a noise mask has no effect here. Remove it.")
        require_stage1(model_wrap.inner_model)
        run = _Run.along(sigmas, model_wrap.inner_model.model_sampling)

        def predict_v(step: int, x: Tensor) -> Tensor:
            """The guided v, out of the estimate that ComfyUI makes of it."""
            sigma = run.sigmas[step]
            signal, amplitude = vp_factors(sigma)
            denoised = model_wrap(x / signal, x.new_full((x.shape[0],), sigma), **extra_args)
            return (signal * x - denoised) / amplitude

        x = _start(run, noise, latent_image)
        draw = self._draws(run, noise, extra_args.get("seed") or 0)
        for step, denoised, after in stage1_steps(run.levels, x, predict_v, draw):
            if callback is not None:
                callback(step, denoised, x, len(run.timesteps))
            x = after
        return x / vp_factors(run.sigmas[-1])[0]

    def _draws(self, run: _Run, noise: Tensor, seed: int) -> Callable[[int], Tensor]:
        """The solver's noise, a draw for each step that adds some."""
        if self.step_noise is not None:
            given = self.step_noise
            return lambda step: given[step].to(noise)
        generator = torch.Generator("cpu")
        if run.terminal:
            generator.manual_seed(seed)
            standard_normal(noise.shape, generator)  # RandomNoise drew the start from the same seed: go on after it
        else:  # a continued run must not repeat the draws of its first part
            generator.manual_seed((seed + 1 + run.timesteps[0]) % _SEEDS)
        return lambda step: standard_normal(noise.shape, generator).to(noise)


def _start(run: _Run, noise: Tensor, latent_image: Tensor | None) -> Tensor:
    """x in VP form. At the terminal level it is the noise itself, whatever the latent."""
    if run.terminal:
        if not torch.count_nonzero(noise):
            raise ValueError("Stage I starts from noise, and there is none (DisableNoise). Connect RandomNoise.")
        return noise.clone()
    signal, amplitude = vp_factors(run.sigmas[0])
    given = torch.zeros_like(noise) if latent_image is None else latent_image
    if not torch.count_nonzero(given):
        raise ValueError(
            f"Sampling starts at sigma {run.sigmas[0]:.4g} from an empty latent, in the middle of nothing. Use "
            "Stage I Sigmas from their start; a part of them continues the latent of the part before."
        )
    # a continued run without new noise carries its noise in the latent, in ComfyUI's scaling
    return signal * given + amplitude * noise


@dataclass(frozen=True)
class _Run:
    """A run along sigmas.

    Attributes:
        sigmas: one more than there are steps.
        timesteps: of the steps.
        terminal: whether it starts from pure noise.
        levels: the authors' where the sigmas are theirs, else those of the sigmas.
    """

    sigmas: list[float]
    timesteps: list[int]
    terminal: bool
    levels: SolverLevels

    @classmethod
    def along(cls, sigmas: Tensor, sampling: Any) -> _Run:
        """Along the sigmas of a sampler with the model's sampling.

        Raises:
            ValueError: sigmas that do not fall.
        """
        values = [float(sigma) for sigma in sigmas]
        if len(values) < 2 or any(b >= a for a, b in itertools.pairwise(values)):
            raise ValueError(f"The sigmas must fall from step to step; got {values}. Use Stage I Sigmas.")
        timesteps = [int(sampling.timestep(sigma.view(1))) for sigma in sigmas[:-1]]
        terminal = values[0] >= float(sampling.sigma_max) * (1 - 1e-5)
        levels = _authors_levels(values, timesteps, sampling) or _levels_of_sigmas(values, terminal)
        return cls(values, timesteps, terminal, levels)


def _levels_of_sigmas(sigmas: list[float], terminal: bool) -> SolverLevels:
    alphas = [vp_factors(sigma)[0] for sigma in sigmas]
    return SolverLevels([0.0, *alphas[1:]] if terminal else alphas, alphas[:-1])


def _authors_levels(sigmas: list[float], timesteps: list[int], sampling: Any) -> SolverLevels | None:
    """The levels of the authors' run of as many steps, or None if these are not its sigmas."""
    if not isinstance(sampling, Stage1Sampling) or len(timesteps) > NOISE_STEPS or sigmas[-1] != 0:
        return None
    schedule = stage1_schedule(len(timesteps))
    exact = sampling.sigmas[timesteps].tolist()
    on_table = all(abs(a - b) <= 1e-5 * b for a, b in zip(sigmas[:-1], exact, strict=True))
    return schedule.levels if on_table and schedule.timesteps.tolist() == timesteps else None
