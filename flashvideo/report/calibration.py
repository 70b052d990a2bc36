"""Which noise step suits a source: a few frames refined with several, measured against it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..method.checks import check_finite_number, check_noise_step
from ..runs import chain
from ..runs.settings import Stage2Settings
from ..scores.score import Scores, score_video
from ..scores.shown import given
from ..video.resize import resize_video

LOSS = 0.5  # dB of likeness
MAX_STEPS = 20
_CROP = 256  # pixels


@dataclass(frozen=True)
class Tried:
    """A noise step, and the scores of what it made, against the source."""

    noise_step: int
    scores: Scores

    @property
    def likeness(self) -> float:
        """In dB; see :class:`~flashvideo.scores.likeness.Likeness`."""
        return self.scores.likeness.likeness or 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "noise_step": self.noise_step,
            "likeness": self.likeness,
            "sharpness": self.scores.detail.sharpness,
            "flicker": self.scores.flicker.flicker,
            "drift": self.scores.likeness.drift,
        }


@dataclass(frozen=True)
class Calibration:
    """Noise steps that were tried on a stretch of a video, in rising order.

    Attributes:
        tried: one or more.
        loss: dB of likeness that a step may lose against the best of them.
    """

    tried: tuple[Tried, ...]
    loss: float = LOSS

    @property
    def suggested(self) -> int:
        """The largest step whose likeness is at most ``loss`` below the best of those tried."""
        floor = max(one.likeness for one in self.tried) - self.loss
        return max(one.noise_step for one in self.tried if one.likeness >= floor)

    @property
    def remark(self) -> str:
        """What the choice of steps left open, as a sentence; "" if nothing."""
        steps = [one.noise_step for one in self.tried]
        if len(steps) == 1:
            return "One step alone tells nothing: try several."
        if self.suggested == steps[-1]:
            return "The largest step that was tried: a larger one may do as well."
        if self.suggested == steps[0]:
            return "The smallest step that was tried: a smaller one may stay closer still."
        return ""

    def to_dict(self) -> dict[str, Any]:
        return {
            "suggested": self.suggested,
            "loss": self.loss,
            "steps": [one.to_dict() for one in self.tried],
            "remarks": [self.remark] if self.remark else [],
        }


def check_calibration(noise_steps: Sequence[int], loss: float) -> None:
    """Raise ValueError for steps that cannot be tried, or a loss that is none."""
    for step in noise_steps:
        check_noise_step(step)
    if not 1 <= len(noise_steps) <= MAX_STEPS or list(noise_steps) != sorted(set(noise_steps)):
        raise ValueError(
            f"the noise steps are {', '.join(map(str, noise_steps)) or 'none'}; expected 1 to {MAX_STEPS} of them, "
            "rising: 100,200,350."
        )
    check_finite_number("the loss of likeness", loss)
    if loss < 0:
        raise ValueError(f"the loss of likeness is {loss} dB; expected 0 or more.")


def calibrate(
    models: chain.Models,
    video: Tensor,
    prompt_embeds: Tensor,
    settings: Stage2Settings,
    noise_steps: Sequence[int],
    *,
    fps: float,
    loss: float = LOSS,
    progress: chain.Progress = chain.no_progress,
    refined: Callable[[Tried, Tensor], None] | None = None,
) -> Calibration:
    """Refine a stretch with every noise step: the same posterior, the same noise, and no colours matched.

    Args:
        video: ``[1, 3, F, h, w]`` in 0..1, F = 4n + 1.
        prompt_embeds: ``[1, 226, D]`` of the prompt with the motion prefix.
        settings: Stage II's; their noise step and matching of colours are not used.
        noise_steps: rising.
        fps: frames per second, for the scores.
        refined: called with each step and its video ``[1, 3, F, H, W]``, which is let go afterwards.

    Raises:
        ValueError: settings that cannot run, before any work.
    """
    check_calibration(noise_steps, loss)
    settings = replace(settings, match_colors=0.0, keep="")
    settings.check()
    encoded = chain.encode_upscaled(models, video, settings, [settings.seed], progress).cpu()
    latents = []
    for step in noise_steps:  # one model after the other, so that each is brought to its device once
        with_step = replace(settings, noise_step=step)
        start = chain.degrade(models, encoded, with_step, [settings.seed])
        latents.append(chain.refine(models, start, prompt_embeds, with_step, _named(progress, step)))
    tried: list[Tried] = []
    source = given(video[0], fps, "the source")
    while latents:
        step = noise_steps[len(tried)]
        decoded = chain.decode(models, latents.pop(0), _named(progress, step), "Decode")
        scores = score_video(given(decoded[0], fps), against=source, progress=_named(progress, step))
        tried.append(Tried(step, scores))
        if refined is not None:
            refined(tried[-1], decoded)
    return Calibration(tuple(tried), loss)


def _named(progress: chain.Progress, step: int) -> chain.Progress:
    return lambda what, done, total: progress(f"{what}, noise step {step}", done, total)


def strip(source: Tensor, frames: Sequence[Tensor]) -> Tensor:
    """The same part of the enlarged source and of refined frames, side by side: where these differ most.

    Args:
        source: ``[3, h, w]``.
        frames: ``[3, H, W]`` each, one or more.

    Returns:
        ``[3, at most 256, n]`` in 0..1.
    """
    height, width = frames[0].shape[1:]
    enlarged = resize_video(source[None, :, None], height, width)[0, :, 0]
    rows, columns = min(_CROP, height), min(_CROP, width)
    differ = (frames[-1] - frames[0]).abs().mean(dim=0)[None, None]
    found = F.avg_pool2d(differ, (rows, columns), stride=8)[0, 0]
    place = int(found.argmax())
    top, left = 8 * (place // found.shape[1]), 8 * (place % found.shape[1])
    return torch.cat([frame[:, top : top + rows, left : left + columns] for frame in (enlarged, *frames)], dim=2)
