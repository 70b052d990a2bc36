"""Both stages of a run, one model on the device at a time.

The steps on tensors take batches. Every sample draws from generators of its own seed, so that it is drawn as it is
alone; everything else is the same for the whole batch. The steps on records, below them, are those of one video.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from itertools import count
from typing import Any, Protocol

import torch
from torch import Tensor

from ..loading.text import check_prompt, encode_prompts, stage2_prompt
from ..method.degradation import STAGE2_LATENT_SCALE, degrade_latents, undegrade_latents
from ..method.stage1 import sample_stage1
from ..method.stage2 import refine_latents
from ..method.stream import refine_stream
from ..method.windows import TimeWindows, frames_at_once
from ..tensors.noise import standard_normal
from ..tensors.sizes import SPATIAL_FACTOR, video_frames
from ..vae.codec import decode_latents, decode_stream, encode_video
from ..vae.draft import decode_draft
from ..video.color_match import match_colors
from ..video.resize import resize_video
from .keeping import keep_mask
from .record import Record
from .seeds import Purpose, generator_for
from .settings import Stage1Settings, Stage2Settings

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]  # (what is running, steps done, steps in all)
_SEQUENTIAL_TOKENS = 16384  # from here on two CFG branches in one batch cost memory and gain nothing


class Models(Protocol):
    """Where a run gets its models from."""

    def use(self, name: str) -> AbstractContextManager[Any]:
        """``stage1``, ``stage2``, ``vae``, ``draft`` (a tiny decoder) or ``text`` (model, tokenizer and length), on its
        device meanwhile."""
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


def _calls(progress: Progress, what: str, total: int) -> Callable[[int, int, Any], None]:
    """A callback that counts how often it is called."""
    done = count(1)
    return lambda _done, _total, _tensor: progress(what, next(done), total)


def sequential_guidance(latent_shape: tuple[int, ...] | torch.Size, windows: TimeWindows | None = None) -> bool:
    """Whether CFG's branches run one after the other: a matter of size alone, so that results do not vary.

    Args:
        windows: that evaluations run on.
    """
    _, _, frames, height, width = latent_shape
    return frames_at_once(windows, frames) * height * width // 4 > _SEQUENTIAL_TOKENS


def stage2_scale(models: Models) -> float:
    """Stage II's latent scale: its checkpoint's, else the published model's."""
    return models.latent_scale("stage2") or STAGE2_LATENT_SCALE


# steps on tensors


def embed_prompts(models: Models, prompts: Sequence[str]) -> Tensor:
    """Embeddings ``[B, 226, D]`` of prompts as they are, on the CPU; nothing that is odd about them is logged.

    Raises:
        ValueError: an empty prompt.
    """
    with models.use("text") as (encoder, tokenizer, length):
        return encode_prompts(encoder, tokenizer, prompts, length, warn=False).cpu()


def embed_for_both(
    models: Models, prompts: Sequence[str], motion: str, progress: Progress = no_progress
) -> tuple[Tensor, Tensor]:
    """Embeddings ``[B, 226, D]`` of both stages' prompts, on the CPU; the log says once what is odd about them.

    Raises:
        ValueError: an empty prompt.
    """
    progress("Prompt", 0, 1)
    long_prompts = [stage2_prompt(prompt, motion) for prompt in prompts]
    with models.use("text") as (encoder, tokenizer, length):
        first = encode_prompts(encoder, tokenizer, prompts, length)
        second = encode_prompts(encoder, tokenizer, long_prompts, length, warn=False)
        lost = [check_prompt(tokenizer, prompt, length, warn=False).cut for prompt in long_prompts]
    for cut in filter(None, lost):
        log.warning("Stage II's prompt, with %r in front, is too long: it loses %r.", motion, cut)
    progress("Prompt", 1, 1)
    return first.cpu(), second.cpu()


def _generators(seeds: Sequence[int], purpose: Purpose) -> list[torch.Generator]:
    return [generator_for(seed, purpose) for seed in seeds]


def sample_previews(
    models: Models,
    prompt_embeds: Tensor,
    settings: Stage1Settings,
    seeds: Sequence[int],
    progress: Progress = no_progress,
) -> Tensor:
    """Stage I: latents ``[B, 16, T, h, w]`` on the CPU.

    Args:
        prompt_embeds: ``[B, 226, D]`` of the bare prompts.
        seeds: one a sample; the settings' own is not used.
    """
    settings.check()
    _, *shape = settings.latent_shape
    noise = standard_normal((len(seeds), *shape), _generators(seeds, "stage1 start"))
    with models.use("stage1") as transformer:
        return sample_stage1(
            transformer,
            noise.to(transformer.device),
            prompt_embeds,
            num_steps=settings.num_steps,
            guidance_scale=settings.guidance_scale,
            guidance_exponent=settings.guidance_exponent,
            guidance_curve=settings.guidance_curve,  # type: ignore[arg-type]
            guidance_every=settings.guidance_every,
            generator=_generators(seeds, "stage1 solver"),
            sequential_guidance=sequential_guidance(noise.shape),
            callback=_steps(progress, "Stage I"),
        ).cpu()


