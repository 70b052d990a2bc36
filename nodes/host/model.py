"""Both stages as native ComfyUI models, and how their files become a MODEL."""

from __future__ import annotations

import logging
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...flashvideo.checkpoints.metadata import NOTE, CheckpointMetadata, metadata_tensor
from ...flashvideo.loading.load import open_stage
from ...flashvideo.loading.source import NETWORK_KEYWORDS, TransformerSource
from ...flashvideo.method.degradation import STAGE1_LATENT_SCALE, STAGE2_LATENT_SCALE
from ...flashvideo.method.student import Student
from ...flashvideo.models.estimate import evaluation_bytes
from ...flashvideo.models.windows import AttentionWindows
from ...flashvideo.tensors.sizes import LATENT_CHANNELS, SPATIAL_FACTOR, TEMPORAL_FACTOR
from ..shared.wiring import STAGES, require_embeds
from .misfits import refuse_misfits, require_own_sampling
from .network import ATTENTION_WINDOWS, HostedNetwork
from .sampling import Stage1Sampling, Stage2Sampling
from .streaming import streamed_state

log = logging.getLogger(__name__)

_SCALES = {"stage1": STAGE1_LATENT_SCALE, "stage2": STAGE2_LATENT_SCALE}
WEIGHT_DTYPES = {
    "default": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e4m3fn_fast": torch.float8_e4m3fn,
}
# For attention that is not fused, ComfyUI's estimate is latents x 0.15 MiB x width x this.
_MEMORY_FACTOR_PER_WIDTH = 9.5 / (4 * 0.01 * 1024 * 1024)


class FlashVideoLatents(comfy.latent_formats.LatentFormat):
    """16 channels, 8x in space, 4x in time; model space = VAE space times the stage's scale."""

    latent_channels = LATENT_CHANNELS
    latent_dimensions = 3
    spacial_downscale_ratio = SPATIAL_FACTOR
    temporal_downscale_ratio = TEMPORAL_FACTOR

    def __init__(self, scale_factor: float = 1.0) -> None:
        self.scale_factor = scale_factor


class _Architecture(dict[str, Any]):
    """The network's configuration; nodes that patch other networks ask it for what only those have."""

    def __missing__(self, name: str) -> Any:
        raise ValueError(f"FlashVideo's transformer has no {name}: the node is for another network. Take it out.")


class FlashVideoConfig(comfy.supported_models_base.BASE):
    """What ComfyUI wants to know of a model before it builds it."""

    unet_extra_config: dict[str, Any] = {}  # noqa: RUF012 (ComfyUI's attribute)
    sampling_settings = {"shift": 1.0, "multiplier": 1000}  # noqa: RUF012
    latent_format: Any = FlashVideoLatents  # the class; of an object, its format
    quant_config: Any = None
    supported_inference_dtypes = [torch.bfloat16, torch.float16, torch.float32]  # noqa: RUF012

    def __init__(
        self, stage: str, network: dict[str, Any], latent_scale: float | None, student: Student | None = None
    ) -> None:
        super().__init__({})
        self.unet_config = _Architecture(network, image_model=f"flashvideo_{stage}")  # ComfyUI's copy would be plain
        self.stage, self.student = stage, student
        self.latent_format = FlashVideoLatents(latent_scale or _SCALES[stage])
        width = network["num_attention_heads"] * network["attention_head_dim"]
        self.memory_usage_factor = width * _MEMORY_FACTOR_PER_WIDTH

    def get_model(self, state_dict: dict[str, Tensor], prefix: str = "", device: Any = None) -> FlashVideoModel:
        return {"stage1": Stage1Model, "stage2": Stage2Model}[self.stage](self, device)


class FlashVideoModel(comfy.model_base.BaseModel):
    """What both stages share. ``flashvideo_stage`` tells nodes which one a MODEL is."""

    flashvideo_stage = ""
    attention_windows: AttentionWindows | None = None  # of the sampling that runs
    sampling_class: type[torch.nn.Module]
    model_sampling: Any  # of that class, until a node replaces it
    model_kind: comfy.model_base.ModelType

    def __init__(self, config: FlashVideoConfig, device: torch.device | None = None) -> None:
        super().__init__(config, self.model_kind, device=device, unet_model=HostedNetwork)
        self.model_sampling = self.sampling_class(config)

    def memory_required(self, input_shape: Any, cond_shapes: Any = None) -> float:
        """Bytes that one evaluation takes beside the weights, for latents ``[B, 16, T, h, w]``."""
        management = comfy.model_management
        if management.xformers_enabled() or management.pytorch_attention_flash_attention():
            itemsize = management.dtype_size(self.get_dtype_inference())
            return evaluation_bytes(self.model_config.unet_config, input_shape, itemsize, self.attention_windows)
        return super().memory_required(input_shape, cond_shapes or {})

    def state_dict_for_saving(self, unet_state_dict: dict[str, Tensor], *others: Any, **more: Any) -> dict[str, Tensor]:
        """What core's save nodes write, and what a file has to say beside its weights."""
        state: dict[str, Tensor] = super().state_dict_for_saving(unet_state_dict, *others, **more)
        config = {name: value for name, value in self.model_config.unet_config.items() if name in NETWORK_KEYWORDS}
        scale = self.model_config.latent_format.scale_factor
        student = self.model_config.student
        metadata = CheckpointMetadata(
            kind=self.flashvideo_stage,
            latent_scale=scale,
            config=config,
            student=None if student is None else student.to_table(),
        )
        return {**state, f"model.diffusion_model.{NOTE}": metadata_tensor(metadata)}

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        require_own_sampling(self.flashvideo_stage, self.model_sampling)
        embeds = kwargs.get("cross_attn")
        if embeds is not None:
            require_embeds(embeds, self.diffusion_model, f"{STAGES[self.flashvideo_stage]}'s conditioning")
        return super().extra_conds(**kwargs)


