"""Stage II: the flow from degraded low-resolution latents to high resolution (paper section 3.3, Algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor

from ..tensors.checks import check_latents
from .checks import check_noise_step
from .degradation import STAGE2_LATENT_SCALE
from .guidance import GuidedTransformer, SparseGuidance, check_guidance
from .keeping import Kept, check_keep
from .schedules import flow_times, network_timestep
from .stage1 import Callback, latent_scale_of
from .student import check_student_guidance, student_of
from .windows import Keeper, Latents, TimeWindows, evaluate_windows

Velocity = Callable[[Any, Tensor], Any]  # (x, time) -> dx / dt; x is a tensor or a stream of latents
Rounding = Literal["bf16"] | None
ROUNDINGS: tuple[Literal["bf16"], ...] = ("bf16",)  # None beside them is exact


def euler_step(velocity: Velocity, x: Tensor, t: Tensor, dt: Tensor) -> Tensor:
    """First order, the paper's."""
    return x + dt * velocity(x, t)


def midpoint_step(velocity: Velocity, x: Tensor, t: Tensor, dt: Tensor) -> Tensor:
    """Second order: the slope in the middle."""
    return x + dt * velocity(x + dt / 2 * velocity(x, t), t + dt / 2)


def heun_step(velocity: Velocity, x: Tensor, t: Tensor, dt: Tensor) -> Tensor:
    """Second order: the mean of the slopes at both ends."""
    first = velocity(x, t)
    return x + dt / 2 * (first + velocity(x + dt * first, t + dt))


def rk4_step(velocity: Velocity, x: Tensor, t: Tensor, dt: Tensor) -> Tensor:
    """Fourth order, the classical Runge-Kutta rule."""
    k1 = velocity(x, t)
    k2 = velocity(x + dt / 2 * k1, t + dt / 2)
    k3 = velocity(x + dt / 2 * k2, t + dt / 2)
    k4 = velocity(x + dt * k3, t + dt)
    return x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


@dataclass(frozen=True)
class Solver:
    """A rule for one step and the transformer evaluations that it takes."""

    step: Callable[[Velocity, Any, Tensor, Tensor], Any]
    evaluations: int


SOLVERS = {
    "euler": Solver(euler_step, 1),
    "midpoint": Solver(midpoint_step, 2),
    "heun": Solver(heun_step, 2),
    "rk4": Solver(rk4_step, 4),
}


def get_solver(name: str) -> Solver:
    if name not in SOLVERS:
        raise ValueError(f"solver is {name!r}; expected one of {', '.join(SOLVERS)}.")
    return SOLVERS[name]


def time_dtype(rounding: Rounding) -> torch.dtype:
    """The arithmetic of times and noise steps.

    Raises:
        ValueError: an unknown rounding.
    """
    if rounding not in (None, *ROUNDINGS):
        raise ValueError(f"rounding is {rounding!r}; expected None (exact) or one of {', '.join(ROUNDINGS)}.")
    return torch.bfloat16 if rounding == "bf16" else torch.float32


def noise_step_for_transformer(noise_step: int, rounding: Rounding) -> float:
    """The noise step that the transformer is called with: 675, or 676 with the production run's rounding."""
    return float(torch.tensor(noise_step, dtype=time_dtype(rounding)))