def decode(models: Models, latents: Tensor, progress: Progress = no_progress, what: str = "Decode preview") -> Tensor:
    """``[B, 16, T, h, w]`` -> the video ``[B, 3, F, H, W]``, 0..1, fp32 on the CPU."""
    with models.use("vae") as vae:
        return decode_latents(vae, latents, callback=_steps(progress, what))


def encode_upscaled(
    models: Models, video: Tensor, settings: Stage2Settings, seeds: Sequence[int], progress: Progress = no_progress
) -> Tensor:
    """Videos ``[B, 3, F, h, w]`` at Stage II's size and encoded: fp32 ``[B, 16, T, H/8, W/8]`` on the VAE's device.

    Args:
        seeds: of the posterior, one a sample; the settings' own is not used.
    """
    large = resize_video(video, settings.height, settings.width, mode=settings.resize)
    with models.use("vae") as vae:
        return encode_video(
            vae,
            large,
            sample=settings.sample_posterior,
            generator=_generators(seeds, "posterior"),
            callback=_steps(progress, "Encode"),
        )


def degrade(models: Models, latents: Tensor, settings: Stage2Settings, seeds: Sequence[int]) -> Tensor:
    """Stage II's start, ``[B, 16, T, h, w]`` on the device of the encoded latents.

    Args:
        seeds: of the noise, one a sample; the settings' own is not used.
    """
    generators = _generators(seeds, "degradation")
    return degrade_latents(latents, settings.noise_step, generator=generators, latent_scale=stage2_scale(models))


def undegrade(models: Models, record: Record) -> Tensor:
    """The encoded latents of a record of degraded ones: their noise can be drawn again."""
    noise = standard_normal(record.latents.shape, _generators([record.stage2.seed], "degradation"))
    step = record.noise_step or 0
    return undegrade_latents(record.latents, step, noise=noise, latent_scale=stage2_scale(models))


def refine(
    models: Models,
    latents: Tensor,
    prompt_embeds: Tensor,
    settings: Stage2Settings,
    progress: Progress = no_progress,
    *,
    keep: Tensor | None = None,
    source: Tensor | None = None,
) -> Tensor:
    """Stage II: degraded latents ``[B, 16, T, h, w]`` -> refined ones, on the CPU.

    Args:
        prompt_embeds: ``[B, 226, D]`` of the prompts with the motion prefix.
        keep, source: a mask of what is kept, and the latents before they were degraded; both or neither.
    """
    windows = settings.windows_in_time
    how: dict[str, Any] = {
        "noise_step": settings.noise_step,
        "num_steps": settings.num_steps,
        "shift": settings.shift,
        "guidance_scale": settings.guidance_scale,
        "guidance_every": settings.guidance_every,
        "guide_student": settings.guide_student,
        "solver": settings.solver,
        "rounding": settings.rounding,
        "attention_windows": settings.attention_windows,
        "latent_scale": stage2_scale(models),
        "sequential_guidance": sequential_guidance(latents.shape, windows),
    }
    with models.use("stage2") as transformer:
        if windows is None:
            start, steps = latents.to(transformer.device), _steps(progress, "Stage II")
            return refine_latents(
                transformer, start, prompt_embeds, **how, callback=steps, keep=keep, source=source
            ).cpu()
        # The device has the latents of one window alone, and progress is told latent by latent.
        done = _calls(progress, "Stage II", settings.num_steps * latents.shape[2])
        stream = refine_stream(
            transformer,
            [latents.cpu()],
            prompt_embeds,
            **how,
            time_windows=windows,
            callback=done,
            keep=keep,
            source=None if source is None else [source.cpu()],
        )
        return torch.cat(list(stream), dim=2)


def decode_frames(
    models: Models,
    latents: Tensor,
    progress: Progress = no_progress,
    what: str = "Decode",
    *,
    preview: Tensor | None = None,
    settings: Stage2Settings | None = None,
    draft: bool = False,
) -> Iterator[Tensor]:
    """Frames ``[B, 3, f, H, W]`` as they are done, 0..1, fp32 on the CPU.

    Args:
        draft: by the draft decoder instead of the VAE, for a quick look.
        preview: the previews' video ``[B, 3, F, h, w]``, to keep its colours.
        settings: how they are kept, ``match_colors`` and ``resize``; ``None``: not at all.
    """
    steps = _steps(progress, what)
    with models.use("draft" if draft else "vae") as decoder:
        decoding: Generator[Tensor, None, None]
        decoding = decode_draft(decoder, latents, steps) if draft else decode_stream(decoder, latents, callback=steps)
        with closing(decoding):
            yield from _colored(decoding, preview, settings)


