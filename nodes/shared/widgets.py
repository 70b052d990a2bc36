"""Sockets and widgets that several nodes share: named, limited and explained alike."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from comfy_api.latest import io

from ...flashvideo.method import stage2
from ...flashvideo.method.checks import check_size
from ...flashvideo.method.stage2 import Rounding
from ...flashvideo.runs.fields import Setting, settings_of
from ...flashvideo.runs.settings import Stage1Settings, Stage2Settings, VideoSettings
from ...flashvideo.runs.sizes import SIZES, target_size, turned_like
from .wiring import STAGES

STAGE1, STAGE2, VIDEO = settings_of(Stage1Settings), settings_of(Stage2Settings), settings_of(VideoSettings)
ROUNDINGS: dict[str, Rounding] = {"exact": None, **{name: name for name in stage2.ROUNDINGS}}
POSTERIORS = ["sample", "mean"]
CUSTOM = "custom"
_SHORT_SIDE = "short side"
OF_INPUT = {"x2": "x2", "x4": "x4", _SHORT_SIDE: "short={}", "as input": "input"}  # -> as the library names them
PRESETS = {f"{name} ({width}x{height})": (height, width) for name, (height, width) in SIZES.items()}
_MAX_SEED = 0xFFFFFFFFFFFFFFFF  # ComfyUI's, of RandomNoise too


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


# ---- settings


def setting_input(
    known: Setting,
    name: str = "",
    *,
    default: float | None = None,
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    tooltip: str = "",
    advanced: bool = False,
    optional: bool = False,
) -> io.Input:
    """The widget of a setting, as its field says; arguments are what this one has otherwise.

    Args:
        name: of the widget, where that is not the setting's.
        tooltip: instead of the setting's help.
    """
    name, tooltip = name or known.name, tooltip or known.help
    hidden: Any = True if known.advanced or advanced else None  # None: not said
    if known.choices:
        return io.Combo.Input(
            name,
            options=list(known.choices),
            default=known.default,
            tooltip=tooltip,
            advanced=hidden,
            optional=optional,
        )
    offered: tuple[Any, Any] = known.offered or (known.low, known.high)
    steps: Any = known.step if step is None else step
    widget: Any = io.Int.Input if known.kind is int else io.Float.Input
    return widget(
        name,
        default=known.kind(known.default if default is None else default),
        min=known.kind(offered[0] if low is None else low),
        max=known.kind(offered[1] if high is None else high),
        step=None if steps is None else known.kind(steps),
        tooltip=tooltip,
        advanced=hidden,
        optional=optional,
    )


def seed_input(tooltip: str) -> io.Input:
    return io.Int.Input(
        "seed",
        default=STAGE1["seed"].default,
        min=0,
        max=_MAX_SEED,
        control_after_generate=io.ControlAfterGenerate.fixed,
        tooltip=tooltip,
    )


def stage1_steps_input() -> io.Input:
    return setting_input(STAGE1["num_steps"], "steps")


def guidance_inputs() -> list[io.Input]:
    """Stage I's guidance."""
    return [
        setting_input(STAGE1["guidance_scale"], "cfg"),
        setting_input(STAGE1["guidance_exponent"], "exponent", optional=True),
        setting_input(STAGE1["guidance_curve"], optional=True),
    ]


def guidance_every_input(settings: dict[str, Setting]) -> io.Input:
    """Of either stage; it came later, so it stands behind the widgets that were there (:func:`short_side_input`)."""
    return setting_input(settings["guidance_every"], optional=True)


def stage2_cfg_input() -> io.Input:
    return setting_input(STAGE2["guidance_scale"], "cfg")


def noise_step_input(tooltip: str = "", more: str = "") -> io.Input:
    """``more`` is added to the setting's help, ``tooltip`` stands in its place."""
    known = STAGE2["noise_step"]
    return setting_input(known, tooltip=tooltip or known.help + more)


def schedule_inputs() -> list[io.Input]:
    """Stage II's time grid."""
    return [setting_input(STAGE2["num_steps"], "steps"), setting_input(STAGE2["shift"])]


