"""Latent degradation: where Stage II starts (paper section 3.3, DEG_latent)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tensors.checks import check_latents
from ..tensors.noise import Generators, standard_normal
from .checks import check_noise_step
from .schedules import signal_and_noise

STAGE1_LATENT_SCALE = 0.7
STAGE2_LATENT_SCALE = 1.15258426


def mix_noise(latents: Tensor, noise: Tensor, noise_step: int | Tensor) -> Tensor:
    """DEG_latent in model space: ``signal * latents + amplitude * noise``.

    Args:
        latents: ``[B, 16, T, h, w]`` in model space.
        noise: standard normal, like ``latents``.
        noise_step: index 0..999 of the whole batch, or ``[B]``. 675 gives the amplitudes 0.264 and 0.9645.
    """
    steps = torch.as_tensor(noise_step, device=latents.device).view(-1, 1, 1, 1, 1)
    signal, amplitude = signal_and_noise(steps)
    return signal * latents + amplitude * noise


def degrade_latents(
    latents: Tensor,
    noise_step: int = 675,
    *,
    noise: Tensor | None = None,
    generator: Generators = None,
    latent_scale: float = STAGE2_LATENT_SCALE,
) -> Tensor:
    """Latents with noise mixed in, in model space, by :func:`mix_noise`.

    Args:
        latents: ``[B, 16, T, h, w]`` in VAE space.
        noise_step: strength, an index 0..999 into the zero-terminal-SNR table; tell Stage II the same.
        noise: standard normal, like ``latents``; else drawn in fp32.
        generator: to draw from, one or one for each sample; see :func:`~flashvideo.tensors.noise.standard_normal`.
        latent_scale: latents times this is Stage II's model space; the noise has standard deviation
            ``amplitude / latent_scale`` in VAE space.

    Returns:
        Degraded latents in VAE space, dtype and device of ``latents``.

    Raises:
        ValueError: shapes that differ, or a noise step out of range.
    """
    check_latents("latents", latents, even=False)
    check_noise_step(noise_step)
    if noise is None:
        noise = standard_normal(latents.shape, generator)
    elif noise.shape != latents.shape:
        raise ValueError(f"noise has shape {list(noise.shape)}; expected that of the latents, {list(latents.shape)}.")
    noise = noise.to(latents.device, latents.dtype)
    mixed = mix_noise(latents.float() * latent_scale, noise.float(), int(noise_step))
    return (mixed / latent_scale).to(latents.dtype)


def undegrade_latents(
    latents: Tensor, noise_step: int, *, noise: Tensor, latent_scale: float = STAGE2_LATENT_SCALE
) -> Tensor:
    """What :func:`degrade_latents` was given, from what it gave and the noise that it mixed in, up to rounding.

    Args:
        latents, noise: ``[B, 16, T, h, w]``.

    Raises:
        ValueError: a noise step that leaves nothing of the latents.
    """
    check_noise_step(noise_step)
    signal, amplitude = (float(one) for one in signal_and_noise(torch.tensor([int(noise_step)])))
    if not signal:
        raise ValueError(
            f"Noise step {noise_step} leaves nothing of the latents in their noise, so that no region of them can be "
            f"kept. Use {noise_step - 1} or less."
        )
    noise = noise.to(latents.device).float()
    return ((latents.float() - noise * (amplitude / latent_scale)) / signal).to(latents.dtype)
