"""Cutting time into chunks and space into tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

ENCODE_FIRST_CHUNK = 17
ENCODE_CHUNK = 16


@dataclass(frozen=True)
class Region:
    """A rectangle of whole rows and columns: ``top <= row < bottom``, ``left <= column < right``."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def area(self) -> int:
        return self.height * self.width

    def scaled(self, factor: int) -> Region:
        """The same rectangle on a grid ``factor`` times as fine."""
        return Region(self.top * factor, self.bottom * factor, self.left * factor, self.right * factor)

    def grown(self, height: int, width: int) -> Region:
        """The rectangle with its halo of one, cut at the borders of a ``height`` by ``width`` plane."""
        return Region(
            max(self.top - 1, 0), min(self.bottom + 1, height), max(self.left - 1, 0), min(self.right + 1, width)
        )

    def coarse(self, factor: int) -> Region:
        """The smallest rectangle that covers this one on a grid ``factor`` times as coarse."""
        return Region(self.top // factor, -(-self.bottom // factor), self.left // factor, -(-self.right // factor))

    def split(self, height: int, width: int) -> Iterator[Region]:
        """Cut into tiles of at most ``height`` by ``width``, row by row."""
        for top in range(self.top, self.bottom, height):
            for left in range(self.left, self.right, width):
                yield Region(top, min(top + height, self.bottom), left, min(left + width, self.right))


def decode_chunks(latent_frames: int) -> list[int]:
    """Latent frames per decoded chunk: 3, 2, 2, … for an odd count, 2, 2, … for an even one, 1 for a single frame.

    The first chunk's first latent always becomes one frame, so a video has ``4 (T - 1) + 1`` frames for every T.
    """
    if latent_frames == 1:
        return [1]
    first = 2 + latent_frames % 2
    return [first] + [2] * ((latent_frames - first) // 2)


def encode_chunks(frames: int) -> list[int]:
    """Frames per encoded chunk: 17, 16, 16, … and what is left; ``frames`` is 4n + 1, so all but the first are 4k.

    Only the first chunk has an odd count, whose first frame is kept while the others are averaged in pairs.
    """
    chunks = [min(ENCODE_FIRST_CHUNK, frames)]
    while (left := frames - sum(chunks)) > 0:
        chunks.append(min(ENCODE_CHUNK, left))
    return chunks


def latent_frame_of(frame: int, frames: int, latent_frames: int, first_alone: bool) -> int:
    """Latent frame that conditions ``frame`` of a chunk: nearest, the first frame apart if it stands for one frame."""
    if not first_alone:
        return frame * latent_frames // frames
    return 0 if frame == 0 else 1 + (frame - 1) * (latent_frames - 1) // (frames - 1)
