"""What the stages are trained on: v-prediction with zero terminal SNR, and the flow from degraded to clean latents.

Everything random is drawn when a batch is made, so an objective is a plain function of its batch. Latents are in model
space (VAE space times the stage's latent scale) from here on.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..method.degradation import mix_noise
from ..method.schedules import signal_and_noise
from .loop import Batch


def v_prediction_pair(clean: Tensor, noise: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """Input and target of Stage I.

    Args:
        clean: ``[B, 16, T, h, w]`` in model space.
        noise: standard normal, like ``clean``.
        timestep: ``[B]`` indices 0..999 into :func:`~flashvideo.method.schedules.zero_snr_table`.

    Returns:
        ``x_t = a clean + s noise`` and ``v = a noise - s clean`` (arXiv 2202.00512, equation 11), ``a`` the table's
        entry and ``a^2 + s^2 = 1``.
    """
    signal, sigma = signal_and_noise(timestep.to(clean.device).view(-1, 1, 1, 1, 1))
    return signal * clean + sigma * noise, signal * noise - sigma * clean


def flow_pair(high: Tensor, low: Tensor, noise: Tensor, time: Tensor, noise_step: Tensor) -> tuple[Tensor, Tensor]:
    """Input and target of Stage II (paper, Algorithm 1).

    Args:
        high: ``E(X)`` ``[B, 16, T, h, w]`` in model space.
        low: ``E(DEG_pixel(X))``, likewise.
        noise: standard normal, likewise; of the latent degradation.
        time: ``[B]``, 0 (low) to 1 (high).
        noise_step: ``[B]`` indices of the degradation's strength; -1 degrades nothing.

    Returns:
        ``(1 - t) z_low + t high`` with ``z_low = DEG_latent(low)``, and the velocity ``high - z_low``.
    """
    noise_step, time = noise_step.view(-1, 1, 1, 1, 1), time.view(-1, 1, 1, 1, 1)
    start = torch.where(noise_step < 0, low, mix_noise(low, noise, noise_step.clamp(min=0)))
    return (1 - time) * start + time * high, high - start


class TextSide(nn.Module):
    """Prompt embeddings of a batch: cached ones, or a T5 encoder's, which is trained if it requires gradients.

    Args:
        encoder: transformers' ``T5EncoderModel``, or None if batches carry ``embeds``.
    """

    def __init__(self, encoder: Any = None) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, batch: Batch) -> Tensor:
        """``[B, L, D]``; samples with ``drop_text`` get zeros, which is what "no prompt" is."""
        if self.encoder is None:
            embeds: Tensor = batch["embeds"].float()
        else:
            trained = any(p.requires_grad for p in self.encoder.parameters())
            with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
                embeds = self.encoder(input_ids=batch["input_ids"]).last_hidden_state
        return torch.where(batch["drop_text"].view(-1, 1, 1), torch.zeros_like(embeds), embeds)


class Stage1Objective(nn.Module):
    """Mean squared error of v."""

    def __init__(self, transformer: nn.Module, text: TextSide) -> None:
        super().__init__()
        self.transformer, self.text = transformer, text

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """``latents``, ``noise`` ``[B, 16, T, h, w]``, ``timestep`` ``[B]`` and the text -> loss."""
        noisy, target = v_prediction_pair(batch["latents"], batch["noise"], batch["timestep"])
        predicted = self.transformer(noisy, batch["timestep"].float(), self.text(batch))
        return F.mse_loss(predicted.float(), target), {}


class Stage2Objective(nn.Module):
    """Mean squared error of the velocity.

    Args:
        transformer: Stage II's.
        text: gives the prompt embeddings.
        takes_low: the transformer is a vanilla cascade's: low-resolution latents are its further input channels.
    """

    def __init__(self, transformer: nn.Module, text: TextSide, takes_low: bool = False) -> None:
        super().__init__()
        self.transformer, self.text, self.takes_low = transformer, text, takes_low

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """``latents``, ``low_latents``, ``noise`` ``[B, 16, T, h, w]``, ``time``, ``noise_step`` ``[B]``, the text."""
        x, velocity = flow_pair(
            batch["latents"], batch["low_latents"], batch["noise"], batch["time"], batch["noise_step"]
        )
        if self.takes_low:
            x = torch.cat((x, batch["low_latents"]), dim=1)
        predicted = self.transformer(
            x, 1000 * (1 - batch["time"]), self.text(batch), noise_step=batch["noise_step"].clamp(min=0).float()
        )
        return F.mse_loss(predicted.float(), velocity), {}
