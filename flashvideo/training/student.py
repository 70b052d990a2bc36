"""Distillation of Stage II: a student learns what a guided teacher does in more evaluations.

Two things go into the weights. Guidance (arXiv 2210.03142): the student's one branch learns the teacher's
``u + s (c - u)`` at random times. Steps: the end of the student's few steps learns the end of the teacher's many, from
the same degraded start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..method.guidance import GuidedTransformer
from ..method.schedules import flow_times, network_timestep
from ..method.stage2 import Refinement, flow_steps, get_solver
from ..method.student import Student, check_student_guidance
from ..runs.fields import settings_of
from ..runs.settings import Stage2Settings
from .loop import Batch, runs_on_cpu
from .objectives import TextSide, flow_pair

_STAGE2 = settings_of(Stage2Settings)


@dataclass(frozen=True)
class TeacherSettings:
    """A Stage II transformer to learn from, and how it is sampled.

    Attributes:
        checkpoint: of any layout; it is held as it is stored, whole on every device.
        guidance_scale: that goes into the student's weights.
        num_steps, shift: of its flow, by Euler's rule.
    """

    checkpoint: str
    guidance_scale: float = Stage2Settings.guidance_scale
    num_steps: int = Stage2Settings.num_steps
    shift: float = Stage2Settings.shift

    def check(self) -> None:
        """Raise ValueError for settings that cannot run."""
        for name in ("guidance_scale", "num_steps", "shift"):
            _STAGE2[name].check(getattr(self, name), f"teacher.{name}")


class Teacher:
    """A Stage II transformer with its guidance. No module: neither checkpoints nor optimiser shall know of it.

    Args:
        transformer: Stage II's.
        settings: how it is sampled.
    """

    def __init__(self, transformer: Any, settings: TeacherSettings) -> None:
        self.transformer, self.settings = transformer.requires_grad_(False).eval(), settings

    @torch.no_grad()
    def velocity(self, x: Tensor, time: Tensor, embeds: Tensor, noise_step: Tensor) -> Tensor:
        """The guided velocity.

        Args:
            x: ``[B, 16, T, h, w]`` in model space.
            time: ``[B]``, 0 to 1.
            embeds: ``[B, L, D]``.
            noise_step: ``[B]``.
        """
        scale, velocities = self.settings.guidance_scale, []
        for one, t, text, step in zip(x.split(1), time.tolist(), embeds.split(1), noise_step.tolist(), strict=True):
            guided = GuidedTransformer(self.transformer, one.shape, text, None, noise_step=float(step))
            velocities.append(guided(one, 1000 * (1 - t), scale))
        return torch.cat(velocities)

    @torch.no_grad()
    def end(self, start: Tensor, embeds: Tensor, noise_step: Tensor) -> Tensor:
        """Where its flow ends, from degraded latents ``[B, 16, T, h, w]`` in model space; see :meth:`velocity`."""
        ends = []
        for one, text, step in zip(start.split(1), embeds.split(1), noise_step.tolist(), strict=True):
            flow = Refinement(
                transformer=self.transformer,
                prompt_embeds=text,
                noise_step=step,
                num_steps=self.settings.num_steps,
                shift=self.settings.shift,
                guidance_scale=self.settings.guidance_scale,
            )
            *_, (_, end) = flow.steps(one, one.shape)
            ends.append(end)
        return torch.cat(ends)


class StudentObjective(nn.Module):
    """Mean squared error against a teacher.

    Args:
        transformer: the student, without a second branch.
        text: gives the prompt embeddings.
        teacher: what it learns from.
        num_steps: of the student, whose end is compared with the teacher's; ``None`` compares velocities instead.
    """

    def __init__(self, transformer: nn.Module, text: TextSide, teacher: Teacher, num_steps: int | None) -> None:
        super().__init__()
        self.transformer, self.text, self.teacher, self.num_steps = transformer, text, teacher, num_steps

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """As :meth:`~flashvideo.training.objectives.Stage2Objective.forward`; its times matter to velocities alone."""
        embeds, noise_step = self.text(batch), batch["noise_step"].clamp(min=0)
        time = batch["time"] if self.num_steps is None else torch.zeros_like(batch["time"])
        x, _ = flow_pair(batch["latents"], batch["low_latents"], batch["noise"], time, batch["noise_step"])

        def velocity(x: Tensor, time: Tensor) -> Tensor:
            timestep = network_timestep(time).to(x.device).expand(len(x))
            predicted: Tensor = self.transformer(x, timestep, embeds, noise_step=noise_step.float())
            return predicted.float()

        with torch.autocast(x.device.type, enabled=False):  # the teacher has a precision of its own
            known = embeds.detach().float(), noise_step
            target = self.teacher.velocity(x, time, *known) if self.num_steps is None else self.teacher.end(x, *known)
        if self.num_steps is None:
            return F.mse_loss(velocity(x, time), target), {}
        times = flow_times(self.num_steps, self.teacher.settings.shift)
        *_, (_, end) = flow_steps(get_solver("euler"), velocity, x, times)
        return F.mse_loss(end, target), {}


def load_teacher(settings: TeacherSettings) -> Teacher:
    """On this process's device, as it is stored; CPUs compute fp16 files in fp32.

    Raises:
        ValueError: no Stage II, or guidance on top of what a student has in its weights.
    """
    from accelerate import PartialState

    from ..loading.load import load_stage2, open_stage

    source = open_stage(settings.checkpoint, "stage2")
    check_student_guidance(source.student, settings.guidance_scale, False)
    halves_on_cpu = source.weights.compute_dtype() == torch.float16 and runs_on_cpu()
    device = PartialState(cpu=runs_on_cpu()).device
    dtype = torch.float32 if halves_on_cpu else None
    return Teacher(load_stage2(settings.checkpoint, dtype=dtype, device=device), settings)


def distilled(teacher: TeacherSettings, num_steps: int | None) -> Student:
    """What a student of ``num_steps`` (``None``: as many as its teacher) says of itself."""
    return Student(num_steps or teacher.num_steps, teacher.shift, teacher.guidance_scale)
