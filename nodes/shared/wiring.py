"""What LATENT dictionaries carry, and checks before long work: what is connected where it does not belong."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...flashvideo.checkpoints.metadata import STAGES as STAGES
from ...flashvideo.method.student import Student, check_student_guidance
from ...flashvideo.tensors.checks import check_latents
from ...flashvideo.tensors.sizes import TEMPORAL_FACTOR, video_frames

# in a LATENT dictionary, beside its samples:
NOISE_STEP_KEY = "flashvideo_noise_step"  # what they were degraded with
FRAMES_KEY = "flashvideo_frames"  # frames of the video before it was padded to 4n + 1
RESIZE_KEY = "flashvideo_resize"  # how the small video was brought to its shape
STUDENT = "flashvideo_student"  # in the transformer options of a MODEL: what a LoRA makes of it
_VIDEOS = "flashvideo_videos"  # attribute of an IMAGE that holds several videos: it has no dimension for them
_SEEDS = 2**64


def require_stage(model: Any, stage: str) -> None:
    """Raise ValueError unless a MODEL is FlashVideo's of this stage (``stage1`` or ``stage2``)."""
    actual = getattr(model.model, "flashvideo_stage", None)
    if actual == stage:
        return
    what = STAGES[actual] if actual else f"another kind of model ({type(model.model).__name__})"
    raise ValueError(f"The model is {what}; this node needs {STAGES[stage]}. Connect FlashVideo Load {STAGES[stage]}.")


def student_of_model(model: Any) -> Student | None:
    """What a Stage II MODEL was distilled for, by its file or a LoRA; ``None``: it is no student."""
    of_lora: Student | None = model.model_options["transformer_options"].get(STUDENT)
    return of_lora or model.model.model_config.student


def require_unguided(model: Any, *cfg: float) -> None:
    """Raise ValueError for guidance on top of what a student has in its weights."""
    for scale in cfg:
        check_student_guidance(student_of_model(model), scale, False)


def require_any_stage(model: Any) -> None:
    """Raise ValueError unless a MODEL is one of FlashVideo's stages."""
    if getattr(model.model, "flashvideo_stage", None) not in STAGES:
        raise ValueError(
            f"The model is of another kind ({type(model.model).__name__}); this node needs FlashVideo's Stage I or "
            "Stage II. Connect FlashVideo Load Stage I or FlashVideo Load Stage II."
        )


def require_latents(latent: dict[str, Any], even: bool = True) -> Tensor:
    """The samples of a LATENT, checked: ``[B, 16, T, h, w]``, h and w even as the transformers need them."""
    samples: Tensor = latent["samples"]
    check_latents("The latent", samples, even=even)
    return samples


def true_frames(latent: dict[str, Any]) -> int:
    """Frames to keep of a decoded LATENT: without those that were added to make 4n + 1."""
    decoded, carried = video_frames(latent["samples"].shape[2]), latent.get(FRAMES_KEY)
    if isinstance(carried, int) and decoded - TEMPORAL_FACTOR < carried <= decoded and carried > 0:
        return carried
    return decoded  # the latent's length was changed


def require_frames(image: Tensor) -> None:
    """Raise ValueError unless an IMAGE is ``[F, H, W, C]`` with colours."""
    if image.ndim != 4 or image.shape[-1] < 3 or min(image.shape) < 1:
        raise ValueError(f"The image has shape {list(image.shape)}; expected [frames, height, width, 3].")


def image_to_video(image: Tensor) -> Tensor:
    """IMAGE ``[F, H, W, C]`` as ``[1, 3, F, H, W]``; alpha is dropped.

    Raises:
        ValueError: another shape.
    """
    require_frames(image)
    return image[..., :3].movedim(-1, 0)[None].float()


def joined_videos(images: Tensor) -> Tensor:
    """Videos ``[B, F, H, W, C]`` as IMAGE ``[B * F, H, W, C]``, which remembers B where it matters."""
    count, frames = images.shape[:2]
    joined = images.flatten(0, 1)
    if count > 1 and frames > 1:
        setattr(joined, _VIDEOS, count)
    return joined


def require_one_video(image: Tensor) -> None:
    """Raise ValueError for an IMAGE that a batch of videos was decoded into: it would be taken for one clip."""
    count = getattr(image, _VIDEOS, 1)
    if count > 1:
        raise ValueError(
            f"The image is a batch of {count} videos of {len(image) // count} frames, one behind the other; they would "
            "become one clip. Take one before it is decoded, with FlashVideo Preview Gate or FlashVideo Pick Preview, "
            "or set batch_size to 1."
        )