def solver_input(*, advanced: bool = False, optional: bool = False) -> io.Input:
    return setting_input(STAGE2["solver"], advanced=advanced, optional=optional)


def rounding_input() -> io.Input:
    """The setting with a word for none."""
    return io.Combo.Input(
        "rounding",
        options=list(ROUNDINGS),
        default="exact",
        tooltip=STAGE2["rounding"].help,
        advanced=True,
        optional=True,
    )


# ---- sizes and rates


def size_inputs(settings: dict[str, Setting]) -> list[io.Input]:
    """A preset, or width and height; read by :func:`chosen_size`."""
    return _size_inputs(settings, (), "custom takes width and height below.")


def target_inputs() -> list[io.Input]:
    """The target size and the way to it; with :func:`short_side_input`, read by :func:`chosen_target`."""
    more = (
        "Presets are turned for upright videos; x2, x4, short side and as input keep the video's shape, custom takes "
        "width and height below."
    )
    return [*_size_inputs(STAGE2, tuple(OF_INPUT), more), setting_input(STAGE2["resize"])]


def short_side_input() -> io.Input:
    """A widget that came later: behind the others, since workflows know widgets by their place."""
    return setting_input(
        STAGE2["height"],
        "short_side",
        tooltip="With size short side: its length in pixels; the other side follows the video's shape.",
        optional=True,
    )


def _size_inputs(settings: dict[str, Setting], more: tuple[str, ...], explained: str) -> list[io.Input]:
    size = settings["height"].default, settings["width"].default
    preset = next(name for name, known in PRESETS.items() if known == size)
    tooltip, pixels = settings["height"].help, "With size custom: pixels, a multiple of 16."
    options = [*PRESETS, CUSTOM, *more]
    return [
        io.Combo.Input("size", options=options, default=preset, tooltip=f"{tooltip} {explained}"),
        *(setting_input(settings[side], tooltip=pixels) for side in ("width", "height")),
    ]


def chosen_size(size: str, width: int, height: int) -> tuple[int, int]:
    """(height, width) of a preset, or the widgets' with ``custom``."""
    return (height, width) if size == CUSTOM else PRESETS[size]


def chosen_target(size: str, width: int, height: int, short_side: int, shape: tuple[int, int]) -> tuple[int, int]:
    """(height, width) that frames of a shape (height, width) are to be brought to."""
    if size in OF_INPUT:
        return target_size(OF_INPUT[size].format(short_side), *shape)
    chosen = chosen_size(size, width, height)
    return chosen if size == CUSTOM else turned_like(chosen, *shape)


def check_chosen_size(size: Any, width: Any, height: Any, more: Iterable[str] = ()) -> None:
    """Raise ValueError for what :func:`size_inputs` cannot be; None is a linked value, known on execution only.

    Args:
        more: sizes that the node has besides: those of :func:`target_inputs` are :data:`OF_INPUT`.
    """
    known = [*PRESETS, CUSTOM, *more]
    if size is not None and size not in known:
        raise ValueError(f"size {size!r}: expected one of {', '.join(known)}.")
    if size != CUSTOM or width is None or height is None:
        return
    check_size(height, width)
    _, most = STAGE2["height"].offered or (0, 0)
    if max(height, width) > most:
        raise ValueError(f"width {width}, height {height}: at most {most} pixels a side.")


def posterior_input() -> io.Input:
    return io.Combo.Input(
        "posterior",
        options=POSTERIORS,
        default=POSTERIORS[0],
        tooltip="sample: as the authors encode. mean: without the VAE's small noise.",
        advanced=True,
        optional=True,
    )


def bit_depth_input() -> io.Input:
    return io.Int.Input(
        "bit_depth",
        default=8,
        min=8,
        max=10,
        step=2,
        tooltip="Of the file: 10 keeps gradients smoother, but some players cannot show it.",
        advanced=True,
        optional=True,
    )


def fps_input(tooltip: str) -> io.Input:
    return setting_input(VIDEO["fps"], tooltip=tooltip)


def frame_rate(fps: float) -> Fraction:
    """A frame rate as files hold it."""
    return Fraction(round(fps * 1000), 1000)
