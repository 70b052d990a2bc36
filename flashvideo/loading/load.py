"""Loading models for use: one tensor at a time into its own memory."""

from __future__ import annotations

import logging
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..checkpoints.files import WeightFile, name_list, open_weights
from ..checkpoints.metadata import STAGES, read_metadata
from ..checkpoints.parts import model_part
from ..checkpoints.vae_layout import (
    BALLAST_PREFIXES,
    NORM_GROUPS,
    infer_vae_config,
    is_published_vae,
    published_vae_key_map,
)
from .lora import LoraPairs, check_lora_fits, read_lora
from .source import TransformerSource, open_transformer, stored_student

if TYPE_CHECKING:
    from diffusers import AutoencoderKLCogVideoX

    from ..models.transformer import FlashVideoTransformer3DModel

log = logging.getLogger(__name__)


def check_compute_dtype(dtype: torch.dtype | None) -> None:
    if dtype is not None and (not dtype.is_floating_point or dtype.itemsize == 1):
        raise ValueError(
            f"dtype {dtype} cannot be computed in; expected torch.bfloat16, float16 or float32. "
            "fp8 is a storage format: `flashvideo convert --dtype fp8_e4m3` writes it, and loading it gives bfloat16."
        )


def open_stage(path: str | Path, kind: str) -> TransformerSource:
    """Open a transformer and check that it is whole and of this stage (``stage1`` or ``stage2``)."""
    source = open_transformer(path)
    if source.kind != kind:
        raise ValueError(
            f"{path} is a {STAGES[source.kind]} transformer "
            f"({'with' if source.kind == 'stage2' else 'without'} the noise-step embedding); "
            f"{STAGES[kind]} was expected. Give the other stage's file."
        )
    source.check()
    return source


def _load_transformer(
    path: str | Path,
    kind: str,
    dtype: torch.dtype | None,
    device: torch.device | str,
    lora: str | Path | LoraPairs | None,
    lora_scale: float,
) -> FlashVideoTransformer3DModel:
    from ..models.transformer import FlashVideoTransformer3DModel

    check_compute_dtype(dtype)
    source = open_stage(path, kind)
    pairs = fitting_lora(lora, lora_scale, source)
    of_lora = stored_student(open_weights(lora)) if isinstance(lora, (str, Path)) and lora_scale else None
    student = of_lora or source.student
    model = FlashVideoTransformer3DModel(
        **source.config,
        latent_scale=source.latent_scale,
        student=None if student is None else student.to_table(),
        device="meta",
    )
    dtype = dtype or source.weights.compute_dtype()
    fill_parameters(model, {name: lambda n=name: source.read(n, dtype, pairs) for name in source.parts}, device)
    return model.eval()


def fitting_lora(lora: str | Path | LoraPairs | None, scale: float, source: TransformerSource) -> LoraPairs | None:
    """A LoRA times ``scale``, checked against a transformer's shapes."""
    if lora is None:
        return None
    if not math.isfinite(scale):
        raise ValueError(f"lora_scale is {scale}; expected a finite number: 1 is as trained, 0 without effect.")
    pairs = read_lora(lora) if isinstance(lora, (str, Path)) else lora
    check_lora_fits("The LoRA", pairs, {name: source.shape(name) for name in source.parts}, str(source.weights.path))
    return {module: (down, up * scale) for module, (down, up) in pairs.items()}


