"""LATENT to frames and back, with the memory that ComfyUI gives: what our nodes do with a VAE."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io
from torch import Tensor

from ...flashvideo.method.checks import check_size
from ...flashvideo.runs.memory import Load, check_host_memory
from ...flashvideo.runs.seeds import generator_for
from ...flashvideo.tensors.sizes import LATENT_CHANNELS, SPATIAL_FACTOR, video_frames
from ...flashvideo.vae.codec import Estimate, decode_stream, encode_video, estimate_decode
from ...flashvideo.vae.limits import Limits
from ...flashvideo.video.resize import resize_video, resize_words
from ..shared.node_text import show_on_node
from ..shared.wiring import (
    FRAMES_KEY,
    RESIZE_KEY,
    image_to_video,
    joined_videos,
    require_finite_image,
    require_latents,
    require_one_video,
    true_frames,
)
from .vae import CoreAutoencoder, claimed_bytes, padded_frames, reporting, spare_memory

Finish = Callable[[Tensor, int], Tensor]  # (frames [1, 3, f, H, W], number of the first) -> the same, finished
_GB = 1e9


@dataclass(frozen=True)
class VaeLimits:
    """The widgets of a node that decodes or encodes.

    Attributes:
        tile_size: pixels, 0 chooses.
        memory_gb: GB (1e9 bytes) on the computing device beside the weights, 0 takes what is free.
    """

    tile_size: int = 0
    memory_gb: float = 0.0

    @property
    def tile(self) -> int | None:
        return max(1, self.tile_size // SPATIAL_FACTOR) if self.tile_size else None

    @property
    def budget(self) -> float | None:
        return self.memory_gb * _GB if self.memory_gb else None


def limit_inputs() -> list[io.Input]:
    """The widgets of :class:`VaeLimits`."""
    return [
        io.Int.Input(
            "tile_size",
            default=0,
            min=0,
            max=8192,
            step=16,
            tooltip="Side of a tile in pixels; 0 chooses the largest that fits. It changes memory and time, never the "
            "picture.",
            advanced=True,
            optional=True,
        ),
        io.Float.Input(
            "memory_gb",
            default=0.0,
            min=0.0,
            max=1024.0,
            step=0.1,
            tooltip="GB of GPU memory (of RAM on a CPU) to work in, beside the VAE itself; 0 takes what is free.",
            advanced=True,
            optional=True,
        ),
    ]


def require_vae(vae: Any) -> torch.nn.Module:
    """The module of a CogVideoX VAE, ours or core's.

    Raises:
        ValueError: another kind of VAE, named.
    """
    module = getattr(vae, "first_stage_model", None)
    if isinstance(module, CoreAutoencoder):
        if module.latent_channels == LATENT_CHANNELS:
            return module
        kind = f"a CogVideoX VAE of {module.latent_channels} channels instead of {LATENT_CHANNELS}"
    elif vae is None:
        kind = "None (the checkpoint holds no VAE)"
    else:
        name = type(vae if module is None else module)
        kind = f"another kind of VAE ({name.__module__.rpartition('.')[2]}.{name.__name__})"
    raise ValueError(
        f"The VAE is {kind}; FlashVideo's latents are those of CogVideoX's. Connect FlashVideo Load VAE, or core's "
        "Load VAE with a CogVideoX VAE."
    )


def describe(estimate: Estimate, device: torch.device) -> str:
    """An estimate as a line of text."""
    rows, columns = (side * SPATIAL_FACTOR for side in estimate.tile)
    on_cpu = device.type == "cpu"
    places = [(estimate.device_bytes, "to work in" if on_cpu else "on the GPU")]
    places += [(estimate.host_bytes, "waiting in RAM" if on_cpu else "in RAM"), (estimate.file_bytes, "in a file")]
    said = ", ".join(f"{size / _GB:.2f} GB {where}" for size, where in places if size)
    return f"Tiles of {columns}x{rows} pixels: {said}, beside the VAE and the video."


def _load(vae: Any, shape: Any, limits: VaeLimits, encode: bool) -> float | None:
    """Bring the VAE to its device; gives the memory budget."""
    module = vae.first_stage_model
    wanted = limits.budget or claimed_bytes(module, vae.device, shape, encode)
    force = getattr(vae, "disable_offload", False)
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=int(wanted), force_full_load=force)
    return limits.budget or spare_memory(module, vae.device, vae.patcher.get_free_memory(vae.device))


def decoded_chunks(
    vae: Any, samples: Tensor, limits: VaeLimits, part: int = 0, parts: int = 1
) -> Generator[Tensor, None, None]:
    """Frames ``[B, 3, f, H, W]`` as they are decoded; fp32 on the CPU, in 0..1. Shows the estimate on the node.

    Args:
        part, parts: for the progress bar, as in :func:`reporting`.
    """
    module = require_vae(vae)
    batch, _, frames, height, width = samples.shape
    budget = _load(vae, samples.shape, limits, encode=False)
    allowed = Limits(limits.tile, budget, device=vae.device)
    size = (video_frames(frames), height * SPATIAL_FACTOR, width * SPATIAL_FACTOR)
    show_on_node(describe(estimate_decode(module, *size, allowed, batch=batch), vae.device))
    with comfy.model_management.cuda_device_context(vae.device):
        stream = decode_stream(module, samples, allowed, progress=reporting(part, parts))
        with contextlib.closing(stream):
            yield from stream


def decode_images(
    vae: Any, latent: dict[str, Any], limits: VaeLimits, stop: int | None = None, finish: Sequence[Finish] = ()
) -> Tensor:
    """A LATENT as IMAGE ``[B * F, H, W, 3]``, filled in place once; frames after ``stop`` are not decoded.

    Args:
        finish: for each video, what is done to its frames as they come.
    """
    samples = require_latents(latent, even=False)
    batch, _, _, height, width = samples.shape
    frames = min(true_frames(latent), stop or true_frames(latent))
    device, dtype = comfy.model_management.intermediate_device(), comfy.model_management.intermediate_dtype()
    shape = (batch, frames, height * SPATIAL_FACTOR, width * SPATIAL_FACTOR, 3)
    check_host_memory(Load(batch * frames, preview=shape[2:4]))
    images = torch.empty(shape, device=device, dtype=dtype)
    for k in range(batch):  # one after another: caches and activations of one video at a time
        start = 0
        with contextlib.closing(decoded_chunks(vae, samples[k : k + 1], limits, k, batch)) as stream:
            for chunk in stream:
                count = min(chunk.shape[2], frames - start)
                chunk = finish[k](chunk[:, :, :count], start) if finish else chunk
                images[k, start : start + count] = chunk[0, :, :count].movedim(0, -1)
                start += count
                if start == frames:
                    break
    return joined_videos(images)


def encode_clip(vae: Any, video: Tensor, limits: VaeLimits, noise_seed: int | None) -> Tensor:
    """``[B, 3, 4n + 1, H, W]`` in 0..1 as latents ``[B, 16, T, h, w]`` on ComfyUI's intermediate device.

    Args:
        noise_seed: of the posterior's draw, which differs from what the same seed draws elsewhere; None takes its mean.
    """
    module = require_vae(vae)
    budget = _load(vae, video.shape, limits, encode=True)
    generator = None if noise_seed is None else generator_for(noise_seed, "posterior")
    with comfy.model_management.cuda_device_context(vae.device):
        latents = encode_video(
            module,
            video,
            sample=generator is not None,
            generator=generator,
            tile=limits.tile,
            memory_budget=budget,
            progress=reporting(),
            device=vae.device,
        )
    return latents.to(comfy.model_management.intermediate_device())


def resize_remarks(image: Tensor, size: tuple[int, int], resize: str) -> list[str]:
    """What becomes of an IMAGE that is brought to (height, width)."""
    remarks = [resize_words(image.shape[1], image.shape[2], *size, resize)]
    return remarks + (["Its transparency is left out."] if image.shape[-1] > 3 else [])


def upscaled_latent(
    vae: Any, image: Tensor, size: tuple[int, int], resize: str, limits: VaeLimits, noise_seed: int | None
) -> dict[str, Any]:
    """A video at (height, width), padded to 4n + 1 frames, as a LATENT.

    Raises:
        ValueError: what cannot be encoded, or what does not fit into memory.
    """
    require_vae(vae)
    require_one_video(image)
    require_finite_image(image)
    check_size(*size)
    video = image_to_video(image)
    frames = video.shape[2]
    check_host_memory(Load(padded_frames(frames), refined=size, encodes=True))
    large = torch.empty(1, 3, padded_frames(frames), *size)
    for index in range(large.shape[2]):
        comfy.model_management.throw_exception_if_processing_interrupted()
        frame = min(index, frames - 1)  # the last one again, as padding
        large[:, :, index] = resize_video(video[:, :, frame : frame + 1], *size, mode=resize)[:, :, 0]
    return {"samples": encode_clip(vae, large, limits, noise_seed), FRAMES_KEY: frames, RESIZE_KEY: resize}
