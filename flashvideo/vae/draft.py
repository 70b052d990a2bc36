"""A tiny decoder of CogVideoX's latents, for a quick look: TAECVX, as github.com/madebyollin/taehv publishes it.

It is causal in time, knows nothing of chunks and tiles, and computes frame by frame: its memory does not grow with the
length of a video. What it shows is close to what the VAE decodes, and never the same.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tensors.checks import check_latents
from ..tensors.sizes import LATENT_CHANNELS, TEMPORAL_FACTOR

_WIDTHS = (256, 128, 64, 64)  # of the levels, coarse to fine
_FRAMES = (1, 2, 2)  # that each level makes of one
_EARLY = TEMPORAL_FACTOR - 1  # frames made of the first latent that lie before the video


class _SoftClamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class _MemoryBlock(nn.Module):
    """A residual block that sees its input of the frame before, too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width)
        )

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        return F.relu(self.conv(torch.cat((x, before), dim=1)) + x)


class _MoreFrames(nn.Module):
    """Several frames of one, as channels."""

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.conv = nn.Conv2d(width, width * frames, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        frames: Tensor = self.conv(x)
        return frames


class DraftDecoder(nn.Module):
    """Latents in VAE space to frames in 0..1. The names of its parameters are those of the published file."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_SoftClamp(), _conv(LATENT_CHANNELS, _WIDTHS[0]), nn.ReLU()]
        for width, narrower, frames in zip(_WIDTHS[:-1], _WIDTHS[1:], _FRAMES, strict=True):
            layers += [_MemoryBlock(width) for _ in range(3)]
            layers += [nn.Upsample(scale_factor=2), _MoreFrames(width, frames), _conv(width, narrower, bias=False)]
        self.decoder = nn.Sequential(*layers, nn.ReLU(), _conv(_WIDTHS[-1], 3))

    def frames_of(self, latent: Tensor, memory: dict[int, Tensor]) -> Iterator[Tensor]:
        """The four frames ``[B, 3, 8h, 8w]`` of a latent ``[B, 16, h, w]``.

        Args:
            memory: what the latents before left behind, empty at first; it is written to.
        """
        return self._from_layer(0, latent, memory)

    def _from_layer(self, first: int, x: Tensor, memory: dict[int, Tensor]) -> Iterator[Tensor]:
        for number in range(first, len(self.decoder)):
            layer = self.decoder[number]
            if isinstance(layer, _MemoryBlock):
                before = memory.get(number)
                memory[number] = x
                x = layer(x, torch.zeros_like(x) if before is None else before)
            elif isinstance(layer, _MoreFrames):
                for frame in layer(x).chunk(layer.frames, dim=1):
                    yield from self._from_layer(number + 1, frame, memory)
                return
            else:
                x = layer(x)
        yield x.clamp(0, 1)


def _conv(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def decode_draft(
    decoder: DraftDecoder, latents: Tensor, callback: Callable[[int, int, Any], None] | None = None
) -> Generator[Tensor, None, None]:
    """Decode latents, one after the other.

    Args:
        latents: ``[B, 16, T, h, w]`` in VAE space.
        callback: ``callback(latents done, T, their frames)``.

    Yields:
        ``[B, 3, f, 8h, 8w]`` fp32 on the CPU, in 0..1: one frame first, then four at a time.

    Raises:
        ValueError: latents of another shape, at once.
    """
    check_latents("latents", latents, even=False)
    return _decoded(decoder, latents, callback)


def _decoded(
    decoder: DraftDecoder, latents: Tensor, callback: Callable[[int, int, Any], None] | None
) -> Generator[Tensor, None, None]:
    weight, memory = next(decoder.parameters()), dict[int, Tensor]()
    for number, latent in enumerate(latents.unbind(dim=2)):
        with torch.no_grad():
            made = [frame.float().cpu() for frame in decoder.frames_of(latent.to(weight), memory)]
        frames = torch.stack(made[_EARLY:] if number == 0 else made, dim=2)
        if callback is not None:
            callback(number + 1, latents.shape[2], frames)
        yield frames
