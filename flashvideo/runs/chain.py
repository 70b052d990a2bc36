"""Both stages of a run, one model on the device at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from typing import Any, Protocol

import torch
from torch import Tensor

from ..video.color_match import match_colors
from .settings import Stage1Settings, Stage2Settings
from ..method.degradation import STAGE2_LATENT_SCALE, degrade_latents
from ..loading.text import check_prompt, encode_prompts, stage2_prompt
from .record import Preview
from ..video.resize import resize_video
from .seeds import generator_for
from ..method.stage1 import sample_stage1
from ..method.stage2 import refine_latents
from ..vae.codec import decode_latents, decode_stream, encode_video

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]  # (what is running, steps done, steps in all)
_SEQUENTIAL_TOKENS = 16384  # from here on two CFG branches in one batch cost memory and gain nothing


class Models(Protocol):
    """Where a run gets its models from."""

    def use(self, name: str) -> AbstractContextManager[Any]:
        """``stage1``, ``stage2``, ``vae`` or ``text`` (model, tokenizer and length), on its device meanwhile."""
        ...

    def latent_scale(self, name: str) -> float | None:
        """The scale that a stage's checkpoint carries, if it does; without loading it."""
        ...

    def describe(self) -> dict[str, str]:
        """What the models are, for the record."""
        ...


def no_progress(_what: str, _done: int, _total: int) -> None:
    pass


def _steps(progress: Progress, what: str) -> Callable[[int, int, Any], None]:
    return lambda done, total, _tensor: progress(what, done, total)


def sequential_guidance(latent_shape: tuple[int, ...] | torch.Size) -> bool:
    """Whether CFG's branches run one after the other: a matter of size alone, so that results do not vary."""
    _, _, frames, height, width = latent_shape
    return frames * height * width // 4 > _SEQUENTIAL_TOKENS


def encode_prompt(models: Models, prompt: str, motion: str, progress: Progress = no_progress) -> tuple[Tensor, Tensor]:
    """Embeddings of both stages' prompts, ``[1, 226, D]`` each, on the CPU.

    Raises:
        ValueError: an empty prompt.
    """
    progress("Prompt", 0, 1)
    long_prompt = stage2_prompt(prompt, motion)
    with models.use("text") as (encoder, tokenizer, length):
        first = encode_prompts(encoder, tokenizer, [prompt], length)  # warns of what is odd about it, once
        second = encode_prompts(encoder, tokenizer, [long_prompt], length, warn=False)
        cut = check_prompt(tokenizer, long_prompt, length, warn=False).cut
    if cut:
        log.warning("Stage II's prompt, with %r in front, is too long: it loses %r.", motion, cut)
    progress("Prompt", 1, 1)
    return first.cpu(), second.cpu()


def make_preview(
    models: Models,
    prompt: str,
    embeds: tuple[Tensor, Tensor],
    stage1: Stage1Settings,
    stage2: Stage2Settings,
    fps: float,
    progress: Progress = no_progress,
) -> Preview:
    """Stage I."""
    stage1.check()
    noise = torch.randn(stage1.latent_shape, generator=generator_for(stage1.seed, "stage1 start"))
    with models.use("stage1") as transformer:
        latents = sample_stage1(
            transformer,
            noise.to(getattr(transformer, "device", "cpu")),
            embeds[0],
            num_steps=stage1.num_steps,
            guidance_scale=stage1.guidance_scale,
            guidance_exponent=stage1.guidance_exponent,
            guidance_curve=stage1.guidance_curve,  # type: ignore[arg-type]
            generator=generator_for(stage1.seed, "stage1 solver"),
            sequential_guidance=sequential_guidance(noise.shape),
            callback=_steps(progress, "Stage I"),
        )
    return Preview(latents.cpu(), prompt, *embeds, stage1, stage2, fps, models=models.describe())


def decode_preview(models: Models, preview: Preview, progress: Progress = no_progress) -> Tensor:
    """The preview's video ``[1, 3, F, H, W]``, 0..1, fp32 on the CPU."""
    with models.use("vae") as vae:
        return decode_latents(vae, preview.latents, callback=_steps(progress, "Decode preview"))


