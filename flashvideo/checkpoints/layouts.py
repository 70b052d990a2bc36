"""How the transformer's parameters are named and cut in each supported layout.

Native names are those of :class:`flashvideo.models.network.FlashVideoNetwork`. A layout says which modules of a file
make up one native module and which rows of it each of them holds: diffusers, for instance, keeps q, k and v apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Piece:
    """A file's module inside a native module.

    Attributes:
        module: its name in the file, without prefix.
        rows: the output rows of the native module that it holds, as ``(start, stop)`` in ``1/parts`` of all rows;
            empty: all of them.
        parts: into how many equal parts the native rows are counted.
    """

    module: str
    rows: tuple[tuple[int, int], ...] = ()
    parts: int = 1

    def row_ranges(self, total: int) -> list[tuple[int, int]]:
        """Row ranges of a native module with ``total`` output rows."""
        unit = total // self.parts
        return [(start * unit, stop * unit) for start, stop in self.rows] or [(0, total)]


Layout = dict[str, tuple[Piece, ...]]  # native module -> pieces

LAYOUTS = ("native", "published", "diffusers", "comfyui")  # ours, the authors' .pt files, and CogVideoX by two names

_STEP_EMBEDDINGS = {
    "time_embedding": ("time_embed", "time_embedding"),
    "noise_step_embedding": ("ref_step_time_embedding", None),
    "frame_count_embedding": ("time_size_embedding", None),
}

_PUBLISHED = {
    "patch_embed": "mixins.patch_embed.proj",
    "text_embed": "mixins.patch_embed.text_proj",
    "final_norm": "transformer.final_layernorm",
    "out_norm": "mixins.final_layer.norm_final",
    "out_modulation": "mixins.final_layer.adaLN_modulation.1",
    "out_proj": "mixins.final_layer.linear",
}
_PUBLISHED_LAYER = {
    "modulation": "mixins.adaln_layer.adaLN_modulations.{}.1",
    "q_norm": "mixins.adaln_layer.query_layernorm_list.{}",
    "k_norm": "mixins.adaln_layer.key_layernorm_list.{}",
    "attn_norm": "transformer.layers.{}.input_layernorm",
    "qkv": "transformer.layers.{}.attention.query_key_value",
    "attn_out": "transformer.layers.{}.attention.dense",
    "mlp_norm": "transformer.layers.{}.post_attention_layernorm",
    "mlp_up": "transformer.layers.{}.mlp.dense_h_to_4h",
    "mlp_down": "transformer.layers.{}.mlp.dense_4h_to_h",
}
_DIFFUSERS = {
    "patch_embed": "patch_embed.proj",
    "text_embed": "patch_embed.text_proj",
    "final_norm": "norm_final",
    "out_norm": "norm_out.norm",
    "out_modulation": "norm_out.linear",
    "out_proj": "proj_out",
}
_DIFFUSERS_LAYER = {
    "q_norm": "attn1.norm_q",
    "k_norm": "attn1.norm_k",
    "attn_norm": "norm1.norm",
    "attn_out": "attn1.to_out.0",
    "mlp_norm": "norm2.norm",
    "mlp_up": "ff.net.0.proj",
    "mlp_down": "ff.net.2",
}


_COMFYUI_LAYER = {  # ComfyUI's CogVideoX: diffusers' with flatter layers
    "q_norm": "norm_q",
    "k_norm": "norm_k",
    "attn_norm": "norm1.norm",
    "attn_out": "attn_out",
    "mlp_norm": "norm2.norm",
    "mlp_up": "ff_proj",
    "mlp_down": "ff_out",
}
_COGVIDEOX = {  # what stands before a layer's names, and before q, k and v, and its names
    "diffusers": ("transformer_blocks.{}.", "attn1.to_", _DIFFUSERS_LAYER),
    "comfyui": ("blocks.{}.", "", _COMFYUI_LAYER),
}


def _cogvideox_layer(kind: str, name: str, index: int) -> tuple[Piece, ...]:
    before, before_qkv, names = _COGVIDEOX[kind]
    prefix = before.format(index)
    if name == "qkv":
        return tuple(Piece(f"{prefix}{before_qkv}{part}", ((i, i + 1),), 3) for i, part in enumerate("qkv"))
    if name == "modulation":  # 12 chunks: video attention 3, video MLP 3, text attention 3, text MLP 3
        first, second = ((0, 3), (6, 9)), ((3, 6), (9, 12))
        return (Piece(f"{prefix}norm1.linear", first, 12), Piece(f"{prefix}norm2.linear", second, 12))
    return (Piece(prefix + names[name]),)


def transformer_layout(kind: str, num_layers: int) -> Layout:
    """The pieces of every native module.

    Args:
        kind: one of :data:`LAYOUTS`.
        num_layers: of the transformer.
    """
    layout: Layout = {}
    top = {name: name for name in _PUBLISHED} if kind == "native" else _PUBLISHED if kind == "published" else _DIFFUSERS
    layout.update({native: (Piece(name),) for native, name in top.items()})
    for native, (published, cogvideox) in _STEP_EMBEDDINGS.items():
        for i in (1, 2):
            name = {
                "native": f"{native}.linear_{i}",
                "published": f"{published}.{2 * (i - 1)}",
                "diffusers": f"{cogvideox}.linear_{i}" if cogvideox else None,
                "comfyui": f"{cogvideox}_linear_{i}" if cogvideox else None,
            }[kind]
            if name:
                layout[f"{native}.linear_{i}"] = (Piece(name),)
    for index in range(num_layers):
        for name, published in _PUBLISHED_LAYER.items():
            native = f"layers.{index}.{name}"
            if kind in _COGVIDEOX:
                layout[native] = _cogvideox_layer(kind, name, index)
            else:
                layout[native] = (Piece(published.format(index) if kind == "published" else native),)
    return layout


def laid_out(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Native parameters under the names and in the pieces of a layout."""
    stored = {}
    for name, tensor in state.items():
        module, _, leaf = name.rpartition(".")
        for piece in layout[module]:
            rows = [tensor[start:stop] for start, stop in piece.row_ranges(len(tensor))]
            stored[f"{piece.module}.{leaf}"] = torch.cat(rows)
    return stored


