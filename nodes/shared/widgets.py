"""Sockets and widgets that several nodes share: named, limited and explained alike."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from comfy_api.latest import io

from ...flashvideo.method.checks import check_size
from ...flashvideo.method.stage2 import SOLVERS
from ...flashvideo.runs.settings import DEFAULT_FPS, MAX_FPS, SIZES, Stage2Settings
from .wiring import STAGES

CUSTOM = "custom"
PRESETS = {f"{name} ({width}x{height})": (height, width) for name, (height, width) in SIZES.items()}
_MAX_PIXELS = 16384
_MAX_SEED = 0xFFFFFFFFFFFFFFFF


def answered(check: Callable[[], Any]) -> bool | str:
    """What ``validate_inputs`` gives back: True, or the words of the ValueError that a check raised."""
    try:
        check()
    except ValueError as error:
        return str(error)
    return True


# ---- sockets


def model_input(stage: str) -> io.Input:
    return io.Model.Input("model", tooltip=f"FlashVideo Load {STAGES[stage]}.")


def positive_input(stage: str, more: str = "") -> io.Input:
    return io.Conditioning.Input("positive", tooltip=f"The prompt, encoded for {STAGES[stage]}{more}.")


def negative_input(more: str = "") -> io.Input:
    tooltip = f"Left open: all zeros, as the model was trained.{more}"
    return io.Conditioning.Input("negative", optional=True, tooltip=tooltip)


def vae_input() -> io.Input:
    return io.Vae.Input("vae", tooltip="FlashVideo Load VAE, or core's Load VAE with a CogVideoX VAE.")


# ---- sampling


def seed_input(tooltip: str) -> io.Input:
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=_MAX_SEED,
        control_after_generate=io.ControlAfterGenerate.fixed,
        tooltip=tooltip,
    )


def cfg_input(default: float, tooltip: str) -> io.Input:
    return io.Float.Input("cfg", default=default, min=0.0, max=100.0, step=0.1, tooltip=tooltip)


def stage2_cfg_input() -> io.Input:
    return cfg_input(13.0, "Guidance scale; the authors use 10 to 13. 1 halves the cost and leaves guidance out.")


def noise_step_input(tooltip: str) -> io.Input:
    return io.Int.Input("noise_step", default=Stage2Settings().noise_step, min=0, max=999, tooltip=tooltip)


def shift_input(tooltip: str) -> io.Input:
    return io.Float.Input("shift", default=2.5, min=0.01, max=100.0, step=0.1, tooltip=tooltip)


def schedule_inputs() -> list[io.Input]:
    """Stage II's time grid."""
    return [
        io.Int.Input(
            "steps", default=4, min=1, max=1000, tooltip="Steps of the flow. 4 by default; the authors ran 5."
        ),
        shift_input("Above 1 the steps grow towards the end; 1 gives equal steps (the paper's), 2.5 the authors' run."),
    ]


def solver_input(**more: Any) -> io.Input:
    return io.Combo.Input(
        "solver",
        options=list(SOLVERS),
        default="euler",
        tooltip="euler: one evaluation a step, the paper's. midpoint, heun: two. rk4: four.",
        **more,
    )


# ---- sizes and rates


def size_inputs(default: str, tooltip: str) -> list[io.Input]:
    """A preset, or width and height; read by :func:`chosen_size`."""
    height, width = PRESETS[default]
    tooltip = f"{tooltip} custom takes width and height below."
    return [
        io.Combo.Input("size", options=[*PRESETS, CUSTOM], default=default, tooltip=tooltip),
        _side_input("width", width),
        _side_input("height", height),
    ]


def _side_input(name: str, default: int) -> io.Input:
    tooltip = "With size custom: pixels, a multiple of 16."
    return io.Int.Input(name, default=default, min=16, max=_MAX_PIXELS, step=16, tooltip=tooltip)


def chosen_size(size: str, width: int, height: int) -> tuple[int, int]:
    """(height, width) of a preset, or the widgets' with ``custom``."""
    return (height, width) if size == CUSTOM else PRESETS[size]


def check_chosen_size(size: Any, width: Any, height: Any) -> None:
    """Raise ValueError for what :func:`size_inputs` cannot be; None is a linked value, known on execution only."""
    if size is not None and size not in (*PRESETS, CUSTOM):
        raise ValueError(f"size {size!r}: expected one of {', '.join([*PRESETS, CUSTOM])}.")
    if size != CUSTOM or width is None or height is None:
        return
    check_size(height, width)
    if max(height, width) > _MAX_PIXELS:
        raise ValueError(f"width {width}, height {height}: at most {_MAX_PIXELS} pixels a side.")


def fps_input(tooltip: str) -> io.Input:
    return io.Float.Input("fps", default=float(DEFAULT_FPS), min=0.01, max=float(MAX_FPS), step=0.01, tooltip=tooltip)


def frame_rate(fps: float) -> Fraction:
    """A frame rate as files hold it."""
    return Fraction(round(fps * 1000), 1000)
