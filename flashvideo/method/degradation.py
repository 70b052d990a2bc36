"""Latent degradation: where Stage II starts (paper section 3.3, DEG_latent)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tensors.checks import check_latents
from .checks import check_noise_step
from .schedules import zero_snr_table

STAGE1_LATENT_SCALE = 0.7
STAGE2_LATENT_SCALE = 1.15258426


def degradation_mix(noise_step: int) -> tuple[float, float]:
    """Amplitudes (signal, noise) at a noise step: 675 gives 0.264, 0.9645 (their squares add up to 1)."""
    check_noise_step(noise_step)
    signal = zero_snr_table()[int(noise_step)]
    return float(signal), float((1 - signal**2).sqrt())


def degrade_latents(
    latents: Tensor,
    noise_step: int = 675,
    *,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    latent_scale: float = STAGE2_LATENT_SCALE,
) -> Tensor:
    """``signal * latents + noise amplitude * noise``, mixed in model space.

    Args:
        latents: ``[B, 16, T, h, w]`` in VAE space.
        noise_step: strength, an index 0..999 into the zero-terminal-SNR table; tell Stage II the same.
        noise: standard normal, like ``latents``; else drawn (in fp32, on the generator's device or the CPU).
        latent_scale: latents times this is Stage II's model space; the noise has standard deviation
            ``amplitude / latent_scale`` in VAE space.

    Returns:
        Degraded latents in VAE space, dtype and device of ``latents``.

    Raises:
        ValueError: shapes that differ, or a noise step out of range.
    """
    check_latents("latents", latents, even=False)
    signal, amplitude = degradation_mix(noise_step)
    if noise is None:
        device = generator.device if generator is not None else torch.device("cpu")
        noise = torch.randn(latents.shape, generator=generator, device=device, dtype=torch.float32)
    elif noise.shape != latents.shape:
        raise ValueError(f"noise has shape {list(noise.shape)}; expected that of the latents, {list(latents.shape)}.")
    noise = noise.to(latents.device, latents.dtype)
    mixed = signal * (latents.float() * latent_scale) + amplitude * noise.float()
    return (mixed / latent_scale).to(latents.dtype)