_MARKERS = {  # a key that only this layout has, behind any prefix
    "published": re.compile(r"^(.*?)mixins\.patch_embed\.text_proj\.weight$"),
    "comfyui": re.compile(r"^(.*?)time_embedding_linear_1\.weight$"),
    "diffusers": re.compile(r"^(.*?)patch_embed\.text_proj\.weight$"),
    "native": re.compile(r"^(.*?)text_embed\.weight$"),
}
_LAYER_INDEX = {
    "published": re.compile(r"^transformer\.layers\.(\d+)\."),
    "comfyui": re.compile(r"^blocks\.(\d+)\."),
    "diffusers": re.compile(r"^transformer_blocks\.(\d+)\."),
    "native": re.compile(r"^layers\.(\d+)\."),
}


@dataclass(frozen=True)
class DetectedLayout:
    """What a file's names tell: the layout, the prefix of its names and the number of layers."""

    kind: str
    prefix: str
    num_layers: int


def detect_transformer(names: Any) -> DetectedLayout | None:
    """Recognise a transformer by its names; ``None`` if it is none of ours."""
    for kind, marker in _MARKERS.items():
        for name in names:
            match = marker.match(name)
            if match:
                prefix = match.group(1)
                matches = [_LAYER_INDEX[kind].match(n[len(prefix) :]) for n in names if n.startswith(prefix)]
                indices = [int(m.group(1)) for m in matches if m]
                return DetectedLayout(kind, prefix, max(indices) + 1 if indices else 0)
    return None


def infer_transformer_config(shapes: Shapes, num_layers: int) -> dict[str, Any]:
    """Constructor keywords from native shapes (``patch_embed.weight`` may still be the convolution's).

    Raises:
        ValueError: shapes that no FlashVideo transformer has, or a missing key that the architecture is read from.
    """
    needed = ["patch_embed.weight", "text_embed.weight", "time_embedding.linear_1.weight", "out_proj.weight"]
    needed += ["layers.0.q_norm.weight"]
    missing = [name for name in needed if name not in shapes]
    if missing:
        raise ValueError(f"The architecture cannot be read: the file lacks {', '.join(missing)}.")
    dimensions = {"patch_embed.weight": (2, 4), "layers.0.q_norm.weight": (1,)}
    for name in needed:
        shape, expected = shapes[name], dimensions.get(name, (2,))
        if len(shape) not in expected or not all(size > 0 for size in shape):
            counts = " or ".join(map(str, expected))
            raise ValueError(
                f"{name} has shape {list(shape)}; expected {counts} dimensions, none of them 0. The file is damaged or "
                "no FlashVideo transformer: use an unchanged checkpoint."
            )
    patch, text = shapes["patch_embed.weight"], shapes["text_embed.weight"]
    dim, head_dim = patch[0], shapes["layers.0.q_norm.weight"][0]
    patch_size = patch[2] if len(patch) == 4 else 2
    if dim % head_dim:
        raise ValueError(f"Width {dim} is no multiple of the head size {head_dim}: this is no FlashVideo transformer.")
    return {
        "num_layers": num_layers,
        "num_attention_heads": dim // head_dim,
        "attention_head_dim": head_dim,
        "in_channels": patch[1] if len(patch) == 4 else patch[1] // patch_size**2,
        "out_channels": shapes["out_proj.weight"][0] // patch_size**2,
        "patch_size": patch_size,
        "text_embed_dim": text[1],
        "time_embed_dim": shapes["time_embedding.linear_1.weight"][0],
        "use_noise_step_embedding": "noise_step_embedding.linear_1.weight" in shapes,
        "use_frame_count_embedding": "frame_count_embedding.linear_1.weight" in shapes,
    }
