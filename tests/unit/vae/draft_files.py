"""Files of random weights in the published draft decoder's layout."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

WIDTHS = (256, 128, 64)
SHAPES = {
    "decoder.1.weight": (256, 16, 3, 3),
    "decoder.1.bias": (256,),
    **{
        f"decoder.{first + block}.conv.{layer}.{kind}": shape
        for first, width in zip((3, 9, 15), WIDTHS, strict=True)
        for block in range(3)
        for layer in (0, 2, 4)
        for kind, shape in (("weight", (width, (2 if layer == 0 else 1) * width, 3, 3)), ("bias", (width,)))
    },
    "decoder.7.conv.weight": (256, 256, 1, 1),
    "decoder.8.weight": (128, 256, 3, 3),
    "decoder.13.conv.weight": (256, 128, 1, 1),
    "decoder.14.weight": (64, 128, 3, 3),
    "decoder.19.conv.weight": (128, 64, 1, 1),
    "decoder.20.weight": (64, 64, 3, 3),
    "decoder.22.weight": (3, 64, 3, 3),
    "decoder.22.bias": (3,),
}


def random_decoder() -> dict[str, Tensor]:
    """Weights that keep pictures between black and white, and an entry of the encoder."""
    generator = torch.Generator().manual_seed(0)

    def draw(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator) / max(1, torch.Size(shape[1:]).numel()) ** 0.5

    state = {name: draw(shape) for name, shape in SHAPES.items()}
    return {**state, "decoder.22.bias": torch.full((3,), 0.5), "encoder.0.bias": torch.zeros(64)}


def save_decoder(path: Path, **changes: Tensor) -> Path:
    """As ``.safetensors``, or as torch saves it."""
    state = random_decoder() | changes
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path
