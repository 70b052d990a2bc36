"""Stage I inside ComfyUI: its schedule as SIGMAS, its guidance as a GUIDER, its solver as a SAMPLER.

All three follow the authors' run; together they give the library's ``sample_stage1`` to the last digits.
"""

from __future__ import annotations

from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...flashvideo.method.schedules import Stage1Schedule, stage1_schedule
from ...flashvideo.method.stage1 import dpmpp_2m_sde_coefficients, stage1_guidance
from ...flashvideo.tensors.checks import check_latents
from .sampling import Stage1Sampling, vp_factors

_SEEDS = 2**63


def stage1_sigmas(model: Any, steps: int) -> Tensor:
    """``[steps + 1]``: the model's sigmas at the authors' whole time steps (999, 979, 959, 940 ...), then 0."""
    table = model.get_model_object("model_sampling").sigmas
    chosen = table[stage1_schedule(steps).timesteps.to(table.device)]
    return torch.cat((chosen, chosen.new_zeros(1))).float().cpu()


class Stage1Guidance(comfy.samplers.CFGGuider):
    """Classifier-free guidance whose scale changes with the time step, as the authors' code has it."""

    def set_curve(self, scale: float, exponent: float, curve: str, steps: int = 0) -> None:
        """Settings of ``stage1_guidance``; ``steps`` 0 takes their number from the sigmas."""
        self.scale, self.exponent, self.curve, self.steps = scale, exponent, curve, steps
        self.set_cfg(scale)

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Any:
        """Called by samplers for each evaluation; ``timestep`` is a sigma here."""
        options = model_options or {}
        sigmas = options["transformer_options"]["sample_sigmas"]
        steps = self.steps or len(sigmas) - 1
        index = int((sigmas[:-1] - timestep[0]).abs().argmin())
        number = int(self.inner_model.model_sampling.timestep(timestep[:1]))
        self.cfg = stage1_guidance(self.curve, index, number, steps, self.scale, self.exponent)  # type: ignore[arg-type]
        return super().predict_noise(x, timestep, options, seed)


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
        levels = _Levels(model_wrap.inner_model.model_sampling, sigmas)
        x = self._start(levels, noise, latent_image)
        draw = self._drawing(noise, levels, extra_args.get("seed"))
        previous = torch.zeros_like(x)
        for i in range(levels.steps):
            denoised = self._denoise(model_wrap, levels, i, x, extra_args)
            if callback is not None:
                callback(i, denoised, x, levels.steps)
            if levels.alphas[i + 1] == 1:
                x = denoised
                continue
            keep, amount, extrapolation, noise_amount = dpmpp_2m_sde_coefficients(levels.alphas, i)
            target = denoised + extrapolation * (denoised - previous)
            x = keep * x + amount * target + noise_amount * draw(i)
            previous = denoised
        return x / vp_factors(float(sigmas[-1]))[0]

    @staticmethod
    def _start(levels: _Levels, noise: Tensor, latent_image: Tensor | None) -> Tensor:
        """x in VP form. At the terminal level it is the noise itself, whatever the latent."""
        if levels.terminal:
            if not torch.count_nonzero(noise):
                raise ValueError("Stage I starts from noise, and there is none (DisableNoise). Connect RandomNoise.")
            return noise.clone()
        signal, amplitude = vp_factors(levels.sigmas[0])
        given = torch.zeros_like(noise) if latent_image is None else latent_image
        if not torch.count_nonzero(given):
            raise ValueError(
                f"Sampling starts at sigma {levels.sigmas[0]:.4g} from an empty latent, in the middle of nothing. Use "
                "Stage I Sigmas from their start; a part of them continues the latent of the part before."
            )
        # a continued run without new noise carries its noise in the latent, in ComfyUI's scaling
        return signal * given + amplitude * noise

    def _drawing(self, noise: Tensor, levels: _Levels, seed: int | None) -> Any:
        if self.step_noise is not None:
            return lambda i: self.step_noise[i].to(noise)  # type: ignore[index]
        generator = torch.Generator("cpu")
        if levels.terminal:
            generator.manual_seed(seed or 0)
            torch.randn(
                noise.shape, generator=generator
            )  # RandomNoise drew the start from the same seed: go on after it
        else:  # a continued run must not repeat the draws of its first part
            generator.manual_seed(((seed or 0) + 1 + levels.timesteps[0]) % _SEEDS)
        return lambda i: torch.randn(noise.shape, generator=generator).to(noise)

    @staticmethod
    def _denoise(model_wrap: Any, levels: _Levels, i: int, x: Tensor, extra_args: dict[str, Any]) -> Tensor:
        """The guided estimate; v becomes x0 at the snapped level, as in the authors' code."""
        sigma = levels.sigmas[i]
        signal, amplitude = vp_factors(sigma)
        told = x.new_full((x.shape[0],), sigma)
        denoised = model_wrap(x / signal, told, **extra_args)
        snapped = levels.snapped[i]
        velocity = (signal * x - denoised) / amplitude
        return denoised + (snapped - signal) * x - ((1 - snapped**2) ** 0.5 - amplitude) * velocity


class _Levels:
    """Noise levels of a run: the authors' where the sigmas are theirs, else those of the sigmas."""

    def __init__(self, sampling: Any, sigmas: Tensor) -> None:
        self.sigmas = [float(s) for s in sigmas]
        self.steps = len(self.sigmas) - 1
        if self.steps < 1 or any(b >= a for a, b in zip(self.sigmas, self.sigmas[1:], strict=False)):
            raise ValueError(f"The sigmas must fall from step to step; got {self.sigmas}. Use Stage I Sigmas.")
        self.timesteps = [int(sampling.timestep(s.view(1))) for s in sigmas[:-1]]
        self.terminal = self.sigmas[0] >= float(sampling.sigma_max) * (1 - 1e-5)
        own = self._authors(sampling)
        if own is not None:
            self.alphas = own.alphas.double().tolist()
            self.snapped = own.snapped.double().tolist()
        else:
            self.snapped = [vp_factors(sigma)[0] for sigma in self.sigmas[:-1]]
            self.alphas = [*self.snapped, vp_factors(self.sigmas[-1])[0]]
            if self.terminal:
                self.alphas[0] = 0.0

    def _authors(self, sampling: Any) -> Stage1Schedule | None:
        if not isinstance(sampling, Stage1Sampling) or self.steps > 1000 or self.sigmas[-1] != 0:
            return None
        schedule = stage1_schedule(self.steps)
        exact = sampling.sigmas[self.timesteps].tolist()
        on_table = all(abs(a - b) <= 1e-5 * b for a, b in zip(self.sigmas, exact, strict=False))
        return schedule if on_table and schedule.timesteps.tolist() == self.timesteps else None
