"""Pictures of latents while they are sampled: by the draft decoder, or with colours measured on a VAE."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import latent_preview
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...flashvideo.loading.draft import load_draft_decoder
from ...flashvideo.loading.published import DRAFT
from ...flashvideo.vae.draft import DraftDecoder, decode_draft

log = logging.getLogger(__name__)

Picture = Callable[[Tensor], Image.Image]  # of the middle frame of [1, 16, T, h, w] in VAE space
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
        return _image((frame @ self.weight + self.bias).clamp(0, 1))


def _image(rgb: Tensor) -> Image.Image:
    """Of ``[H, W, 3]`` in 0..1."""
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


def live_picture(vae: Any = None) -> Picture | None:
    """What shows latents while they are sampled.

    Where ComfyUI's live previews are set to TAESD and the draft decoder's file is there, that; else the colours of the
    VAE; None without one.

    Raises:
        ValueError: a draft decoder's file that is none.
    """
    if latent_preview.args.preview_method == latent_preview.LatentPreviewMethod.TAESD:
        if (file := _draft_file()) is not None:
            decoder = _draft_decoder(file, file.stat().st_mtime_ns, comfy.model_management.get_torch_device())
            return partial(draft_picture, decoder)
        log.warning(
            "Live previews are set to TAESD, and models/%s has no %s. Download %s into that folder.",
            DRAFT.folder,
            DRAFT.name,
            DRAFT.url,
        )
    return None if vae is None else colour_factors(vae).picture


def _draft_file() -> Path | None:
    names = folder_paths.get_filename_list(DRAFT.folder)
    name = next((name for name in names if Path(name).name.startswith(Path(DRAFT.name).stem)), None)
    return None if name is None else Path(folder_paths.get_full_path_or_raise(DRAFT.folder, name))


@lru_cache(maxsize=1)
def _draft_decoder(file: Path, _changed: int, device: torch.device) -> DraftDecoder:
    dtype = comfy.model_management.vae_dtype(device, [torch.float16, torch.bfloat16, torch.float32])
    return load_draft_decoder(file, dtype=dtype, device=device)


def draft_picture(decoder: DraftDecoder, latents: Tensor) -> Image.Image:
    """The middle frame of ``[1, 16, T, h, w]`` in VAE space, at full size."""
    middle = latents[:1, :, latents.shape[2] // 2].unsqueeze(2)
    (frame,) = decode_draft(decoder, middle)
    return _image(frame[0, :, 0].movedim(0, -1))


def sampling_callback(total: int, done: int, scale: float, picture: Picture | None) -> Callable[..., None]:
    """A sampler's callback: ComfyUI's progress bar, a picture if there is what makes it, and interruption.

    Args:
        total: steps of all samples.
        done: steps of the samples before this one.
        scale: model space = VAE space times this.
    """
    bar = comfy.utils.ProgressBar(total)

    def callback(step: int, denoised: Tensor, x: Tensor, steps: int) -> None:
        shown = None
        if picture is not None:
            shown = ("JPEG", picture(denoised / scale), latent_preview.MAX_PREVIEW_RESOLUTION)
        bar.update_absolute(done + step + 1, total, shown)

    return callback