def degrade_preview(
    models: Models,
    preview: Preview,
    stage2: Stage2Settings,
    progress: Progress = no_progress,
    video: Tensor | None = None,
) -> Preview:
    """Stage II's start: the preview's video at full size, encoded and degraded.

    Args:
        video: :func:`decode_preview` of it, if it is at hand already.
    """
    stage2.check()
    if video is None:
        video = decode_preview(models, preview, progress)
    large = resize_video(video, stage2.height, stage2.width, mode=stage2.resize)
    with models.use("vae") as vae:
        latents = encode_video(
            vae,
            large,
            sample=stage2.sample_posterior,
            generator=generator_for(stage2.seed, "posterior"),
            callback=_steps(progress, "Encode"),
        ).float()
    degraded = degrade_latents(
        latents,
        stage2.noise_step,
        generator=generator_for(stage2.seed, "degradation"),
        latent_scale=models.latent_scale("stage2") or STAGE2_LATENT_SCALE,
    )
    return preview.as_degraded(degraded.cpu(), stage2, models.describe())


def refine_preview(
    models: Models,
    preview: Preview,
    stage2: Stage2Settings,
    progress: Progress = no_progress,
    *,
    video: Tensor | None = None,
    allow_other_noise_step: bool = False,
    on_degraded: Callable[[Preview], None] | None = None,
) -> Preview:
    """Stage II, from a preview or from latents that are degraded already.

    Args:
        video: the preview's decoded video, if it is at hand.
        allow_other_noise_step: refine degraded latents with another noise step than theirs.
        on_degraded: called with Stage II's start before the flow begins.

    Raises:
        ValueError: degraded latents of another noise step or size than asked for; refined latents.
    """
    stage2.check()
    if preview.content == "refined":
        raise ValueError("These latents have been refined already. Give a preview, or decode them.")
    if preview.content == "degraded":
        check_degraded(preview, stage2, allow_other_noise_step)
        start = preview
    else:
        start = degrade_preview(models, preview, stage2, progress, video)
    if on_degraded is not None:
        on_degraded(start)
    with models.use("stage2") as transformer:
        latents = refine_latents(
            transformer,
            start.latents.to(getattr(transformer, "device", "cpu")),
            start.stage2_embeds,
            noise_step=stage2.noise_step,
            num_steps=stage2.num_steps,
            shift=stage2.shift,
            guidance_scale=stage2.guidance_scale,
            solver=stage2.solver,
            rounding=stage2.rounding,  # type: ignore[arg-type]
            sequential_guidance=sequential_guidance(start.latents.shape),
            callback=_steps(progress, "Stage II"),
        )
    return start.as_refined(latents.cpu(), stage2, models.describe())


def check_degraded(preview: Preview, stage2: Stage2Settings, allow_other_noise_step: bool) -> None:
    """Raise ValueError unless degraded latents fit Stage II's settings."""
    if preview.noise_step != stage2.noise_step and not allow_other_noise_step:
        raise ValueError(
            f"The latents were degraded with noise step {preview.noise_step}, refining was asked for with "
            f"{stage2.noise_step}. Use {preview.noise_step}, degrade the preview anew, or allow it explicitly."
        )
    height, width = (8 * size for size in preview.latents.shape[-2:])
    if (height, width) != (stage2.height, stage2.width):
        raise ValueError(
            f"The degraded latents are for {width}x{height}, {stage2.width}x{stage2.height} was asked for. "
            "Degrade the preview anew for another size."
        )


def check_small(preview: Preview, stage2: Stage2Settings, name: str) -> None:
    """Raise ValueError if colours are to be matched to a preview that is not there."""
    if stage2.match_colors and preview.small is None:
        raise ValueError(
            f"{name} has no latents of the preview (an older version wrote it), so colours cannot be matched to it. "
            "Ask for match colors 0, or begin from the preview."
        )


def decode_frames(
    models: Models,
    preview: Preview,
    progress: Progress = no_progress,
    what: str = "Decode",
    *,
    small: Tensor | None = None,
) -> Iterator[Tensor]:
    """Frames ``[1, 3, f, H, W]`` as they are done; refined ones in the preview's colours, where their settings say so.

    Args:
        small: the preview's decoded video, if it is at hand.

    Raises:
        ValueError: colours to match, and no preview.
    """
    stage2 = preview.stage2
    coarseness = stage2.match_colors if preview.content == "refined" else 0.0
    if coarseness and small is None:
        check_small(preview, stage2, "the file")
        assert preview.small is not None
        with models.use("vae") as vae:
            small = decode_latents(vae, preview.small, callback=_steps(progress, "Decode preview"))
    position = 0
    with (
        models.use("vae") as vae,
        closing(decode_stream(vae, preview.latents, callback=_steps(progress, what))) as stream,
    ):
        for frames in stream:
            if coarseness and small is not None:
                beside = small[:, :, position : position + frames.shape[2]]
                frames = match_colors(frames, beside, coarseness, resize=stage2.resize)
            position += frames.shape[2]
            yield frames
