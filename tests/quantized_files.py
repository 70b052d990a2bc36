"""Weights in few bits, made by plain formulas: what a file holds, and what it stands for."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
_NVFP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def note(config: dict[str, Any]) -> Tensor:
    """ComfyUI's ``comfy_quant``."""
    return torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)


def swizzled(scales: Tensor) -> Tensor:
    """``[R, C]`` bytes in cuBLAS's order for block scales, by its documentation's formula for one element."""
    rows, columns = scales.shape
    tiles = -(-columns // 4)
    out = torch.zeros(-(-rows // 128) * 128 * tiles * 4, dtype=scales.dtype)
    r, c = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    place = ((r // 128) * tiles + c // 4) * 512 + (r % 32) * 16 + (r % 128 // 32) * 4 + c % 4
    out[place.flatten()] = scales.flatten()
    return out.reshape(-1, tiles * 4)


def hadamard(size: int) -> Tensor:
    """The regular Hadamard matrix of a power of 4, element by element: the sign is that of every base-4 digit pair."""
    sign = torch.ones(size, size)
    r, c = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    while size > 1:
        sign = torch.where(r % 4 + c % 4 == 3, -sign, sign)
        r, c, size = r // 4, c // 4, size // 4
    return sign / len(sign) ** 0.5


def quantized(way: str, shape: tuple[int, int], seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """``{leaf: tensor}`` of a layer of random weights stored in one of :data:`WAYS`, and its fp32 weight."""
    generator = torch.Generator().manual_seed(seed)
    return WAYS[way](shape, generator)


def quantized_state(way: str, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A model's state with random weights in its layers' matrices: as a file holds it, and as it is."""
    stored, meant = dict(state), dict(state)
    for seed, name in enumerate(state):
        if ".layer" in f".{name}" and state[name].ndim == 2 and "bias" not in name:
            layer, meant[name] = quantized(way, tuple(state[name].shape), seed)
            del stored[name]
            stored |= {f"{name.removesuffix('weight')}{leaf}": tensor.clone() for leaf, tensor in layer.items()}
    return stored, meant


def _scaled(dtype: torch.dtype, scale_shape: Any, leaf: str, **beside: Tensor) -> Any:
    def make(shape: tuple[int, int], generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        rows, columns = shape
        whole = torch.randn(shape, generator=generator)
        codes = (whole * 40).round().clamp(-127, 127) if dtype == torch.int8 else (whole * 100).clamp(-448, 448)
        sizes = scale_shape(rows, columns)
        scale = torch.rand(sizes, generator=generator) / 1000 + 0.0001
        grid = scale.reshape(sizes[0] if sizes and scale.numel() > 1 else 1, -1)
        spread = (_side(rows, grid.shape[0]), _side(columns, grid.shape[1]))
        of_element = grid.repeat_interleave(spread[0], 0)[:rows].repeat_interleave(spread[1], 1)[:, :columns]
        return {"weight": codes.to(dtype), leaf: scale, **beside}, codes.to(dtype).float() * of_element

    return make


def _side(size: int, parts: int) -> int:
    return size // parts if parts in (1, size) else next(s for s in (16, 32, 64, 128) if -(-size // s) == parts)


def _blocks(side: int) -> Any:
    return lambda rows, columns: (-(-rows // side), -(-columns // side))


def _mxfp8(shape: tuple[int, int], generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    codes = (torch.randn(shape, generator=generator) * 100).clamp(-448, 448).to(FP8)
    exponents = torch.randint(108, 119, (shape[0], shape[1] // 32), generator=generator, dtype=torch.uint8)
    factor = torch.ldexp(torch.ones(exponents.shape), exponents.int() - 127)
    layer = {"weight": codes, "weight_scale": swizzled(exponents), "comfy_quant": note({"format": "mxfp8"})}
    return layer, codes.float() * factor.repeat_interleave(32, 1)


def _nvfp4(shape: tuple[int, int], generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    codes = torch.randint(0, 16, shape, generator=generator, dtype=torch.uint8)
    values = torch.tensor(_NVFP4)[(codes % 8).int()] * torch.where(codes < 8, 1.0, -1.0)
    scale = (torch.rand(shape[0], shape[1] // 16, generator=generator) * 8 + 0.5).to(FP8)
    whole = torch.tensor(0.00123)
    layer = {"weight": codes[:, ::2] * 16 + codes[:, 1::2], "weight_scale": swizzled(scale.view(torch.uint8)).view(FP8)}
    layer |= {"weight_scale_2": whole, "comfy_quant": note({"format": "nvfp4"})}
    return layer, values * (scale.float() * whole).repeat_interleave(16, 1)


def _rotated(shape: tuple[int, int], generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    layer, rotated = _scaled(torch.int8, lambda r, c: (r, 1), "weight_scale")(shape, generator)
    config = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 16}
    layer["comfy_quant"] = note(config)
    return layer, (rotated.reshape(shape[0], -1, 16) @ hadamard(16)).reshape(shape)


_E4M3, _INT8 = note({"format": "float8_e4m3fn"}), note({"format": "int8_tensorwise"})
WAYS: dict[str, Any] = {
    "one number": _scaled(FP8, lambda r, c: (), "weight_scale"),
    "one number in a list": _scaled(FP8, lambda r, c: (1,), "scale_weight"),
    "e5m2": _scaled(torch.float8_e5m2, lambda r, c: (1, 1), "weight_scale"),
    "comfy_quant": _scaled(FP8, lambda r, c: (), "weight_scale", comfy_quant=_E4M3, input_scale=torch.ones(())),
    "scale_input": _scaled(FP8, lambda r, c: (), "scale_weight", scale_input=torch.full((1,), 0.3)),
    "rows in a list": _scaled(FP8, lambda r, c: (r,), "weight_scale"),
    "rows": _scaled(FP8, lambda r, c: (r, 1), "weight_scale"),
    "blocks of 128": _scaled(FP8, _blocks(128), "weight_scale_inv"),
    "blocks of 64": _scaled(FP8, _blocks(64), "weight_scale"),
    "groups of 64": _scaled(FP8, lambda r, c: (r, -(-c // 64), 1), "scale_weight"),
    "int8": _scaled(torch.int8, lambda r, c: (), "weight_scale", comfy_quant=_INT8),
    "int8 rows": _scaled(torch.int8, lambda r, c: (r, 1), "weight_scale"),
    "int8 rotated": _rotated,
    "mxfp8": _mxfp8,
    "nvfp4": _nvfp4,
}