def flow_steps(
    solver: Solver, velocity: Velocity, x: Latents, times: Tensor, kept: Kept | None = None
) -> Iterator[tuple[int, Latents]]:
    """The flow ODE from time to time, with the caller's network.

    Args:
        velocity: ``velocity(x, time)`` is the guided ``dx / dt``.
        x: ``[B, 16, T, h, w]`` in model space at the first time; or such latents as they come.
        times: ``[n + 1]``, rising.
        kept: what is not solved for.

    Yields:
        ``(step, x at the step's end)``.
    """
    for i in range(len(times) - 1):
        x = solver.step(velocity, x, times[i], times[i + 1] - times[i])
        if kept is not None:
            x = kept.hold(x, float(times[i + 1]))
        yield i, x


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """Stage II with its settings, checked; what they mean is said at :func:`refine_latents`.

    Raises:
        ValueError: settings that do not fit.
    """

    transformer: Any
    prompt_embeds: Tensor
    noise_step: int = 675
    num_steps: int = 4
    shift: float = 2.5
    guidance_scale: float = 13.0
    negative_prompt_embeds: Tensor | None = None
    solver: str = "euler"
    latent_scale: float | None = None
    rounding: Rounding = None
    sequential_guidance: bool = False
    guidance_every: int = 1
    guide_student: bool = False
    attention_windows: Any = None
    time_windows: TimeWindows | None = None
    keepers: Callable[[int], Keeper] | None = None  # of each evaluation, by its number; with windows in time

    def __post_init__(self) -> None:
        check_noise_step(self.noise_step)
        check_guidance(self.guidance_scale, self.guidance_every)
        check_student_guidance(student_of(self.transformer), self.guidance_scale, self.guide_student)
        get_solver(self.solver)
        flow_times(self.num_steps, self.shift, time_dtype(self.rounding))
        if not isinstance(self.time_windows, TimeWindows | None):
            raise ValueError(f"time_windows is {self.time_windows!r}; expected TimeWindows(length, overlap) or None.")
        if getattr(self.transformer, "noise_step_embedding", self.transformer) is None:
            raise ValueError(
                "This transformer has no noise-step embedding: it looks like Stage I's. Load Stage II's for refining."
            )

    @property
    def scale(self) -> float:
        """From VAE space to model space."""
        return latent_scale_of(self.transformer, self.latent_scale, STAGE2_LATENT_SCALE)

    def steps(self, x: Latents, shape: torch.Size, kept: Kept | None = None) -> Iterator[tuple[int, Latents]]:
        """The flow from ``x`` in model space: ``(step, x at the step's end)``.

        Args:
            x: degraded latents, all of them or as they come.
            shape: of the latents, or of the first that came.
            kept: what is not solved for.

        Raises:
            ValueError: embeddings that do not fit, before the first evaluation.
        """
        guided = getattr(self.transformer, "guided", None) or GuidedTransformer(
            self.transformer,
            shape,
            self.prompt_embeds,
            self.negative_prompt_embeds,
            noise_step=noise_step_for_transformer(self.noise_step, self.rounding),
            sequential=self.sequential_guidance,
            attention_windows=self.attention_windows,
        )
        predict, evaluations = SparseGuidance(guided, self.guidance_every), count()

        def evaluate(x: Any, predict_window: Callable[[Tensor], Tensor]) -> Any:
            if self.time_windows is None:
                return predict_window(x)
            keeper = self.keepers(next(evaluations)) if self.keepers is not None else None
            return evaluate_windows(x, self.time_windows, predict_window, keeper)

        def velocity(x: Any, t: Tensor) -> Any:
            return predict(x, float(network_timestep(t)), self.guidance_scale, evaluate)

        times = flow_times(self.num_steps, self.shift, time_dtype(self.rounding))
        return flow_steps(get_solver(self.solver), velocity, x, times, kept)


def with_defaults(transformer: Any, **settings: Any) -> dict[str, Any]:
    """Keywords of :class:`Refinement`; those that are missing or ``None`` as a student was made for, if it is one."""
    student = student_of(transformer)
    given = {name: value for name, value in settings.items() if value is not None}
    return given if student is None else {**student.sampling, **given}


