"""Scores over time as a picture that can be read at the size of a node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

WIDTH = 960
_PANEL, _HEAD, _FOOT, _LEFT, _RIGHT = 170, 60, 44, 110, 24  # pixels
_TITLE, _TICK = 28, 23
_BACKGROUND, _INK, _FAINT, _GRID, _LINE = (24, 24, 24), (235, 235, 235), (160, 160, 160), (64, 64, 64), (102, 204, 255)
_TITLES = {  # series -> what is drawn, and the index that is made of it
    "sharpness": "finest detail in levels: sharpness {sharpness}",
    "likeness": "likeness {likeness}",
    "colour": "colour shift in levels: drift {drift}",
    "flicker": "flicker {flicker}",
    "change": "change between frames in levels",
    "psnr": "PSNR {psnr}",
    "ssim": "SSIM {ssim}",
}
_FORMS = {  # as on the node
    "sharpness": "{:.2f}",
    "likeness": "{:.1f} dB",
    "drift": "{:.2f} levels",
    "flicker": "{:.2f} levels",
    "seam": "{:.2f} levels",
    "pulse": "{:.1%}",
    "psnr": "{:.2f} dB",
    "ssim": "{:.4f}",
}
_SPANS = {"likeness": 3.0, "psnr": 3.0, "ssim": 0.05}  # the least that an axis spans; of others from 0 to 1

Values = Sequence[float | None]


def score_plot(scores: dict[str, Any]) -> Tensor:
    """What ``Scores.to_dict`` gives as ``[1, H, W, 3]`` in 0..1: a panel for each number over time, its index above."""
    series = dict(scores["series"])
    seconds = series.pop("seconds")
    picture = Image.new("RGB", (WIDTH, _HEAD + _PANEL * len(series) + _FOOT), _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    draw.text((_LEFT, _HEAD / 2), _heading(scores), fill=_INK, font=_font(_TITLE), anchor="lm")
    indices = {name: _number(name, value) for name, value in scores.items() if isinstance(value, float | None)}
    for number, (name, values) in enumerate(series.items()):
        title = _TITLES.get(name, f"{name} {{{name}}}").format_map(indices)
        _panel(draw, _HEAD + number * _PANEL, title, seconds, values, _axis(name, values))
    bottom = picture.height - _FOOT / 2
    for x, second, anchor in ((_LEFT, seconds[0], "lm"), (WIDTH - _RIGHT, seconds[-1], "rm")):
        draw.text((x, bottom), f"{second:.1f} s", fill=_FAINT, font=_font(_TICK), anchor=anchor)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.view(1, picture.height, WIDTH, 3).float() / 255


def _font(size: float) -> Any:
    return ImageFont.load_default(size)


def _number(name: str, value: float | None) -> str:
    return "-" if value is None else _FORMS.get(name, "{:.3g}").format(value).replace("%", " %")


def _heading(scores: dict[str, Any]) -> str:
    video = scores["video"]
    numbers = "   ".join(f"{name} {_number(name, scores[name])}" for name in ("seam", "pulse"))
    return f"{video['width']}x{video['height']}, {video['frames']} frame{'s' * (video['frames'] != 1)}   {numbers}"


def _axis(name: str, values: Values) -> tuple[float, float]:
    """Least and largest value of a panel, so far apart that what does not matter looks like nothing."""
    known = [value for value in values if value is not None]
    least, most = min(known), max(known)
    if name not in _SPANS:
        return min(least, 0.0), max(most, 1.0)
    return min(least, most - _SPANS[name]), most


def _panel(
    draw: ImageDraw.ImageDraw,
    top: int,
    title: str,
    seconds: Sequence[float],
    values: Values,
    axis: tuple[float, float],
) -> None:
    """The curve of one series, with the ends of its axis at the side."""
    left, right, upper, lower = _LEFT, WIDTH - _RIGHT, top + 44, top + _PANEL - 14
    draw.text((left, top + 20), title, fill=_INK, font=_font(_TITLE), anchor="lm")
    least, most = axis
    length = (seconds[-1] - seconds[0]) or 1.0
    for edge, end in ((upper, most), (lower, least)):
        draw.line((left, edge, right, edge), fill=_GRID)
        draw.text((left - 10, edge), f"{end:.3g}", fill=_FAINT, font=_font(_TICK), anchor="rm")
    run: list[tuple[float, float]] = []
    for second, value in [*zip(seconds, values, strict=True), (0.0, None)]:
        if value is not None:
            x = left + (right - left) * (second - seconds[0]) / length
            run.append((x, lower - (lower - upper) * (value - least) / (most - least)))
            continue
        if len(run) > 1:
            draw.line(run, fill=_LINE, width=3, joint="curve")
        elif run:
            (x, y) = run[0]
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_LINE)
        run = []
