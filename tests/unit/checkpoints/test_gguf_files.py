"""GGUF: transformer and text encoder in ggml's formats; damage and a missing package in words."""

from __future__ import annotations

import random
import struct
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from flashvideo import convert_checkpoint, load_stage2
from flashvideo.checkpoints.files import open_weights
from flashvideo.checkpoints.gguf_files import write_gguf
from flashvideo.loading.text import load_text_encoder
from flashvideo.runs.inspect import inspect_checkpoint
from tests.conftest import TINY
from tests.unit.conftest import TINY_TEXT

LLAMA_NAMES = {  # in order: the first is not part of the second
    "encoder.final_layer_norm": "enc.output_norm",
    "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b",
    **{f"layer.0.SelfAttention.{x}.": f"attn_{x}." for x in "qkvo"},
    **{"layer.0.layer_norm": "attn_norm", "layer.1.layer_norm": "ffn_norm", "encoder.block": "enc.blk"},
    **{"layer.1.DenseReluDense.wi_0": "ffn_gate", "layer.1.DenseReluDense.wi_1": "ffn_up"},
    **{"layer.1.DenseReluDense.wo": "ffn_down", "shared": "token_embd"},
}
FORMATS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")


@pytest.fixture(scope="module")
def gguf():
    return pytest.importorskip("gguf", reason="the package gguf is not installed")


def written(gguf, path, state, label):
    """A file of ``label`` where rows are long enough for its blocks, and the state that it stands for."""
    import numpy as np

    kind, meant = gguf.GGMLQuantizationType[label], {}
    block, size = gguf.GGML_QUANT_SIZES[kind]
    chance, tensors = np.random.default_rng(0), {}
    for name, tensor in state.items():
        if tensor.ndim < 2 or tensor.shape[-1] % block:
            tensors[name] = tensor.float().numpy(), "F32"
            meant[name] = tensor.float()
            continue
        if "_K" in label:  # which the package reads only: random codes and small scales
            bits = chance.integers(0, 256, (len(tensor), tensor.shape[-1] // block, size), dtype=np.uint8)
            halves = np.array([0.001], dtype=np.float16).view(np.uint8)
            for place in {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}[label]:
                bits[..., place : place + 2] = halves
            packed = bits.reshape(len(tensor), -1)
        else:
            packed = gguf.quants.quantize(tensor.float().numpy(), kind)
        tensors[name] = packed, label
        values = torch.from_numpy(np.array(gguf.quants.dequantize(packed, kind), dtype=np.float32))
        meant[name] = values.reshape(tensor.shape)
    write_gguf(path, tensors)
    return meant


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    path = convert_checkpoint(TINY / "stage2.pt", tmp_path_factory.mktemp("native") / "stage2.safetensors")
    return load_file(path)


@pytest.mark.parametrize("label", FORMATS)
def test_a_transformer(gguf, tmp_path, native, label):
    """Rows of 256 numbers, as K formats have them, are longer than this model's: only its widest layers take them."""
    file = tmp_path / "model.gguf"
    meant = written(gguf, file, {f"model.diffusion_model.{name}": t for name, t in native.items()}, label)
    save_file(meant, tmp_path / "meant.safetensors")
    model, expected = (load_stage2(p, dtype=torch.float32) for p in (file, tmp_path / "meant.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    assert inspect_checkpoint(file).sound
    own = load_stage2(convert_checkpoint(file, tmp_path / "own.safetensors", dtype="fp32"))
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), expected.parameters(), strict=True))
    if label == "Q8_0":
        assert load_stage2(file).dtype == torch.bfloat16


@pytest.mark.parametrize("label", ["F16", "Q8_0", "Q4_0"])
def test_a_text_encoder_by_llama_cpps_names(gguf, tmp_path, label):
    state = {}
    for name, tensor in load_file(TINY_TEXT / "model.safetensors").items():
        for theirs, short in LLAMA_NAMES.items():
            name = name.replace(theirs, short)
        state[name] = tensor
    meant = written(gguf, tmp_path / "t5.gguf", state, label)
    loaded = load_text_encoder(tmp_path / "t5.gguf", tokenizer=TINY_TEXT, dtype=torch.float32).model
    before = load_text_encoder(TINY_TEXT, dtype=torch.float32).model
    assert torch.equal(loaded.shared.weight, meant["token_embd.weight"])
    for left, right in zip(loaded.parameters(), before.parameters(), strict=True):
        assert (left - right).norm() <= {"F16": 1e-3, "Q8_0": 0.01, "Q4_0": 0.15}[label] * right.norm()
    assert inspect_checkpoint(tmp_path / "t5.gguf").kind == "text"


def test_q8_0_is_a_half_and_32_bytes(gguf, tmp_path):
    """By the format's definition, not by the package; rows are read in pieces."""
    codes, scales = torch.randint(-127, 128, (6, 64), dtype=torch.int8), torch.rand(6, 2).half()
    blocks = torch.cat((scales.view(torch.uint8).view(6, 2, 2), codes.view(torch.uint8).view(6, 2, 32)), dim=-1)
    packed = {"a.weight": (blocks.reshape(6, 68).numpy(), "Q8_0")}
    write_gguf(tmp_path / "x.gguf", packed, {"a.weight": (3, 2, 64)})
    info = open_weights(tmp_path / "x.gguf").tensors["a.weight"]
    expected = (codes.view(6, 2, 32).float() * scales.float()[..., None]).reshape(3, 2, 64)
    assert torch.equal(info.read(), expected)
    assert torch.equal(info.rows()(1, 3), expected[1:])


def test_damage_ends_in_words(gguf, tmp_path):
    written(gguf, tmp_path / "x.gguf", {"a.weight": torch.ones(4, 64), "b.weight": torch.ones(3)}, "Q8_0")
    whole, chance = (tmp_path / "x.gguf").read_bytes(), random.Random(0)
    for number in range(400):
        changed = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(4, 300)] = chance.choice((0, 1, 127, 255))
        if number % 4 == 0:
            changed = changed[: chance.randrange(4, len(changed))]
        (tmp_path / "y.gguf").write_bytes(changed)
        try:
            for info in open_weights(tmp_path / "y.gguf").tensors.values():
                info.read()
        except ValueError as error:
            said = str(error)
            assert "y.gguf is" in said, said


@pytest.mark.parametrize("counts", [(1 << 62, 1), (1, 1 << 62)])
def test_counts_beyond_the_file(gguf, tmp_path, counts):
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts))
    with pytest.raises(ValueError, match="ends within its header"):
        open_weights(tmp_path / "x.gguf")


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setitem(sys.modules, "gguf.constants", None)
    (tmp_path / "x.safetensors").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ValueError, match=r"is a GGUF file, which takes the package `gguf`: `pip install gguf`"):
        load_stage2(tmp_path / "x.safetensors")