def fill_parameters(model: nn.Module, readers: dict[str, Any], device: torch.device | str) -> None:
    """Give a model on the meta device its parameters, one after the other: at most one is held twice."""
    modules = dict(model.named_modules())
    for name, parameter in list(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        value: Tensor = readers[name]()
        if value.shape != parameter.shape:
            raise ValueError(f"{name} has shape {list(value.shape)}; expected {list(parameter.shape)}.")
        setattr(modules[owner], leaf, nn.Parameter(value.to(device)))


def load_stage1(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    lora: str | Path | LoraPairs | None = None,
    lora_scale: float = 1.0,
) -> FlashVideoTransformer3DModel:
    """Load Stage I's transformer, LoRA merged.

    Args:
        path: the published ``stage1.pt``, a converted ``.safetensors``, or a CogVideoX-5B transformer in diffusers'
            layout (file or folder). The architecture is read from the weights.
        dtype: to compute in; default: the file's (bfloat16 for fp8 files).
        lora: a LoRA file of any naming, or its pairs, to merge on top; its own scale is part of it.
        lora_scale: what it is multiplied by besides: 1 is as trained.

    Raises:
        ValueError: a file that is damaged, unsafe, incomplete, of Stage II or no transformer at all.
    """
    return _load_transformer(path, "stage1", dtype, device, lora, lora_scale)


def load_stage2(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    lora: str | Path | LoraPairs | None = None,
    lora_scale: float = 1.0,
) -> FlashVideoTransformer3DModel:
    """Load Stage II's transformer: the published ``stage2.pt`` or a converted file; see :func:`load_stage1`."""
    return _load_transformer(path, "stage2", dtype, device, lora, lora_scale)


def vae_names(weights: WeightFile) -> tuple[dict[str, Any], dict[str, str]]:
    """Constructor keywords of ``AutoencoderKLCogVideoX`` and its parameter names -> the file's names.

    Raises:
        ValueError: no CogVideoX VAE, or names that are missing or unexpected.
    """
    try:
        config = infer_vae_config(weights.shapes, vae_overrides(weights).get("norm_num_groups", NORM_GROUPS))
    except ValueError as error:
        raise ValueError(f"{weights.path}: {error}") from error
    names = list(weights.tensors)
    ballast = [name for name in names if name.startswith(BALLAST_PREFIXES)]
    if is_published_vae(names):
        mapping = published_vae_key_map(names)
    else:
        mapping = {name: name for name in names if name not in ballast}
    unexpected = set(names) - set(mapping.values()) - set(ballast)
    if unexpected:
        raise ValueError(
            f"{weights.path} has unexpected keys: {name_list(unexpected)}. Use an unchanged VAE checkpoint."
        )
    if ballast:
        log.info("%s: skipped %d entries that the model does not use", weights.path.name, len(ballast))
    return config, mapping


def load_vae(
    path: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> AutoencoderKLCogVideoX:
    """Load the 3D VAE: the published ``3d-vae.pt`` or diffusers' layout (file or folder), of any width.

    Raises:
        ValueError: a file that is damaged, unsafe, incomplete or no CogVideoX VAE.
    """
    check_compute_dtype(dtype)
    weights, vae, mapping = open_vae(path)
    dtype = dtype or weights.compute_dtype()
    fill_parameters(vae, {n: partial(weights.tensors[key].load, dtype) for n, key in mapping.items()}, device)
    return vae.eval()


def open_vae(path: str | Path) -> tuple[WeightFile, AutoencoderKLCogVideoX, dict[str, str]]:
    """Open a VAE and check that it is whole: (file, model on the meta device, parameter names -> the file's names)."""
    weights = model_part(open_weights(path, "vae"), "vae").weights
    return weights, *whole_vae(weights)


def whole_vae(weights: WeightFile) -> tuple[AutoencoderKLCogVideoX, dict[str, str]]:
    """The model on the meta device of a VAE's tensors, checked, and its parameter names -> theirs."""
    config, mapping = vae_names(weights)
    config.update(vae_overrides(weights))
    vae = meta_vae(config)
    check_whole_vae(vae, weights, mapping)
    return vae, mapping


def check_whole_vae(vae: nn.Module, weights: WeightFile, mapping: dict[str, str]) -> None:
    """Raise ValueError unless a file has every parameter of ``vae`` in its shape, and no other.

    Args:
        mapping: parameter names -> the file's names, of :func:`vae_names`.
    """
    expected = {name: tuple(p.shape) for name, p in vae.named_parameters()}
    missing, surplus = set(expected) - set(mapping), set(mapping) - set(expected)
    common = set(expected) & set(mapping)
    wrong = [n for n in common if weights.tensors[mapping[n]].shape != expected[n]]
    wrong += [f"{n} ({info.dtype})" for n in common if not (info := weights.tensors[mapping[n]]).numeric]
    if missing or surplus or wrong:
        raise ValueError(
            f"{weights.path} does not hold a whole VAE: missing {name_list(missing)}; unexpected {name_list(surplus)}; "
            f"wrong shape or type {name_list(wrong)}. Use an unchanged VAE checkpoint."
        )


def meta_vae(config: dict[str, Any]) -> AutoencoderKLCogVideoX:
    """The VAE on the meta device, without memory."""
    from diffusers import AutoencoderKLCogVideoX

    with torch.device("meta"):
        return AutoencoderKLCogVideoX(**config)


def vae_overrides(weights: WeightFile) -> dict[str, Any]:
    """What a VAE's own configuration tells that shapes do not."""
    stored = {**read_metadata(weights).config, **weights.config}
    return {key: stored[key] for key in ("norm_num_groups", "norm_eps", "scaling_factor") if key in stored}