@torch.no_grad()
def refine_latents(
    transformer: Any,
    latents: Tensor,
    prompt_embeds: Tensor,
    *,
    noise_step: int = 675,
    num_steps: int | None = None,
    shift: float | None = None,
    guidance_scale: float | None = None,
    negative_prompt_embeds: Tensor | None = None,
    solver: str = "euler",
    latent_scale: float | None = None,
    callback: Callback | None = None,
    rounding: Rounding = None,
    sequential_guidance: bool = False,
    guidance_every: int = 1,
    guide_student: bool = False,
    attention_windows: Any = None,
    time_windows: TimeWindows | None = None,
    keep: Tensor | None = None,
    source: Tensor | None = None,
) -> Tensor:
    """Follow the flow ODE from degraded latents (time 0) to high resolution (time 1).

    Args:
        transformer: Stage II's, or any ``f(hidden_states, timestep, encoder_hidden_states, noise_step=)`` that
            predicts ``d latent / d t`` in model space. One with an attribute ``guided``, a
            :class:`~flashvideo.method.guidance.Guided`, brings its own guidance and prompts.
        latents: ``[B, 16, T, h, w]`` in VAE space, already degraded by :func:`~flashvideo.degrade_latents`.
        prompt_embeds: ``[B, 226, D]`` of ``"medium motion," + prompt``.
        noise_step: the one that the latents were degraded with; the transformer gets it too.
        num_steps: steps; evaluations are steps times the solver's (euler 1, midpoint and heun 2, rk4 4). Default: what
            a student was made for, else 4.
        shift: of :func:`~flashvideo.method.schedules.flow_times`; default: a student's, else 2.5.
        guidance_scale: constant; 1 leaves the branch without a prompt out and halves the cost. Default: 1 for a
            student, which has it in its weights, else 13.
        negative_prompt_embeds: ``[B, 226, D]``; ``None`` is all zeros, as the model was trained.
        solver: ``euler``, ``midpoint``, ``heun`` or ``rk4``.
        latent_scale: default: the checkpoint's own, else 1.15258426.
        callback: ``callback(steps done, num_steps, latents in VAE space)`` after each step.
        rounding: ``None`` is exact; ``"bf16"`` rounds the transformer's times and noise step as the authors' production
            run does (five steps: 1000, 904, 784, 624, 384; 676).
        sequential_guidance: evaluate CFG's branches one after the other, which takes less memory.
        guidance_every: evaluate the branch without a prompt at the first of so many evaluations in a row, and reuse its
            difference at the others; 1 evaluates it at every one.
        guide_student: allow guidance on top of what a student has in its weights.
        attention_windows: an :class:`~flashvideo.AttentionWindows` that the transformer's attention is confined to;
            ``None`` is full attention.
        time_windows: evaluate the transformer on overlapping stretches of so many latents, one at a time, and join the
            predictions at every evaluation; ``None``: on all at once. Windows that cover everything change nothing.
        keep: ``[1 or B, 1, 1 or T, h, w]`` in 0..1: 1 where the source is kept, as after each step the flow is put back
            on its way there; see :func:`~flashvideo.latent_mask`. ``None``, or zeros, refine everything.
        source: ``[B, 16, T, h, w]`` in VAE space, what was degraded; with ``keep`` alone.

    Returns:
        Refined latents in VAE space, shape, dtype and device of ``latents``.

    Raises:
        ValueError: shapes or settings that do not fit, before the first evaluation.
    """
    check_latents("latents", latents)
    check_keep(keep, source, latents)
    settings = with_defaults(
        transformer,
        noise_step=noise_step,
        num_steps=num_steps,
        shift=shift,
        guidance_scale=guidance_scale,
        negative_prompt_embeds=negative_prompt_embeds,
        solver=solver,
        latent_scale=latent_scale,
        rounding=rounding,
        sequential_guidance=sequential_guidance,
        guidance_every=guidance_every,
        guide_student=guide_student,
        attention_windows=attention_windows,
        time_windows=time_windows,
    )
    refinement = Refinement(transformer=transformer, prompt_embeds=prompt_embeds, **settings)
    scale = refinement.scale
    start, kept = latents.float() * scale, None
    if keep is not None and source is not None:
        kept = Kept(start, source.to(latents.device).float() * scale, keep.to(latents.device).float())
    for step, x in refinement.steps(start, latents.shape, kept):
        if callback is not None:
            callback(step + 1, refinement.num_steps, x / scale)
    return (x / scale).to(latents.dtype)
