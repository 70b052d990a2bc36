"""ComfyUI's own models as paths of a certificate: its layers, its attention, what it does with weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_management
import torch
from torch import Tensor

from ...flashvideo.checkpoints.files import DTYPE_NAMES
from ...flashvideo.runs.verifying import Verdict, codec_verdicts, evaluation_verdict
from .network import ATTENTION_WINDOWS

_FOLLOWED = (ATTENTION_WINDOWS, "optimized_attention_override")  # of what nodes set: which attention is used


def model_verdict(model: Any) -> Verdict:
    """An evaluation of a FlashVideo MODEL against its file's.

    Raises:
        ValueError: a MODEL that is not only what its file holds.
    """
    stage = model.model.flashvideo_stage
    if model.patches:
        raise ValueError(
            "The model has LoRAs or other patches of its weights, which its file has not. Connect the loader's MODEL."
        )
    file = _file_of(model, "model")
    dtype = model.model.get_dtype_inference()
    attention = comfy.ldm.modules.attention.optimized_attention.__name__
    return evaluation_verdict(
        stage,
        file,
        f"ComfyUI, {DTYPE_NAMES[dtype]} on {model.load_device}, {attention}",
        partial(_evaluated, model, dtype),
        dtype=dtype,
        weight_dtype=model.model.get_dtype(),
        windows=_options(model).get(ATTENTION_WINDOWS),
    )


def vae_verdicts(vae: Any) -> Iterator[Verdict]:
    """Encode and decode of a VAE against its file's."""
    dtype = next(vae.first_stage_model.parameters()).dtype
    name = f"ComfyUI, {DTYPE_NAMES[dtype]} on {vae.device}"
    file = _file_of(vae.patcher, "vae")
    yield from codec_verdicts(
        file, name, partial(_encoded, vae), partial(_decoded, vae), dtype=dtype, device=vae.device
    )


def _file_of(patcher: Any, socket: str) -> str:
    made = getattr(patcher, "cached_patcher_init", None)
    if not made or not Path(str(made[1][0])).is_file():
        raise ValueError(f"The {socket} does not say which file it is from. Connect FlashVideo's loader.")
    return str(made[1][0])


def _options(model: Any) -> dict[str, Any]:
    options = model.model_options["transformer_options"]
    return {name: options[name] for name in _FOLLOWED if name in options}


def _evaluated(model: Any, dtype: torch.dtype, inputs: Any) -> Tensor:
    work = model.model.memory_required(inputs.latents.shape)
    comfy.model_management.load_models_gpu([model], memory_required=work)
    device = model.load_device
    out = model.model.diffusion_model(
        inputs.latents.to(device, dtype),
        inputs.timestep.to(device),
        inputs.embeds.to(device, dtype),
        transformer_options=_options(model),
        noise_step=inputs.noise_step,
    )
    return out.float().cpu()


def _encoded(vae: Any, video: Tensor) -> Tensor:
    latents: Tensor = vae.encode(video[0].movedim(0, -1))
    return latents.float().cpu()


def _decoded(vae: Any, latents: Tensor) -> Tensor:
    images: Tensor = vae.decode(latents)
    return images.float().cpu().movedim(-1, 1)