class Stage1Model(FlashVideoModel):
    """Stage I: v-prediction."""

    flashvideo_stage = "stage1"
    sampling_class = Stage1Sampling
    model_kind = comfy.model_base.ModelType.V_PREDICTION


class Stage2Model(FlashVideoModel):
    """Stage II: flow matching from degraded latents."""

    flashvideo_stage = "stage2"
    sampling_class = Stage2Sampling
    model_kind = comfy.model_base.ModelType.FLOW

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        conds = super().extra_conds(**kwargs)
        return {**conds, "noise_step": comfy.conds.CONDConstant(self.model_sampling.network_noise_step)}

    def scale_latent_inpaint(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, **_: Any) -> Tensor:
        """What lies outside a mask, on its way from degraded to given latents."""
        if not torch.count_nonzero(noise):
            raise ValueError(
                "A noise mask needs the undegraded latent: connect it and RandomNoise instead of a degraded latent "
                "without noise, or remove the mask."
            )
        sigma = sigma.reshape([sigma.shape[0]] + [1] * (noise.ndim - 1))
        return sigma * self.model_sampling.degrade(latent_image, noise) + (1 - sigma) * latent_image


def estimate_with_windows(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Around sampling: ComfyUI asks the model what an evaluation takes, without the options that windows are in."""
    guider = executor.class_obj
    model = guider.model_patcher.model
    model.attention_windows = guider.model_options["transformer_options"].get(ATTENTION_WINDOWS)
    try:
        return executor(*args, **kwargs)
    finally:
        model.attention_windows = None


def _read_weights(
    source: TransformerSource, weight_dtype: str
) -> tuple[dict[str, Tensor], dict[str, Any] | None, torch.dtype]:
    """(parameters by native name, quantisation for ComfyUI, the file's dtype)."""
    tensors = source.whole_tensors()
    scaled = any(info.quantized is not None for info in source.weights.tensors.values())
    if tensors is None:
        name = source.weights.path.name
        log.info("%s is put together in memory; `flashvideo convert` makes a file that ComfyUI can stream.", name)
    elif not scaled or weight_dtype in ("default", "fp8_e4m3fn", "fp8_e4m3fn_fast"):
        streamed = streamed_state(source.weights, tensors)
        if streamed is not None:
            return (*streamed, source.weights.main_dtype())
    dtype = source.weights.compute_dtype()
    return {name: source.read(name, dtype) for name in source.parts}, None, dtype


def load_stage(path: str, stage: str, weight_dtype: str = "default", disable_dynamic: bool = False) -> Any:
    """A transformer file as a ComfyUI model patcher.

    Args:
        path: any layout that the library reads.
        stage: ``stage1`` or ``stage2``.
        weight_dtype: a key of ``WEIGHT_DTYPES``.
        disable_dynamic: ComfyUI asks for it when a clone must not stream (torch.compile).

    Raises:
        ValueError: another stage, missing or unexpected keys, a damaged file.
    """
    management = comfy.model_management
    source = open_stage(path, stage)
    state, quantized, stored = _read_weights(source, weight_dtype)
    config = FlashVideoConfig(stage, source.config, source.latent_scale, source.student)
    config.quant_config = quantized
    config.optimizations["fp8"] = weight_dtype.endswith("_fast")
    device, offload = management.get_torch_device(), management.unet_offload_device()
    supported = config.supported_inference_dtypes
    chosen = None if quantized else WEIGHT_DTYPES[weight_dtype]
    dtype = chosen or management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(state),
        supported_dtypes=supported,
        weight_dtype=None if quantized else stored,
    )
    cast = management.unet_manual_cast(None if quantized else dtype, device, supported)
    config.set_inference_dtype(dtype, cast, device=device)
    model = config.get_model(state)
    # looked up here: ComfyUI rebinds the name at start where it streams weights
    patchers = comfy.model_patcher
    patcher = (patchers.ModelPatcher if disable_dynamic else patchers.CoreModelPatcher)(
        model, load_device=device, offload_device=offload
    )
    if not management.is_device_cpu(offload):
        model.to(offload)
    model.load_model_weights(state, "", assign=patcher.is_dynamic())
    patcher.cached_patcher_init = (load_stage, (path, stage, weight_dtype))
    patcher.add_wrapper(WrappersMP.OUTER_SAMPLE, refuse_misfits)
    patcher.add_wrapper(WrappersMP.OUTER_SAMPLE, estimate_with_windows)
    return patcher
