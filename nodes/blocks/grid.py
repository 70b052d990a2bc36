"""Parameter Grid: Stage II's settings against each other on one clip."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
import torch.nn.functional as F
from comfy_api.latest import io
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...flashvideo.method.checks import check_noise_step, check_positive
from ..host.codec import VaeLimits, decode_images, require_vae
from ..host.stage2_sampling import degraded_latent, refined_latent
from ..shared.node_text import show_on_node
from ..shared.widgets import (
    STAGE2,
    model_input,
    negative_input,
    positive_input,
    seed_input,
    setting_input,
    solver_input,
    vae_input,
)
from ..shared.wiring import (
    conditionings,
    require_index,
    require_latents,
    require_single,
    require_stage,
    require_undegraded,
    require_unguided,
    true_frames,
)

_MAX_CELLS = 100
_MIDDLE = -1
_BACKGROUND, _INK = (24, 24, 24), (235, 235, 235)


@dataclass(frozen=True)
class Cell:
    """One setting of Stage II."""

    noise_step: int
    cfg: float
    steps: int

    @property
    def label(self) -> str:
        return f"NFE {self.steps}  CFG {self.cfg:g}  noise {self.noise_step}"


def parse_list(name: str, text: str, kind: Callable[[str], Any]) -> list[Any]:
    """``"1, 2, 4"`` as numbers.

    Raises:
        ValueError: something that is none, or nothing at all.
    """
    parts = [part.strip() for part in text.replace(";", ",").split(",") if part.strip()]
    try:
        numbers = [kind(part) for part in parts]
    except ValueError as error:
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"{name} is {text!r}; expected {what} with commas between them.") from error
    if not numbers:
        raise ValueError(f"{name} is empty; expected at least one number.")
    return numbers


def parse_cells(steps: str, cfg: str, noise_step: str) -> list[list[Cell]]:
    """The grid's rows: a row for each noise step and CFG, a column for each number of steps.

    Raises:
        ValueError: lists that cannot be read, values out of range, too many cells.
    """
    columns, scales, noises = (
        parse_list("steps", steps, int),
        parse_list("cfg", cfg, float),
        parse_list("noise_step", noise_step, int),
    )
    for count in columns:
        check_positive("steps", count)
    for noise in noises:
        check_noise_step(noise)
    least, most = STAGE2["guidance_scale"].offered or (0, 0)
    if bad := [scale for scale in scales if not least <= scale <= most]:
        raise ValueError(f"cfg holds {bad[0]:g}; expected {least} to {most}.")
    if (cells := len(columns) * len(scales) * len(noises)) > _MAX_CELLS:
        raise ValueError(f"The grid has {cells} cells; at most {_MAX_CELLS}. Shorten a list.")
    return [[Cell(noise, scale, count) for count in columns] for noise, scale in itertools.product(noises, scales)]


def label_strip(text: str, width: int, height: int) -> Tensor:
    """Text on a dark strip, ``[height, width, 3]``; smaller where it would not fit."""
    strip = Image.new("RGB", (width, height), _BACKGROUND)
    draw, size = ImageDraw.Draw(strip), height * 0.6
    length = draw.textlength(text, font=ImageFont.load_default(size))
    font = ImageFont.load_default(max(6.0, size * min(1.0, (width - 8) / max(1.0, length))))
    draw.text((width / 2, height / 2), text, fill=_INK, font=font, anchor="mm")
    return torch.frombuffer(bytearray(strip.tobytes()), dtype=torch.uint8).view(height, width, 3).float() / 255


def labelled(image: Tensor, text: str, width: int) -> Tensor:
    """A cell ``[H, W, 3]`` at ``width`` pixels (0 keeps it), its label above."""
    picture = image.float().cpu()
    if width and width != picture.shape[1]:
        height = max(1, round(picture.shape[0] * width / picture.shape[1]))
        frame = picture.movedim(-1, 0)[None]
        frame = F.interpolate(frame, size=(height, width), mode="bicubic", antialias=True).clamp(0, 1)
        picture = frame[0].movedim(0, -1)
    strip = label_strip(text, picture.shape[1], max(16, picture.shape[1] // 18))
    return torch.cat((strip, picture))


class ParameterGrid(io.ComfyNode):
    """NFE, CFG and noise step on one latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoParameterGrid",
            display_name="FlashVideo Parameter Grid",
            category="FlashVideo",
            description="Refines one clip with every combination of steps, CFG and noise step, all with the same "
            "noise, and lays one frame of each out with its settings.",
            search_aliases=["flashvideo", "xy plot", "xyz plot", "grid", "contact sheet", "parameters"],
            inputs=[
                model_input("stage2"),
                positive_input("stage2"),
                io.Latent.Input("latent", tooltip="One clip from Upscale and Encode, not degraded."),
                vae_input(),
                io.String.Input("steps", default="1, 2, 4", tooltip="Numbers of steps (NFE), one a column."),
                io.String.Input("cfg", default="7, 13", tooltip="Guidance scales, one a row."),
                io.String.Input(
                    "noise_step",
                    default=str(STAGE2["noise_step"].default),
                    tooltip="Noise steps, 0 to 999, a block of rows each. The published model was trained on 650 to "
                    "750.",
                ),
                seed_input("Seed of the degradation's noise, the same in every cell."),
                setting_input(
                    STAGE2["shift"],
                    tooltip="As on the Stage II Refiner: 2.5 the authors' run, 1 the paper's equal steps.",
                ),
                solver_input(advanced=True, optional=True),
                io.Int.Input(
                    "frame",
                    default=_MIDDLE,
                    min=_MIDDLE,
                    max=100000,
                    tooltip="Which frame is shown: 0 is the first, -1 the middle one. Later frames are not decoded.",
                    optional=True,
                ),
                io.Int.Input(
                    "cell_width",
                    default=480,
                    min=0,
                    max=8192,
                    step=16,
                    tooltip="Width of a cell in pixels; 0 keeps the full resolution.",
                    optional=True,
                ),
                negative_input(),
            ],
            outputs=[
                io.Image.Output(display_name="sheet", tooltip="The labelled contact sheet, one picture."),
                io.Latent.Output(
                    display_name="latents",
                    tooltip="The refined clips, row by row, as a batch: Pick Preview takes one.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, steps: Any = None, cfg: Any = None, noise_step: Any = None) -> bool:
        parse_cells(*("1" if text is None else text for text in (steps, cfg, noise_step)))  # None: linked
        return True

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent: dict[str, Any],
        vae: Any,
        steps: str,
        cfg: str,
        noise_step: str,
        seed: int,
        shift: float,
        solver: str = "euler",
        frame: int = _MIDDLE,
        cell_width: int = 480,
        negative: Any = None,
    ) -> io.NodeOutput:
        rows = parse_cells(steps, cfg, noise_step)
        require_stage(model, "stage2")
        require_unguided(model, *(cell.cfg for row in rows for cell in row))
        require_vae(vae)
        positive, negative = conditionings(model, positive, negative)
        frame = checked_frame(latent, frame)
        pictures: list[Tensor] = []
        latents: list[dict[str, Any]] = []
        total = sum(len(row) for row in rows)
        for number, cell in enumerate((cell for row in rows for cell in row), start=1):
            comfy.model_management.throw_exception_if_processing_interrupted()
            show_on_node(f"Cell {number} of {total}: {cell.label}")
            degraded = degraded_latent(latent, cell.noise_step, seed, model)
            refined = refined_latent(
                model, positive, degraded, cell.steps, shift, cell.cfg, solver=solver, negative=negative
            )
            image = decode_images(vae, refined, VaeLimits(), stop=frame + 1)[frame]
            pictures.append(labelled(image, cell.label, cell_width))
            latents.append(refined)
        lines = [torch.cat(pictures[i : i + len(rows[0])], dim=1) for i in range(0, total, len(rows[0]))]
        samples = torch.cat([refined["samples"] for refined in latents])
        return io.NodeOutput(torch.cat(lines)[None], {**latents[-1], "samples": samples})


def checked_frame(latent: dict[str, Any], frame: int) -> int:
    """The frame to show.

    Raises:
        ValueError: a latent that is degraded, a batch, or shorter than that.
    """
    samples = require_latents(latent)
    require_undegraded(latent)
    require_single(samples)
    count = true_frames(latent)
    return count // 2 if frame == _MIDDLE else require_index("frame", frame, count, "frames")


NODES = [ParameterGrid]
