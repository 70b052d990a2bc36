"""Attention in windows of the frame: cost that grows with the video instead of with its square.

A query sees the tokens of its own window in all frames, all text and, if asked, keys and values pooled over the whole
frame; queries of text see everything. Positions stay those of the whole frame. Windows tile the frame; one that would
reach over its border is moved inwards, so that all are of one size, and each token is computed by one window alone, its
owner. On odd layers the tiling is shifted by half a window, so that no border stays where it is.

What belongs to a window is gathered, so that the ordinary attention function works on a dense batch: no masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import AttentionFunction

# Keys that are gathered at a time, whole windows of them: bounds the copies beside q, k and v.
KEYS_ON_CPU = 8192
KEYS_ELSEWHERE = 16384


@dataclass(frozen=True)
class AttentionWindows:
    """Windows of the frame that the transformer's attention is confined to.

    Args:
        height, width: of a window, in latents (8 pixels), multiples of the transformer's patch size. As large as the
            frame or larger: that axis is not cut; both: full attention, the same bytes.
        shift: move the windows by half of their size on odd layers.
        pooled: queries also see the keys and values of the whole frame, averaged over ``pooled`` x ``pooled`` patches;
            0 pools nothing.

    Raises:
        ValueError: sizes that are no positive whole numbers.
    """

    height: int
    width: int
    shift: bool = True
    pooled: int = 0

    def __post_init__(self) -> None:
        for name, least in (("height", 1), ("width", 1), ("pooled", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                unit = "patches" if name == "pooled" else "latents"
                raise ValueError(
                    f"AttentionWindows: {name} is {value!r}; expected a whole number of {unit}, {least} or more."
                )

    def patches(self, patch_size: int) -> tuple[int, int]:
        """(height, width) in patches.

        Raises:
            ValueError: sizes that are no multiples of the patch size.
        """
        if self.height % patch_size or self.width % patch_size:
            raise ValueError(
                f"Attention windows are {self.height}x{self.width} latents; expected multiples of {patch_size}, the "
                f"transformer's patch size: for example {_above(self.height, patch_size)}x"
                f"{_above(self.width, patch_size)}."
            )
        return self.height // patch_size, self.width // patch_size


def _above(size: int, step: int) -> int:
    return -(-size // step) * step


@dataclass(frozen=True)
class _Span:
    """A window along one axis: where it begins, and what it owns."""

    start: int
    first: int
    stop: int

    @property
    def owned(self) -> int:
        return self.stop - self.first


def _spans(size: int, window: int, shifted: bool) -> list[_Span]:
    """Windows along an axis of ``size``, each ``min(window, size)`` long."""
    if window >= size:
        return [_Span(0, 0, size)]
    begin = window // 2 - window if shifted and window > 1 else 0
    return [
        _Span(min(max(start, 0), size - window), max(start, 0), min(start + window, size))
        for start in range(begin, size, window)
    ]


@dataclass(frozen=True)
class WindowGroup:
    """Windows that own equally many tokens, as numbers of video tokens.

    Attributes:
        queries: ``[n, owned tokens]``.
        keys: ``[n, tokens of a window]``.
    """

    queries: Tensor
    keys: Tensor


@dataclass(frozen=True)
class WindowPattern:
    """What attends to what in a layer, for a grid of ``frames``, ``height``, ``width`` tokens."""

    grid: tuple[int, int, int]
    pooled: int
    groups: tuple[WindowGroup, ...]


def window_pattern(
    windows: AttentionWindows, grid: tuple[int, int, int], patch_size: int, *, odd: bool, device: Any = None
) -> WindowPattern | None:
    """The pattern of a layer; ``None`` where a window covers the frame.

    Args:
        grid: ``(T, H, W)`` in patches.
        odd: of an odd layer, where windows are shifted.
        device: where the indices lie.
    """
    frames, height, width = grid
    rows, columns = windows.patches(patch_size)
    if rows >= height and columns >= width:
        return None
    shifted = windows.shift and odd
    time = torch.arange(frames, device=device).view(1, -1, 1, 1) * (height * width)
    parts = [
        [
            (_offsets(several, "first", owned, device), _offsets(several, "start", min(window, size), device))
            for owned, several in _alike(_spans(size, window, shifted))
        ]
        for size, window in ((height, rows), (width, columns))
    ]

    def tokens(y: Tensor, x: Tensor) -> Tensor:
        """All pairs of windows along y ``[n, h]`` and along x ``[m, w]``: ``[n * m, T * h * w]``."""
        lines = (y * width)[:, None, :, None] + x[None, :, None, :]  # [n, m, h, w]
        return (time + lines.flatten(0, 1)[:, None]).flatten(1)

    groups = tuple(WindowGroup(tokens(yq, xq), tokens(yk, xk)) for (yq, yk), (xq, xk) in product(*parts))
    return WindowPattern(grid, windows.pooled, groups)


def _alike(spans: list[_Span]) -> Iterator[tuple[int, list[_Span]]]:
    """Windows that own equally much, together."""
    for owned, several in groupby(sorted(spans, key=lambda span: span.owned), key=lambda span: span.owned):
        yield owned, list(several)


def _offsets(spans: list[_Span], field: str, length: int, device: Any) -> Tensor:
    """``[n, length]``: the places from each span's ``field`` on."""
    starts = torch.tensor([getattr(span, field) for span in spans], device=device)
    return starts[:, None] + torch.arange(length, device=device)


