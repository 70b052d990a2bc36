"""The VAE as ComfyUI holds it: a ``comfy.sd.VAE`` whose every way to encode or decode is the library's exact one."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import torch
from comfy.ldm.cogvideo.vae import AutoencoderKLCogVideoX as CoreAutoencoder
from torch import Tensor

from ...flashvideo.checkpoints.files import open_weights
from ...flashvideo.checkpoints.metadata import NOTE, CheckpointMetadata, metadata_tensor
from ...flashvideo.checkpoints.parts import model_part
from ...flashvideo.loading.load import check_whole_vae, vae_names, vae_overrides
from ...flashvideo.tensors.checks import check_latents
from ...flashvideo.tensors.sizes import SPATIAL_FACTOR, TEMPORAL_FACTOR, latent_frames, video_frames
from ...flashvideo.vae.codec import decode_stream, encode_video, estimate_decode, estimate_encode
from ...flashvideo.vae.limits import Limits
from ..shared.wiring import joined_videos, require_one_video

log = logging.getLogger(__name__)

COMPUTE_DTYPES = [torch.bfloat16, torch.float16, torch.float32]
_SHARE = 0.6  # of the device's memory that a decode may claim; above it, tiles are used
_MARGIN = 512 << 20


def padded_frames(frames: int) -> int:
    """The next number of frames that is 4n + 1."""
    return frames + (1 - frames) % TEMPORAL_FACTOR


def repeat_last(video: Tensor, frames: int) -> Tensor:
    """``[B, 3, F, H, W]`` with its last frame repeated up to ``frames``."""
    missing = frames - video.shape[2]
    return torch.cat((video, video[:, :, -1:].expand(-1, -1, missing, -1, -1)), dim=2) if missing > 0 else video


def reporting(part: int = 0, parts: int = 1) -> Callable[[int, int], None]:
    """A progress function for the library: ComfyUI's bar, and interruption between tiles.

    Args:
        part, parts: this run is one of several that fill the bar together.
    """
    bar = comfy.utils.ProgressBar(1)

    def report(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(part * total + done, parts * total)

    return report


def spare_memory(module: torch.nn.Module, device: torch.device, free: int | None = None) -> float | None:
    """Bytes that a run may take on the device beside the weights; None leaves it to the library (CPU)."""
    if device.type == "cpu":
        return None
    if free is None:
        free = comfy.model_management.get_free_memory(device)
    elsewhere = sum(p.numel() * p.element_size() for p in module.parameters() if p.device != device)
    return max(_MARGIN, free - elsewhere - _MARGIN - comfy.model_management.extra_reserved_memory())


def claimed_bytes(module: torch.nn.Module, device: torch.device, shape: Any, encode: bool) -> int:
    """Device bytes worth making room for: those of an untiled run, but not more than a share of the device.

    Args:
        shape: of the latents, or of the video if ``encode``.
    """
    if device.type == "cpu":
        return 0
    batch, _, frames, height, width = shape
    estimate = estimate_encode if encode else estimate_decode
    if not encode:
        frames, height, width = video_frames(frames), height * SPATIAL_FACTOR, width * SPATIAL_FACTOR
    untiled = Limits(tile=False, memory_budget=2**60, device=device)
    whole = estimate(module, padded_frames(frames), height, width, untiled, batch=batch)
    return int(min(whole.device_bytes, _SHARE * comfy.model_management.get_total_memory(device)))


class HostedAutoencoder(CoreAutoencoder):
    """Core's module tree, computed by the library: its chunks, its causal caches, its invisible tiles.

    Videos come in and go out in 0..1. ``comfy_has_chunked_io`` makes core hand over its output to be filled in place.
    """

    comfy_has_chunked_io = True

    def decode_output_shape(self, shape: Any) -> tuple[int, ...]:
        return (shape[0], 3, video_frames(shape[2]), *(side * SPATIAL_FACTOR for side in shape[3:]))

    def decode(self, samples: Tensor, output_buffer: Tensor | None = None, tile: Any = None, **_: Any) -> Tensor:
        """``[B, 16, T, h, w]`` on the computing device -> ``[B, 3, 4 (T - 1) + 1, 8 h, 8 w]``."""
        device, batch = samples.device, len(samples)
        limits = Limits(tile, spare_memory(self, device), device=device)
        video = output_buffer
        if video is None:
            video = torch.empty(self.decode_output_shape(samples.shape))
        for k in range(batch):  # one after another: caches and activations of one video at a time
            start = 0
            stream = decode_stream(self, samples[k : k + 1], limits, progress=reporting(k, batch))
            with contextlib.closing(stream):
                for chunk in stream:
                    video[k, :, start : start + chunk.shape[2]] = chunk[0]
                    start += chunk.shape[2]
        return video

    def encode(self, pixels: Tensor, device: torch.device | None = None, tile: Any = None) -> Tensor:
        """``[B, 3, F, H, W]`` -> the posterior's mean, ``[B, 16, T, h, w]``. F is padded to 4n + 1."""
        device = pixels.device if device is None else device
        frames = padded_frames(pixels.shape[2])
        if frames != pixels.shape[2]:
            log.warning("The video has %d frames; its last is repeated up to %d (4n + 1).", pixels.shape[2], frames)
        return encode_video(
            self,
            repeat_last(pixels, frames),
            sample=False,
            tile=tile,
            memory_budget=spare_memory(self, device),
            progress=reporting(),
            device=device,
        )

    def decode_tiled(self, samples: Tensor, tile_x: int | None = None, tile_y: int | None = None, **_: Any) -> Tensor:
        """Core's tiled nodes: the tile counts, overlaps have no meaning for exact tiles."""
        return self.decode(samples, tile=(max(1, tile_y), max(1, tile_x)) if tile_x and tile_y else None)

    def encode_tiled(self, pixels: Tensor, tile_x: int | None = None, tile_y: int | None = None, **_: Any) -> Tensor:
        tile = (max(1, tile_y // SPATIAL_FACTOR), max(1, tile_x // SPATIAL_FACTOR)) if tile_x and tile_y else None
        return self.encode(pixels, tile=tile)


class HostedVAE(comfy.sd.VAE):
    """ComfyUI's VAE. Its decode nodes put the videos of a batch one behind the other; here that is remembered, so that
    nobody encodes them as one clip."""

    def decode(self, *args: Any, **kwargs: Any) -> Tensor:
        return _batch_joined(super().decode(*args, **kwargs))

    def decode_tiled(self, *args: Any, **kwargs: Any) -> Tensor:
        return _batch_joined(super().decode_tiled(*args, **kwargs))

    def get_sd(self) -> dict[str, Tensor]:
        """What core's save nodes write, and what shapes do not tell."""
        module: Any = self.first_stage_model
        norm = module.decoder.norm_out.norm_layer
        config = {"norm_num_groups": norm.num_groups, "norm_eps": norm.eps}
        state: dict[str, Tensor] = super().get_sd()
        return {**state, NOTE: metadata_tensor(CheckpointMetadata(kind="vae", config=config))}

    def encode(self, pixel_samples: Tensor) -> Tensor:
        require_one_video(pixel_samples)
        return super().encode(pixel_samples)

    def encode_tiled(self, pixel_samples: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        require_one_video(pixel_samples)
        return super().encode_tiled(pixel_samples, *args, **kwargs)


def _batch_joined(images: Tensor) -> Tensor:
    """What core's nodes make of several videos anyhow; one video keeps its five dimensions."""
    return joined_videos(images) if images.ndim == 5 and len(images) > 1 else images


def _read_module(path: str, dtype: torch.dtype) -> HostedAutoencoder:
    """The module with the weights of a file.

    Raises:
        ValueError: no CogVideoX VAE, or not a whole one.
    """
    weights = model_part(open_weights(path), "vae").weights
    config, names = vae_names(weights)
    config.update(vae_overrides(weights))
    with torch.device("meta"):
        module = HostedAutoencoder(
            in_channels=config["in_channels"],
            out_channels=config["out_channels"],
            block_out_channels=config["block_out_channels"],
            latent_channels=config["latent_channels"],
            layers_per_block=config["layers_per_block"],
            groups=config["norm_num_groups"],
            eps=config.get("norm_eps", 1e-6),
        )
    check_whole_vae(module, weights, names)
    state = {name: weights.tensors[key].load(dtype) for name, key in names.items()}
    module.load_state_dict(state, assign=True)
    return module.eval()


class _ExpectedWarning(logging.Filter):
    """Core warns that an empty VAE has no weights; ours get theirs a moment later."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "No VAE weights detected" not in record.getMessage()


@contextlib.contextmanager
def _without_warning() -> Iterator[None]:
    expected, root = _ExpectedWarning(), logging.getLogger()
    root.addFilter(expected)
    try:
        yield
    finally:
        root.removeFilter(expected)


def load_vae_object(path: str) -> comfy.sd.VAE:
    """A file of any supported layout as ComfyUI's VAE.

    Raises:
        ValueError: no CogVideoX VAE, or not a whole one.
    """
    management = comfy.model_management
    device = management.vae_device()
    module = _read_module(path, management.vae_dtype(device, COMPUTE_DTYPES))
    with _without_warning():
        vae: Any = HostedVAE(sd={})
    vae.first_stage_model, vae.device, vae.output_device = module, device, management.intermediate_device()
    # What core hands over and takes back: fp32 in 0..1. The library casts to the weights' precision itself.
    vae.vae_dtype, vae.working_dtypes = torch.float32, COMPUTE_DTYPES
    vae.process_input = vae.process_output = _unchanged
    vae.latent_dim, vae.latent_channels, vae.handles_tiling = 3, module.latent_channels, True
    vae.upscale_ratio, vae.upscale_index_formula = (_video_frames, 8, 8), (4, 8, 8)
    vae.downscale_ratio, vae.downscale_index_formula = (_latent_frames, 8, 8), (4, 8, 8)
    vae.memory_used_decode = lambda shape, dtype: _decode_claim(module, device, shape)
    vae.memory_used_encode = lambda shape, dtype: max(1, claimed_bytes(module, device, shape, encode=True))
    management.archive_model_dtypes(module)
    patchers = comfy.model_patcher  # looked up here: ComfyUI rebinds the class at start where it streams weights
    offload = management.vae_offload_device()
    vae.patcher = patchers.CoreModelPatcher(module, load_device=device, offload_device=offload)
    vae.patcher.cached_patcher_init = (_reload_patcher, (path,))
    vae.model_size()
    return vae


def _reload_patcher(path: str, disable_dynamic: bool = False) -> Any:
    """A second patcher with weights of its own, for another device."""
    return load_vae_object(path).patcher


def _unchanged(values: Tensor) -> Tensor:
    return values


def _video_frames(num_latent_frames: int) -> int:
    """Frames of so many latent frames, also where ComfyUI asks for none."""
    return video_frames(num_latent_frames) if num_latent_frames > 0 else 0


def _latent_frames(num_frames: int) -> int:
    """Latent frames of so many frames, padded where they are not 4n + 1."""
    return latent_frames(padded_frames(max(1, num_frames)))


def _decode_claim(module: torch.nn.Module, device: torch.device, shape: Any) -> int:
    """Core asks this before it decodes: the place to refuse what is no video latent."""
    check_latents("The latent", torch.empty(shape, device="meta"), even=False)
    return max(1, claimed_bytes(module, device, shape, encode=False))
