"""3D positions on plain integers (paper section 3.3): no interpolation, no scaling with the size.

Rotary ones, which FlashVideo has, and sinusoids added to the tokens, which the paper compares them with.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROPE_BASE = 10000.0


def rope_axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Channels of a head given to time, height and width: 16, 24, 24 of 64."""
    time, space = head_dim // 4, 3 * head_dim // 8
    if time + 2 * space != head_dim or time % 2 or space % 2:
        raise ValueError(
            f"attention_head_dim {head_dim} cannot be split into time/height/width parts of 1/4, 3/8, 3/8 with even "
            "sizes: use a multiple of 16."
        )
    return time, space, space


def rotary_table(frames: int, height: int, width: int, head_dim: int, device: torch.device | str = "cpu") -> Tensor:
    """Angles' cosines and sines for a grid of tokens ordered t, h, w.

    Args:
        frames, height, width: the grid in latent patches.
        head_dim: channels of one attention head.

    Returns:
        ``[2, frames * height * width, head_dim // 2]`` fp32: cosines, then sines, one per channel pair.
        Computed in double precision on the CPU (some devices have none), then moved.
    """
    angles = []
    for axis, (size, dim) in enumerate(zip((frames, height, width), rope_axis_dims(head_dim), strict=True)):
        frequencies = ROPE_BASE ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        shape = [1, 1, 1, -1]
        shape[axis] = size
        grid = torch.outer(torch.arange(size, dtype=torch.float64), frequencies).view(shape)
        angles.append(grid.expand(frames, height, width, -1))
    table = torch.cat(angles, dim=-1).flatten(0, 2)
    pairs = torch.stack((table.cos(), table.sin()), dim=-1).float().to(device)
    return pairs.movedim(-1, 0)  # cosine and sine lie side by side, so that the table is a complex number too


def no_rotation(frames: int, height: int, width: int, head_dim: int, device: torch.device | str = "cpu") -> Tensor:
    """A :func:`rotary_table` that turns nothing, for models whose positions are added."""
    pairs = torch.zeros(frames * height * width, head_dim // 2, 2, device=device)
    pairs[..., 0] = 1
    return pairs.movedim(-1, 0)


def sinusoidal_table(frames: int, height: int, width: int, dim: int) -> Tensor:
    """CogVideoX-2B's absolute positions, to be added to tokens ordered t, h, w.

    Args:
        frames, height, width: the grid in latent patches.
        dim: width of a token, split among the axes as a head's channels are for rotary positions.

    Returns:
        ``[frames * height * width, dim]`` fp32 on the CPU: of time, width and height, sines and then cosines.
    """
    grid, parts = (frames, height, width), []
    time, space, _ = rope_axis_dims(dim)
    for axis, channels in ((0, time), (2, space), (1, space)):
        frequencies = ROPE_BASE ** (-torch.arange(0, channels, 2, dtype=torch.float64) / channels)
        angles = torch.outer(torch.arange(grid[axis], dtype=torch.float64), frequencies)
        shape = [1, 1, 1, -1]
        shape[axis] = grid[axis]
        parts.append(torch.cat((angles.sin(), angles.cos()), dim=-1).view(shape).expand(*grid, -1))
    return torch.cat(parts, dim=-1).flatten(0, 2).float()


def rotate(x: Tensor, table: Tensor, out: Tensor | None = None) -> Tensor:
    """Rotate channel pairs (2i, 2i+1) of ``x`` ``[B, N, heads, head_dim]`` by a :func:`rotary_table` of N tokens.

    Angles and products are in fp32. ``out`` shares no memory with ``x``; autograd cannot follow there.
    """
    pairs = x.unflatten(-1, (-1, 2))
    if out is None:
        (even, odd), (cos, sin) = pairs.float().unbind(-1), table[:, None, :, None]
        return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2).to(x.dtype)
    (_turn_complex if x.device.type == "cpu" else _turn)(pairs, table, out.unflatten(-1, (-1, 2)))
    return out


def _turn(pairs: Tensor, table: Tensor, out: Tensor) -> None:
    """Rotate ``pairs`` ``[B, N, heads, head_dim // 2, 2]`` in three passes, without anything held beside them."""
    cos, sin = table[:, :, None]
    torch.mul(pairs, cos[..., None], out=out)
    out[..., 0].addcmul_(pairs[..., 1], sin, value=-1)
    out[..., 1].addcmul_(pairs[..., 0], sin)


def _turn_complex(pairs: Tensor, table: Tensor, out: Tensor) -> None:
    """The same as a product of complex numbers: one pass over the memory in fp32."""
    values, turns = torch.view_as_complex(pairs.float()), torch.view_as_complex(table.movedim(0, -1))[:, None]
    if out.dtype == torch.float32:
        torch.mul(values, turns, out=torch.view_as_complex(out))
    else:
        out.copy_(torch.view_as_real(values.mul_(turns)))