def require_finite_image(image: Tensor) -> None:
    """Raise ValueError for an IMAGE with NaN or infinite values: they would spread over the whole video."""
    for number, frame in enumerate(image):
        if not torch.isfinite(frame).all():
            raise ValueError(
                f"Frame {number} of the image has NaN or infinite values. The node that made it is at fault: try bf16 "
                "or fp32 there."
            )


def require_single(samples: Tensor, otherwise: str = "") -> None:
    """Raise ValueError unless a batch is one video; ``otherwise`` is what else there is to do."""
    if len(samples) > 1:
        raise ValueError(
            f"The latent is a batch of {len(samples)} videos. Take one with FlashVideo Pick Preview{otherwise}."
        )


def require_undegraded(latent: dict[str, Any]) -> None:
    """Raise ValueError for a LATENT that went through Latent Degradation."""
    if NOISE_STEP_KEY in latent:
        raise ValueError(
            f"The latent is degraded already (noise step {latent[NOISE_STEP_KEY]}), and is so only once. Connect the "
            "encoded video's latent, from FlashVideo Upscale and Encode."
        )


def marked_degraded(samples: Tensor, noise_step: int) -> Tensor:
    """Samples that core's samplers, which do not hand on a LATENT's keys, can be told from undegraded ones by."""
    setattr(samples, NOISE_STEP_KEY, noise_step)
    return samples


def require_undegraded_samples(samples: Tensor) -> None:
    """Raise ValueError for samples of Latent Degradation that a sampler is to add noise to."""
    noise_step = getattr(samples, NOISE_STEP_KEY, None)
    if noise_step is not None:
        raise ValueError(
            f"The latent is degraded already (noise step {noise_step}), and the sampler would add its noise once more. "
            "Give it the undegraded latent, or no noise (DisableNoise; in KSampler Advanced, add_noise off), or use "
            "the Stage II Refiner."
        )


def require_index(name: str, index: int, count: int, counted: str) -> int:
    """An index into ``count`` things, negative ones from the end, as 0 to count - 1.

    Raises:
        ValueError: there are not so many.
    """
    if not -count <= index < count:
        raise ValueError(f"{name} {index}: there are {count} {counted}, 0 to {count - 1}. Choose one of them.")
    return index % count


def require_no_mask(latent: dict[str, Any], stage: str) -> None:
    """Raise ValueError if a LATENT has a noise mask, which this node cannot honour."""
    if latent.get("noise_mask") is not None:
        hint = "Remove it."
        if stage == "stage2":
            hint = (
                "Remove it; a mask of what stays goes to keep of the refiner. Or refine with SamplerCustomAdvanced and "
                "RandomNoise from the undegraded latent."
            )
        raise ValueError(f"The latent has a noise mask, which this {STAGES[stage]} node does not follow. {hint}")


def require_embeds(embeds: Tensor, network: Any, name: str) -> None:
    """Raise ValueError unless prompt embeddings fit a network."""
    length, width = network.text_length, network.text_dim
    if list(embeds.shape[1:]) != [length, width]:
        raise ValueError(
            f"{name} has shape {list(embeds.shape)}; expected [1, {length}, {width}]. Use FlashVideo Text Encode with "
            "the text encoder that belongs to this model (T5-XXL; the tiny one for the tiny models)."
        )


def zero_conditioning(conditioning: Any) -> list[Any]:
    """No prompt, as the models were trained: all zeros."""
    embeds = conditioning[0][0]
    return [[torch.zeros_like(embeds[:1]), {"pooled_output": None}]]


def conditionings(model: Any, positive: Any, negative: Any) -> tuple[Any, Any]:
    """Both conditionings, checked; no negative means all zeros."""
    network = model.model.diffusion_model
    for embeds, _ in positive:
        require_embeds(embeds, network, "positive")
    negative = zero_conditioning(positive) if negative is None else negative
    for embeds, _ in negative:
        require_embeds(embeds, network, "negative")
    return positive, negative


def sample_seeds(latent: dict[str, Any], seed: int) -> list[int]:
    """A seed for each sample of a batch: sample k's is ``seed + k``, also after k was taken out of its batch."""
    indices = latent.get("batch_index") or range(latent["samples"].shape[0])
    return [(seed + int(index)) % _SEEDS for index in indices]


def require_finite(samples: Tensor, stage: str) -> None:
    """Raise ValueError if sampling gave NaN: a black video would be the only other sign."""
    if not torch.isfinite(samples).all():
        raise ValueError(
            f"{STAGES[stage]} gave NaN or infinite values. Either the weights are damaged (`flashvideo inspect FILE` "
            "tells) or their dtype overflows: choose bf16 as the loader's weight_dtype."
        )
