"""The authors' own tiling, kept for comparison: two halves of the width that overlap and are cropped, never blended."""

from __future__ import annotations

from dataclasses import dataclass

OVERLAP = 16


@dataclass(frozen=True)
class Panel:
    """Latent columns ``left:right`` are decoded alone; of the result, the frame's columns ``keep`` are shown."""

    left: int
    right: int
    keep: tuple[int, int]


def whole_frame(width: int) -> list[Panel]:
    """The one panel of an exact decode."""
    return [Panel(0, width, (0, width))]


def authors_panels(width: int) -> list[Panel]:
    """Their two panels for ``width`` latents: each reaches 16 latents past the middle, or not at all.

    A panel is extended only if its whole extension lies within the frame, so frames narrower than 31 latents show two
    decodes that know nothing of each other.
    """
    middle = width // 2
    if middle == 0:
        return whole_frame(width)
    first_end = middle + OVERLAP if middle + OVERLAP <= width else middle
    second_start = middle - OVERLAP if middle - OVERLAP >= 0 else middle
    return [Panel(0, first_end, (0, middle)), Panel(second_start, width, (middle, width))]


def authors_frames(latent_frames: int) -> int:
    """Latent frames that their decode uses: an even count above 2 loses its last one."""
    return latent_frames if latent_frames <= 2 else latent_frames - 1 + latent_frames % 2
