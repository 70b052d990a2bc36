"""Latents of zero mean, unit variance and no correlation between channels, by an affine map inside the autoencoder.

A transformer learns what stands out from the noise. Where the autoencoder hides what a clip shows in small differences
of its channels, beside large constant ones, that takes long. The map that evens them out is folded into the encoder's
last and the decoder's first layers, so nothing else has to know of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_LEAST_DEVIATION = 0.25  # directions that vary less (of 16, most do not) are not amplified further, nor is their noise


@dataclass(frozen=True)
class LatentStatistics:
    """Of the posterior over places and clips.

    Attributes:
        mean: ``[C]``.
        covariance: ``[C, C]`` of the posterior's mean.
        noise: ``[C]`` mean variance of the posterior.
    """

    mean: Tensor
    covariance: Tensor
    noise: Tensor


@torch.no_grad()
def measure_latents(vae: Any, videos: Iterable[Tensor]) -> LatentStatistics:
    """Statistics of the latents of ``[3, F, H, W]`` clips in 0..1, every place counting alike, in fp64."""
    total = squares = noise = torch.zeros((), dtype=torch.float64)
    number = 0
    for video in videos:
        mean, log_variance = vae.encoder(video[None] * 2 - 1)[0][0].double().flatten(1).chunk(2)
        total, squares = total + mean.sum(dim=1), squares + mean @ mean.T
        noise = noise + log_variance.exp().sum(dim=1)
        number += mean.shape[1]
    if number == 0:
        raise ValueError("no clips to measure latents on; expected one or more.")
    mean = total / number
    return LatentStatistics(mean, squares / number - torch.outer(mean, mean), noise / number)


@torch.no_grad()
def whiten(vae: Any, statistics: LatentStatistics) -> None:
    """Change an autoencoder's latents ``z`` to ``W (z - mean)``, with ``W`` near the covariance's inverse square root.

    The posterior's variance becomes a constant, the mean of what it was. Videos are decoded as before but for the
    edges of frames, where convolutions pad with zeros, which now are the mean: the decoder has to be trained on.

    Args:
        vae: of the CogVideoX kind; changed in place.
        statistics: of its latents.
    """
    variance, directions = torch.linalg.eigh(statistics.covariance)
    deviation = variance.clamp(min=0).sqrt().clamp(min=_LEAST_DEVIATION)
    forward, back = (directions @ torch.diag(scale) @ directions.T for scale in (1 / deviation, deviation))
    _whiten_moments(vae.encoder.conv_out.conv, forward, statistics)
    for name, module in vae.decoder.named_modules():
        if name == "conv_in.conv" or name.endswith((".conv_y.conv", ".conv_b.conv")):
            weight = module.weight.double()
            module.bias += torch.einsum("oixyz,i->o", weight, statistics.mean)
            module.weight.copy_(torch.einsum("oixyz,ij->ojxyz", weight, back))


def _whiten_moments(conv: nn.Conv3d, forward: Tensor, statistics: LatentStatistics) -> None:
    channels = len(forward)
    assert conv.bias is not None
    weight, bias = conv.weight[:channels].double(), conv.bias[:channels].double()
    conv.weight[:channels] = torch.einsum("ji,ixyzw->jxyzw", forward, weight).to(conv.weight)
    conv.bias[:channels] = (forward @ (bias - statistics.mean)).to(conv.bias)
    conv.weight[channels:] = 0
    conv.bias[channels:] = (forward.square() @ statistics.noise).log().to(conv.bias)
