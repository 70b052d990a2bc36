"""Checkpoints whose tensors have swapped or odd shapes are refused in words, and nothing is broadcast."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from flashvideo import load_stage1, load_stage2, load_vae
from flashvideo.checkpoints.files import open_weights
from tests.conftest import TINY

CHANGES = {
    "flat": lambda tensor: tensor.reshape(-1),
    "scalar": lambda tensor: tensor.reshape(-1)[0],
    "none": lambda tensor: torch.empty(0, dtype=tensor.dtype),
    "no rows": lambda tensor: tensor[:0],
    "one row": lambda tensor: tensor[:1],
    "one number": lambda tensor: tensor.reshape(-1)[:1],
    "deeper": lambda tensor: tensor[None],
    "six": lambda tensor: tensor.reshape(*tensor.shape, *[1] * (6 - tensor.ndim)),
}
TELLING = {  # what the architecture is read from, and what lies on top of it
    "stage1": (
        *("mixins.patch_embed.proj.weight", "mixins.patch_embed.text_proj.weight", "time_embed.0.weight"),
        *("mixins.final_layer.linear.weight", "mixins.adaln_layer.query_layernorm_list.0.weight"),
        *("transformer.layers.0.attention.dense.matrix_A.0", "transformer.layers.0.attention.dense.matrix_B.0"),
    ),
    "stage2": (
        *("mixins.patch_embed.proj.weight", "mixins.patch_embed.text_proj.weight", "time_embed.0.weight"),
        *("mixins.final_layer.linear.weight", "mixins.adaln_layer.query_layernorm_list.0.weight"),
        *("ref_step_time_embedding.0.weight", "transformer.layers.1.mlp.dense_h_to_4h.weight"),
    ),
    "vae": (
        *("encoder.conv_in.conv.weight", "decoder.conv_in.conv.weight", "decoder.conv_out.conv.weight"),
        *("encoder.down.0.block.0.conv1.conv.weight", "encoder.down.3.block.0.conv1.conv.weight"),
        "decoder.mid.block_1.norm1.conv_y.conv.weight",
    ),
}
LOADERS = {"stage1": load_stage1, "stage2": load_stage2, "vae": load_vae}
FILES = {"stage1": "stage1.pt", "stage2": "stage2.pt", "vae": "3d-vae.pt"}


@pytest.fixture(scope="module")
def tensors():
    opened = {kind: open_weights(TINY / name) for kind, name in FILES.items()}
    return {kind: {name: info.read().clone() for name, info in one.tensors.items()} for kind, one in opened.items()}


def find(tensors, ending):
    (name,) = (name for name in tensors if name.endswith(ending)) if ending not in tensors else (ending,)
    return name


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", TELLING)
def test_an_odd_shape_is_refused(tensors, tmp_path, kind, change):
    for ending in TELLING[kind]:
        name = find(tensors[kind], ending)
        odd = CHANGES[change](tensors[kind][name]).clone().contiguous()
        if odd.shape == tensors[kind][name].shape:
            continue
        save_file({**tensors[kind], name: odd}, tmp_path / "odd.safetensors")
        with pytest.raises(ValueError, match=r"odd\.safetensors|has shape|expected|multiple"):
            LOADERS[kind](tmp_path / "odd.safetensors")


@pytest.mark.parametrize("kind", TELLING)
def test_swapped_tensors_are_refused(tensors, tmp_path, kind):
    names = [find(tensors[kind], ending) for ending in TELLING[kind]]
    for left, right in zip(names, [*names[1:], names[0]], strict=True):
        if tensors[kind][left].shape == tensors[kind][right].shape:
            continue
        swapped = {**tensors[kind], left: tensors[kind][right], right: tensors[kind][left]}
        save_file(swapped, tmp_path / "swapped.safetensors")
        with pytest.raises(ValueError, match=r"."):
            LOADERS[kind](tmp_path / "swapped.safetensors")


def test_a_layer_of_a_number_that_no_file_has(tensors, tmp_path):
    name = find(tensors["stage1"], "transformer.layers.0.post_attention_layernorm.bias")
    more = {**tensors["stage1"], name.replace("layers.0.", "layers.99999999."): tensors["stage1"][name].clone()}
    save_file(more, tmp_path / "many.safetensors")
    with pytest.raises(ValueError, match=r"many\.safetensors has names of 100000000 layers"):
        load_stage1(tmp_path / "many.safetensors")
