"""Both stages' noise as ComfyUI's samplers see it."""

from __future__ import annotations

import math
from typing import Any

import torch
from comfy.model_sampling import CONST, V_PREDICTION, ModelSamplingDiscrete, ModelSamplingDiscreteFlow
from torch import Tensor

from ...flashvideo.method.checks import check_noise_step
from ...flashvideo.method.degradation import mix_noise
from ...flashvideo.method.schedules import network_timestep, zero_snr_table
from ...flashvideo.method.stage2 import Rounding, noise_step_for_transformer, time_dtype
from ...flashvideo.runs.settings import Stage2Settings
from ...flashvideo.tensors.checks import check_latents

DEFAULT_NOISE_STEP = Stage2Settings().noise_step
_TERMINAL_ALPHA_BAR = 4.8973451890853435e-08  # ComfyUI's stand-in for zero, whose sigma would be infinite


class Stage1Sampling(ModelSamplingDiscrete, V_PREDICTION):
    """Stage I: v-prediction on the zero-terminal-SNR table.

    ``sigmas[i]`` belongs to time step ``i`` exactly, so samplers call the network with whole time steps.
    """

    sigmas: Tensor

    def __init__(self, model_config: Any = None) -> None:
        super().__init__(model_config, zsnr=True)
        alpha_bar = zero_snr_table().double() ** 2
        alpha_bar[-1] = _TERMINAL_ALPHA_BAR
        self.set_sigmas(((1 - alpha_bar) / alpha_bar).sqrt())

    def __getattr__(self, name: str) -> Any:
        """Nodes that set a flow's parameters look for them here."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise AttributeError(f"FlashVideo's Stage I has no {name}: the node is for flow models.") from None


class Stage2Sampling(ModelSamplingDiscreteFlow, CONST):
    """Stage II: a straight flow from degraded low-resolution latents (sigma 1) to high resolution (sigma 0).

    There is no pure noise in it: ``noise_scaling`` degrades the latents with ``noise_step`` (paper section 3.3), and
    all-zero noise means that they are degraded already.

    Attributes:
        noise_step: strength of the degradation.
        chosen: whether a node set it; then latents of another noise step are refused.
        network_noise_step: the noise step that the network is called with (rounded in the authors' production run).
    """

    def __init__(
        self,
        model_config: Any = None,
        noise_step: int = DEFAULT_NOISE_STEP,
        chosen: bool = False,
        rounding: Rounding = None,
    ) -> None:
        super().__init__(model_config)
        check_noise_step(noise_step)
        self.noise_step, self.chosen = int(noise_step), chosen
        self.network_noise_step = noise_step_for_transformer(self.noise_step, rounding)
        self.time_dtype = time_dtype(rounding)

    def set_noise_scale(self, noise_scale: float) -> None:
        """ComfyUI calls it once, before there is a noise step; Model Noise Scale calls it on a new object."""
        if hasattr(self, "noise_step"):
            raise ValueError("Stage II has no noise scale: its noise is the noise step's. Use Stage II Noise Step.")
        super().set_noise_scale(noise_scale)

    def timestep(self, sigma: Tensor) -> Tensor:
        """What the network is called with: 1000 at sigma 1, 0 at sigma 0."""
        return network_timestep((1 - sigma).to(self.time_dtype)).float()

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """``x + sigma v``, v being d latent / d t with t = 1 - sigma.

        At sigma 0 that is x itself and tells nothing; there it is ``x + v``, from which solvers that look at the end of
        the flow (heun, rk4) get their slope.
        """
        scale = torch.where(sigma == 0, torch.ones_like(sigma), sigma)
        return model_input + scale.view(-1, *([1] * (model_input.ndim - 1))) * model_output

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        """The start of the flow in model space."""
        check_latents("the latent", latent_image)
        if not torch.count_nonzero(latent_image):
            raise ValueError(
                "The latent is empty (all zeros). Stage II refines a video: connect the latent of the encoded "
                "low-resolution video, not an empty one."
            )
        if float(sigma.max()) > 1 + 1e-5:
            raise ValueError(
                f"Sampling starts at sigma {float(sigma.max()):.4g}; Stage II goes from 1 (degraded) to 0. Connect "
                "Stage II Sigmas."
            )
        if not torch.count_nonzero(noise):
            return latent_image  # already degraded
        if float(sigma.max()) < 1 - 1e-5:
            raise ValueError(
                f"Sampling starts at sigma {float(sigma.max()):.4g} with noise. Stage II's noise belongs at sigma 1 "
                "(the degradation): use Stage II Sigmas from their start (no denoise below 1), or no noise "
                "(DisableNoise) to continue a run."
            )
        return self.degrade(latent_image, noise)

    def degrade(self, latent_image: Tensor, noise: Tensor) -> Tensor:
        """Latents in model space with this noise step's share of noise."""
        return mix_noise(latent_image, noise, self.noise_step)

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return latent


def vp_factors(sigma: float) -> tuple[float, float]:
    """(signal, noise) amplitudes of a sigma in variance-preserving form."""
    norm = math.sqrt(1 + sigma**2)
    return 1 / norm, sigma / norm
