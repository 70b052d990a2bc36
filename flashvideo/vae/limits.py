"""What a decode or an encode may use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

Size = tuple[int, int]
Tile = int | Size | bool | None
Device = torch.device | str | None


@dataclass(frozen=True)
class Limits:
    """What a decode or an encode may use. It changes memory and time, never the result.

    Attributes:
        tile: rows and columns of a tile in latents, an int or a pair; False is untiled, None chooses from the budget.
        memory_budget: bytes on the computing device beside the weights; None is what is free there, less a margin.
        host_budget: bytes of host memory for waiting activations; None is what is free, less a margin. More goes to a
            file.
        scratch: folder for that file; None is the system's temporary folder.
        device: where to compute; None is where the weights are.

    Raises:
        ValueError: a tile or a budget that means nothing, or a folder that does not exist.
    """

    tile: Tile = None
    memory_budget: float | None = None
    host_budget: float | None = None
    scratch: str | os.PathLike[str] | None = None
    device: Device = None

    def __post_init__(self) -> None:
        _check_tile(self.tile)
        _check_budget("memory_budget", self.memory_budget)
        _check_budget("host_budget", self.host_budget)
        if self.scratch is not None and not Path(self.scratch).is_dir():
            raise ValueError(f"the scratch folder {self.scratch} does not exist. Make it, or leave scratch out.")

    @property
    def tile_size(self) -> Size | bool | None:
        """``tile`` as (rows, columns), False or None."""
        if isinstance(self.tile, int) and not isinstance(self.tile, bool):
            return self.tile, self.tile
        return self.tile


def _check_tile(tile: Tile) -> None:
    if tile is None or tile is False:
        return
    pair = (tile, tile) if isinstance(tile, int) and tile is not True else tile
    if not isinstance(pair, tuple | list) or len(pair) != 2 or any(type(side) is not int for side in pair):
        raise ValueError(f"tile is {tile!r}; expected latents as an int or (rows, columns), False or None.")
    if min(pair) < 1:
        raise ValueError(f"tile is {tile!r}; expected at least one latent each way.")


def _check_budget(name: str, value: float | None) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"{name} is {value!r}; expected bytes, a positive number such as 6e9, or None.")


UNLIMITED = Limits()
"""Whatever is free."""
