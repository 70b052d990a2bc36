"""Pictures of latents while they are sampled, with colours measured on the VAE that will decode them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.utils
import latent_preview
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

_CHART_PIXELS = 192
_CHART_CELLS = 12


@dataclass(frozen=True)
class ColourFactors:
    """The best linear guess of a latent's colour: ``rgb = latent @ weight + bias``, rgb 0..1."""

    weight: Tensor  # [16, 3]
    bias: Tensor  # [3]

    def picture(self, latents: Tensor) -> Image.Image:
        """The middle frame of ``[1, 16, T, h, w]`` in VAE space, a pixel a latent."""
        frame = latents[0, :, latents.shape[2] // 2].movedim(0, -1).float().cpu()
        rgb = (frame @ self.weight + self.bias).clamp(0, 1)
        return Image.fromarray((rgb * 255).round().to(torch.uint8).numpy())


def fit_colours(latents: Tensor, colours: Tensor) -> ColourFactors:
    """Least squares over ``latents`` ``[N, 16]`` and their ``colours`` ``[N, 3]``."""
    ones = torch.ones(len(latents), 1, dtype=torch.float64)
    inputs = torch.cat((latents.double().cpu(), ones), dim=1)
    solution = torch.linalg.lstsq(inputs, colours.double().cpu(), driver="gelsd").solution.float()
    return ColourFactors(solution[:-1], solution[-1])


def colour_chart() -> Tensor:
    """``[1, H, W, 3]``: smooth fields of many colours and brightnesses, always the same."""
    generator = torch.Generator("cpu").manual_seed(0)
    cells = torch.rand(1, 3, _CHART_CELLS, _CHART_CELLS, generator=generator)
    cells = (cells - 0.5) * 1.6 + 0.5
    chart = F.interpolate(cells, size=(_CHART_PIXELS, _CHART_PIXELS), mode="bicubic")
    return chart.clamp(0, 1).movedim(1, -1)


_measured: weakref.WeakKeyDictionary[Any, ColourFactors] = weakref.WeakKeyDictionary()


def colour_factors(vae: Any) -> ColourFactors:
    """The factors of a VAE: a colour chart is encoded, decoded, and its colours fitted to its latent. Once a VAE."""
    key = vae.first_stage_model
    if key not in _measured:
        latent = vae.encode(colour_chart())
        decoded = vae.decode(latent)
        frame = decoded.reshape(-1, *decoded.shape[-3:])[:1].movedim(-1, 1).float()
        small = F.interpolate(frame, size=latent.shape[-2:], mode="area")
        _measured[key] = fit_colours(latent[0, :, 0].flatten(1).T, small[0].flatten(1).T)
    return _measured[key]


def sampling_callback(total: int, done: int, scale: float, factors: ColourFactors | None) -> Callable[..., None]:
    """A sampler's callback: ComfyUI's progress bar, a picture if there are colour factors, and interruption.

    Args:
        total: steps of all samples.
        done: steps of the samples before this one.
        scale: model space = VAE space times this.
    """
    bar = comfy.utils.ProgressBar(total)

    def callback(step: int, denoised: Tensor, x: Tensor, steps: int) -> None:
        picture = None
        if factors is not None:
            picture = ("JPEG", factors.picture(denoised / scale), latent_preview.MAX_PREVIEW_RESOLUTION)
        bar.update_absolute(done + step + 1, total, picture)

    return callback
