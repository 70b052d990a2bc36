"""Upscale and Encode: from a small video to Stage II's latents."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..flashvideo.checks import check_size
from ..flashvideo.resize import RESIZE_MODES, resize_video
from .host_vae import padded_frames, repeat_last
from .stage1 import CUSTOM, PRESETS, chosen_size
from .vae_work import FRAMES_KEY, VaeLimits, encode_clip, limit_inputs, require_vae

TARGET = "1080p (1920x1072)"
POSTERIORS = ["sample", "mean"]
_MAX_PIXELS = 16384


def size_inputs() -> list[io.Input]:
    """The widgets of the target size."""
    return [
        io.Combo.Input(
            "size",
            options=[*PRESETS, CUSTOM],
            default=TARGET,
            tooltip="Size of the refined video; Stage II was trained on 1080p. custom takes width and height below.",
        ),
        io.Int.Input(
            "width",
            default=1920,
            min=16,
            max=_MAX_PIXELS,
            step=16,
            tooltip="With size custom: pixels, a multiple of 16.",
        ),
        io.Int.Input(
            "height",
            default=1072,
            min=16,
            max=_MAX_PIXELS,
            step=16,
            tooltip="With size custom: pixels, a multiple of 16.",
        ),
        io.Combo.Input(
            "resize",
            options=list(RESIZE_MODES),
            default="stretch",
            tooltip="stretch: what Stage II was trained on. crop and pad keep the aspect ratio.",
        ),
    ]


def check_target(size: Any, width: Any, height: Any) -> bool | str:
    """A validate_inputs answer; linked values are None."""
    if size is not None and size not in (*PRESETS, CUSTOM):
        return f"size {size!r}: expected one of {', '.join([*PRESETS, CUSTOM])}."
    if size != CUSTOM or width is None or height is None:
        return True
    try:
        check_size(height, width)
    except ValueError as error:
        return str(error)
    return True if max(height, width) <= _MAX_PIXELS else f"{width}x{height}: at most {_MAX_PIXELS} pixels a side."


def image_to_video(image: Tensor) -> Tensor:
    """IMAGE ``[F, H, W, C]`` as ``[1, 3, F, H, W]``; alpha is dropped.

    Raises:
        ValueError: another shape.
    """
    if image.ndim != 4 or image.shape[-1] < 3 or min(image.shape) < 1:
        raise ValueError(f"The image has shape {list(image.shape)}; expected [frames, height, width, 3].")
    return image[..., :3].movedim(-1, 0)[None].float()


def upscaled_latent(
    vae: Any, image: Tensor, size: tuple[int, int], resize: str, limits: VaeLimits, noise_seed: int | None
) -> dict[str, Any]:
    """A video at (height, width), padded to 4n + 1 frames, as a LATENT."""
    require_vae(vae)
    check_size(*size)
    video = image_to_video(image)
    frames = video.shape[2]
    large = repeat_last(resize_video(video, *size, mode=resize), padded_frames(frames))
    return {"samples": encode_clip(vae, large, limits, noise_seed), FRAMES_KEY: frames}


class UpscaleEncode(io.ComfyNode):
    """IMAGE to target-size LATENT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoUpscaleEncode",
            display_name="FlashVideo Upscale and Encode",
            category="FlashVideo",
            description="Brings a small video to the target size and encodes it for Stage II. Its last frame is "
            "repeated up to 4n + 1 frames; FlashVideo's decoding nodes leave those out again.",
            search_aliases=["flashvideo", "upscale", "vae encode", "image to latent", "video upscaler", "stage 2"],
            inputs=[
                io.Image.Input("image", tooltip="The small video: Stage I's decoded frames, or any other. Any length."),
                io.Vae.Input("vae", tooltip="FlashVideo Load VAE, or core's Load VAE with a CogVideoX VAE."),
                *size_inputs(),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Seed of the draw from the VAE's posterior. The mean needs none.",
                ),
                io.Combo.Input(
                    "posterior",
                    options=POSTERIORS,
                    default="sample",
                    tooltip="sample: as the authors encode. mean: without the VAE's small noise.",
                    advanced=True,
                    optional=True,
                ),
                *limit_inputs(),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent", tooltip="The low-resolution video at the target size, for Degradation."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, size: Any = None, width: Any = None, height: Any = None) -> bool | str:
        return check_target(size, width, height)

    @classmethod
    def execute(
        cls,
        image: Tensor,
        vae: Any,
        size: str,
        width: int,
        height: int,
        resize: str,
        seed: int,
        posterior: str = "sample",
        tile_size: int = 0,
        memory_gb: float = 0.0,
    ) -> io.NodeOutput:
        limits = VaeLimits(tile_size, memory_gb)
        noise_seed = seed if posterior == "sample" else None
        target = chosen_size(size, width, height)
        return io.NodeOutput(upscaled_latent(vae, image, target, resize, limits, noise_seed))


NODES = [UpscaleEncode]
