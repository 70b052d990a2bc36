"""Sizes as people ask for them: by name, in pixels, or in terms of what is to be enlarged."""

from __future__ import annotations

import re

from ..method.checks import check_size, shortened
from ..tensors.sizes import SIZE_MULTIPLE

# name -> (height, width) in pixels: the nominal sizes floored to multiples of 16, as the authors run them
SIZES = {
    "270p": (256, 480),
    "540p": (528, 960),
    "720p": (720, 1280),
    "1080p": (1072, 1920),
    "2k": (1440, 2560),
    "4k": (2160, 3840),
}
FIXED_SIZES = f"{', '.join(SIZES)} or WIDTHxHEIGHT"
ANY_SIZE = f"{', '.join(SIZES)}, WIDTHxHEIGHT, x2 (or another factor), short=720 (the short side) or input"
MAX_SIDE = 16384  # that is offered


def parse_size(text: str) -> tuple[int, int]:
    """``1080p`` or ``WIDTHxHEIGHT`` -> (height, width) in pixels.

    Raises:
        ValueError: neither, or a size that is no multiple of 16.
    """
    if (size := _fixed(text)) is None:
        raise ValueError(f"size {shortened(text)}: expected {FIXED_SIZES}, for example 960x528.")
    return size


def target_size(text: str, height: int, width: int) -> tuple[int, int]:
    """(height, width) in pixels of what a picture of a size is to be brought to.

    Names follow the picture's orientation, ``WIDTHxHEIGHT`` is what it says; ``x2``, ``short=720`` and ``input`` keep
    the picture's shape, to the nearest multiples of 16.

    Args:
        text: any of :data:`ANY_SIZE`.
        height, width: of the picture.

    Raises:
        ValueError: none of them, or a size that is no multiple of 16.
    """
    name = text.lower().strip()
    if name in SIZES:
        return turned_like(SIZES[name], height, width)
    if (fixed := _fixed(text)) is not None:
        return fixed
    if match := re.fullmatch(r"[x×](\d{1,6}(?:\.\d{1,6})?)", name):
        return scaled_size(height, width, float(match[1]))
    if match := re.fullmatch(r"short=(\d{1,6})", name):
        return scaled_size(height, width, int(match[1]) / min(height, width))
    if name == "input":
        return scaled_size(height, width, 1)
    raise ValueError(f"size {shortened(text)}: expected {ANY_SIZE}.")


def turned_like(size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """A landscape (height, width), upright for an upright picture."""
    return (size[1], size[0]) if height > width else size


def scaled_size(height: int, width: int, factor: float) -> tuple[int, int]:
    """A picture's (height, width) times a factor, to the nearest multiples of 16.

    Raises:
        ValueError: a factor of 0.
    """
    if factor <= 0:
        raise ValueError("A size of 0 times the input: expected more than 0.")
    sides = (SIZE_MULTIPLE * max(1, round(side * factor / SIZE_MULTIPLE)) for side in (height, width))
    rows, columns = sides
    return rows, columns


def size_name(height: int, width: int) -> str:
    """What :func:`parse_size` reads as this size: its name, or ``WIDTHxHEIGHT``."""
    return next((name for name, size in SIZES.items() if size == (height, width)), f"{width}x{height}")


def _fixed(text: str) -> tuple[int, int] | None:
    """A size that does not depend on the picture; None for others."""
    if text.lower() in SIZES:
        return SIZES[text.lower()]
    if (match := re.fullmatch(r"(\d+)[xX×](\d+)", text.strip())) is None:
        return None
    width, height = int(match[1]), int(match[2])
    check_size(height, width)
    return height, width
