"""The geometry of videos: the resize between Stage I and Stage II, side-by-side comparison, contact sheets."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tensors.checks import check_video

RESIZE_MODES = ("stretch", "crop", "pad")


def resize_video(video: Tensor, height: int, width: int, *, mode: str = "stretch") -> Tensor:
    """Resize every frame, bilinear with antialiasing, in fp32.

    The authors stretch 256x480 to 1072x1920, so ``stretch`` is what Stage II was trained on; the others keep the
    aspect ratio.

    Args:
        video: ``[B, 3, F, h, w]`` in 0..1.
        height: wanted height in pixels.
        width: wanted width in pixels.
        mode: ``stretch`` fills the size exactly, ``crop`` covers it and cuts the overhang evenly from both sides,
            ``pad`` fits into it and repeats the edge pixels around.

    Returns:
        ``[B, 3, F, H, W]`` fp32 on the video's device, always a new tensor.

    Raises:
        ValueError: another shape, a size below one pixel, an unknown mode.
    """
    check_video("video", video)
    if height < 1 or width < 1:
        raise ValueError(f"the size to resize to is {height}x{width}; expected at least one pixel each way.")
    if mode not in RESIZE_MODES:
        raise ValueError(f"resize mode {mode!r}; expected one of {', '.join(RESIZE_MODES)}.")
    batch, channels, frames = video.shape[:3]
    resized = torch.empty(batch, channels, frames, height, width, dtype=torch.float32, device=video.device)
    for index in range(frames):
        resized[:, :, index] = _resize_frame(video[:, :, index].float(), height, width, mode)
    return resized


def _resize_frame(frame: Tensor, height: int, width: int, mode: str) -> Tensor:
    """``[B, 3, h, w]`` fp32 -> ``[B, 3, height, width]``."""
    inner_height, inner_width = resized_size(frame.shape[2], frame.shape[3], height, width, mode)
    frame = F.interpolate(frame, size=(inner_height, inner_width), mode="bilinear", align_corners=False, antialias=True)
    if mode == "crop":
        top, left = (inner_height - height) // 2, (inner_width - width) // 2
        return frame[:, :, top : top + height, left : left + width]
    if mode == "pad":
        top, left = (height - inner_height) // 2, (width - inner_width) // 2
        return F.pad(frame, (left, width - inner_width - left, top, height - inner_height - top), mode="replicate")
    return frame


def resized_size(h: int, w: int, height: int, width: int, mode: str) -> tuple[int, int]:
    """Size of a whole ``h`` x ``w`` picture after scaling: it covers, fits into or equals the wanted size."""
    if mode == "crop":
        scale = max(height / h, width / w)
        return max(height, round(h * scale)), max(width, round(w * scale))
    if mode == "pad":
        scale = min(height / h, width / w)
        return min(height, max(1, round(h * scale))), min(width, max(1, round(w * scale)))
    return height, width


def stretching(h: int, w: int, height: int, width: int) -> float:
    """How much longer one side becomes than the other when ``h`` x ``w`` fills ``height`` x ``width``; at least 1."""
    ratio = (width / w) / (height / h)
    return max(ratio, 1 / ratio)


def resize_words(h: int, w: int, height: int, width: int, mode: str) -> str:
    """What :func:`resize_video` does to a picture's shape, as a sentence: what is stretched, cut off or added."""
    inner_height, inner_width = resized_size(h, w, height, width, mode)
    side = "width" if width * h > height * w else "height"
    what = f"{w}x{h} becomes {width}x{height}"
    if mode == "stretch":
        percent = 100 * (stretching(h, w, height, width) - 1)
        return f"{what}, stretched by {percent:.0f} % in {side}." if round(percent) else f"{what}."
    percent = 100 * (1 - min(height, inner_height) / max(height, inner_height))
    percent = percent or 100 * (1 - min(width, inner_width) / max(width, inner_width))
    if not round(percent):
        return f"{what}."
    if mode == "crop":
        return (
            f"{what}: {percent:.0f} % of its {'height' if side == 'width' else 'width'} are cut off, half on each side."
        )
    return f"{what}: {percent:.0f} % of the {side} are borders, half on each side."


def side_by_side(left: Tensor, right: Tensor) -> Tensor:
    """Join two videos ``[1, 3, F, H, W]`` along the width; ``left`` takes the height of ``right``, bicubic.

    The result's width is even whenever that of ``right`` is.

    Raises:
        ValueError: other shapes, or different numbers of frames.
    """
    left, right = as_clip(left), as_clip(right)
    if left.shape[1] != right.shape[1]:
        raise ValueError(
            f"the left video has {left.shape[1]} frames and the right one {right.shape[1]}; expected as many."
        )
    height = right.shape[2]
    width = max(2, 2 * round(left.shape[3] * height / left.shape[2] / 2))
    joined = torch.empty(1, 3, right.shape[1], height, width + right.shape[3])
    for index in range(right.shape[1]):
        joined[0, :, index, :, :width] = _scale(left[:, index], height, width)
        joined[0, :, index, :, width:] = right[:, index]
    return joined


def contact_sheet(video: Tensor, columns: int, *, count: int | None = None, tile_width: int | None = None) -> Tensor:
    """Lay frames out in a grid, row by row; cells left over are black.

    Args:
        video: ``[1, 3, F, H, W]`` or ``[3, F, H, W]`` in 0..1.
        columns: frames in a row.
        count: so many frames, evenly spread from the first to the last; None takes all.
        tile_width: width of a frame in the sheet, in pixels; None keeps it.

    Returns:
        ``[3, rows * h, columns * w]`` fp32 in 0..1.
    """
    clip = as_clip(video)
    total = clip.shape[1]
    count = total if count is None else min(count, total)
    if columns < 1 or count < 1:
        raise ValueError(f"{columns} columns of {count} frames; expected at least one of each.")
    height, width = clip.shape[2:]
    if tile_width is not None:
        height, width = max(1, round(height * tile_width / width)), tile_width
    sheet = torch.zeros(3, math.ceil(count / columns) * height, columns * width)
    for cell in range(count):
        frame = clip[:, round(cell * (total - 1) / max(1, count - 1))]
        top, left = cell // columns * height, cell % columns * width
        sheet[:, top : top + height, left : left + width] = _scale(frame, height, width)
    return sheet


def as_clip(video: Tensor) -> Tensor:
    """``[1, 3, F, H, W]`` or ``[3, F, H, W]`` -> ``[3, F, H, W]``."""
    check_video("video", video, "[1, 3, F, H, W]", "[3, F, H, W]")
    return video[0] if video.ndim == 5 else video


def _scale(frame: Tensor, height: int, width: int) -> Tensor:
    """``[3, h, w]`` -> ``[3, height, width]`` fp32 on the CPU, bicubic; unchanged at equal size."""
    frame = frame.detach().to("cpu", torch.float32)
    if frame.shape[1:] == (height, width):
        return frame
    scaled = F.interpolate(frame[None], size=(height, width), mode="bicubic", align_corners=False, antialias=True)
    return scaled[0].clamp_(0, 1)