def _colored(decoded: Iterable[Tensor], preview: Tensor | None, settings: Stage2Settings | None) -> Iterator[Tensor]:
    """Frames in the previews' colours, if there are such, and settings that keep them."""
    position = 0
    for frames in decoded:
        if settings is not None and settings.match_colors and preview is not None:
            beside = preview[:, :, position : position + frames.shape[2]]
            frames = match_colors(frames, beside, settings.match_colors, resize=settings.resize)
        position += frames.shape[2]
        yield frames


# steps on records, one video each


def make_preview(
    models: Models,
    prompt: str,
    embeds: tuple[Tensor, Tensor],
    stage1: Stage1Settings,
    stage2: Stage2Settings,
    fps: float,
    progress: Progress = no_progress,
) -> Record:
    """Stage I. ``embeds`` are those of both stages' prompts, ``[1, 226, D]`` each."""
    latents = sample_previews(models, embeds[0], stage1, [stage1.seed], progress)
    return Record(latents, prompt, *embeds, stage1, stage2, fps, models=models.describe())


def degrade_preview(
    models: Models,
    record: Record,
    stage2: Stage2Settings,
    progress: Progress = no_progress,
    video: Tensor | None = None,
) -> Record:
    """Stage II's start: the preview's video at full size, encoded and degraded.

    Args:
        record: of a preview.
        video: the preview decoded, if it is at hand already.
    """
    stage2.check()
    if video is None:
        video = decode(models, record.latents, progress)
    latents = encode_upscaled(models, video, stage2, [stage2.seed], progress)
    degraded = degrade(models, latents, stage2, [stage2.seed])
    return record.as_degraded(degraded.cpu(), stage2, models.describe())


def refine_record(
    models: Models,
    record: Record,
    stage2: Stage2Settings,
    progress: Progress = no_progress,
    *,
    video: Tensor | None = None,
    allow_other_noise_step: bool = False,
    on_degraded: Callable[[Record], None] | None = None,
) -> Record:
    """Stage II, from a preview or from latents that are degraded already.

    Args:
        video: the preview decoded, if it is at hand.
        allow_other_noise_step: refine degraded latents with another noise step than theirs.
        on_degraded: called with Stage II's start before the flow begins.

    Raises:
        ValueError: degraded latents of another noise step or size than asked for; refined latents; a mask that cannot
            be read.
    """
    stage2.check()
    if record.content == "refined":
        raise ValueError("These latents have been refined already. Give a preview, or decode them.")
    keep = keep_mask(stage2, video_frames(record.latents.shape[2]))
    if record.content == "degraded":
        check_degraded(record, stage2, allow_other_noise_step)
        start = record
    else:
        start = degrade_preview(models, record, stage2, progress, video)
    if on_degraded is not None:
        on_degraded(start)
    source = None if keep is None else undegrade(models, start)
    latents = refine(models, start.latents, start.stage2_embeds, stage2, progress, keep=keep, source=source)
    return start.as_refined(latents, stage2, models.describe())


def check_degraded(record: Record, stage2: Stage2Settings, allow_other_noise_step: bool) -> None:
    """Raise ValueError unless degraded latents fit Stage II's settings."""
    if record.noise_step != stage2.noise_step and not allow_other_noise_step:
        raise ValueError(
            f"The latents were degraded with noise step {record.noise_step}, refining was asked for with "
            f"{stage2.noise_step}. Use {record.noise_step}, degrade the preview anew, or allow it explicitly."
        )
    height, width = (SPATIAL_FACTOR * size for size in record.latents.shape[-2:])
    if (height, width) != (stage2.height, stage2.width):
        raise ValueError(
            f"The degraded latents are for {width}x{height}, {stage2.width}x{stage2.height} was asked for. "
            "Degrade the preview anew for another size."
        )


def check_colors(record: Record, stage2: Stage2Settings, name: str) -> None:
    """Raise ValueError if colours are to be matched to a preview that is not there; ``name`` is the record's."""
    if stage2.match_colors and record.stage1_latents is None:
        raise ValueError(
            f"{name} has no latents of the preview (an older version wrote it), so colours cannot be matched to it. "
            "Ask for match colors 0, or begin from the preview."
        )


def record_frames(
    models: Models,
    record: Record,
    progress: Progress = no_progress,
    *,
    preview: Tensor | None = None,
    draft: bool = False,
) -> Iterator[Tensor]:
    """Frames ``[1, 3, f, H, W]`` as they are done; refined ones in the preview's colours, where their settings say so.

    Args:
        preview: the preview's video, if it is at hand.
        draft: by the draft decoder.

    Raises:
        ValueError: colours to match, and no preview.
    """
    settings = record.stage2 if record.content == "refined" else None
    if settings is not None and settings.match_colors and preview is None:
        check_colors(record, settings, "the file")
        assert record.stage1_latents is not None
        preview = decode(models, record.stage1_latents, progress)
    yield from decode_frames(models, record.latents, progress, preview=preview, settings=settings, draft=draft)