def windowed_attention(
    attend: AttentionFunction,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    pattern: WindowPattern,
    text_length: int,
    /,
    **options: Any,
) -> Tensor:
    """Attention in windows; text tokens come first.

    Args:
        attend: ``attend(q, k, v, heads, **options)`` on ``[B, heads, S, head_dim]`` -> ``[B, S, heads * head_dim]``.
        q, k, v: ``[B, S, heads, head_dim]``.
        pattern: of the layer.
        text_length: how many of the tokens are text.

    Returns:
        ``[B, S, heads * head_dim]``.
    """

    def attended(*parts: Tensor) -> Tensor:
        return attend(*(part.transpose(1, 2) for part in parts), heads, **options)

    out = q.new_empty(*q.shape[:2], heads * v.shape[3])
    out[:, :text_length] = attended(q[:, :text_length], k, v)
    q, out_video = q[:, text_length:], out[:, text_length:]
    everywhere = [_seen_everywhere(part, pattern, text_length) for part in (k, v)]
    k, v = k[:, text_length:], v[:, text_length:]
    limit = KEYS_ON_CPU if q.device.type == "cpu" else KEYS_ELSEWHERE
    for group in pattern.groups:
        at_once = _at_once(limit, len(q), group.keys.shape[1] + everywhere[0].shape[1])
        for queries, keys in zip(group.queries.split(at_once), group.keys.split(at_once), strict=True):
            seen = [_with(_gathered(part, keys), common) for part, common in zip((k, v), everywhere, strict=True)]
            mixed = attended(_gathered(q, queries), *seen)
            del seen
            out_video[:, queries.flatten()] = mixed.unflatten(0, (len(q), -1)).flatten(1, 2)
            del mixed  # or the next windows' would be made beside it
    return out


def _at_once(limit: int, batch: int, keys: int) -> int:
    """Windows."""
    return max(1, limit // (batch * keys))


def gathered_tokens(
    windows: AttentionWindows, grid: tuple[int, int, int], patch_size: int, text_length: int, batch: int
) -> int:
    """Tokens, of all samples, whose q, k, v or result :func:`windowed_attention` holds at a time on a GPU at most.

    Twice the keys of the windows that go at a time, and twice their queries, or three times the keys; 0 where a window
    covers the frame.
    """
    frames, height, width = grid
    rows, columns = (min(*pair) for pair in zip(windows.patches(patch_size), (height, width), strict=True))
    if (rows, columns) == (height, width):
        return 0
    size = windows.pooled
    pooled = -(-height // size) * -(-width // size) if size else 0
    keys = text_length + frames * (rows * columns + pooled)
    at_once = batch * _at_once(KEYS_ELSEWHERE, batch, keys)
    return at_once * max(3 * keys, 2 * keys + 2 * frames * rows * columns)


def _gathered(x: Tensor, tokens: Tensor) -> Tensor:
    """``x`` ``[B, N, heads, head_dim]`` at ``tokens`` ``[n, S]`` -> ``[B * n, S, heads, head_dim]``."""
    return x[:, tokens].flatten(0, 1)


def _with(x: Tensor, common: Tensor) -> Tensor:
    """``x`` ``[B * n, S, ...]`` and behind it, for each of the n, ``common`` ``[B, P, ...]``."""
    count = len(x) // len(common)
    return torch.cat((x, common[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)), dim=1)


def _seen_everywhere(x: Tensor, pattern: WindowPattern, text_length: int) -> Tensor:
    """Keys or values that every window sees: the text's, and the whole frame's pooled ones."""
    text = x[:, :text_length]
    if not pattern.pooled:
        return text
    pooled = torch.stack([_pooled(sample, pattern) for sample in x[:, text_length:]])
    return torch.cat((text, pooled), dim=1)


def _pooled(x: Tensor, pattern: WindowPattern) -> Tensor:
    """Means over squares of a frame: ``[N, heads, head_dim]`` -> ``[P, heads, head_dim]``."""
    frames = x.unflatten(0, pattern.grid).flatten(3).permute(0, 3, 1, 2)  # [T, channels, H, W]
    means = F.avg_pool2d(frames, pattern.pooled, ceil_mode=True, count_include_pad=False)
    return means.permute(0, 2, 3, 1).flatten(0, 2).unflatten(1, x.shape[1:])
