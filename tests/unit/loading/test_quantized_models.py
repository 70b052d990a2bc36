"""Whole models in few bits through every door: load, inspect, convert; every layout, VAE and text encoder too."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from flashvideo import convert_checkpoint, load_stage1, load_stage2, load_vae
from flashvideo.loading.text import load_text_encoder
from flashvideo.runs.inspect import inspect_checkpoint
from tests.conftest import TINY
from tests.quantized_files import WAYS, quantized_state
from tests.unit.conftest import TINY_TEXT

LAYOUTS = {"native": load_stage2, "published": load_stage2, "diffusers": load_stage1}


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """A transformer's state in each layout."""
    from diffusers import CogVideoXTransformer3DModel

    native = convert_checkpoint(TINY / "stage2.pt", tmp_path_factory.mktemp("native") / "stage2.safetensors")
    small = {"num_layers": 2, "num_attention_heads": 2, "text_embed_dim": 32, "time_embed_dim": 64}
    diffusers = CogVideoXTransformer3DModel(**small, use_rotary_positional_embeddings=True).state_dict()
    published = torch.load(TINY / "stage2.pt", weights_only=True)["module"]
    return {"native": load_file(native), "published": published, "diffusers": diffusers}


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("way", WAYS)
def test_a_transformer_is_what_its_layers_mean(tmp_path, states, way, layout):
    stored, meant = quantized_state(way, states[layout])
    file = tmp_path / "stored.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, file)
    save_file({name: tensor.contiguous() for name, tensor in meant.items()}, tmp_path / "meant.safetensors")
    model, expected = (LAYOUTS[layout](path, dtype=torch.float32) for path in (file, tmp_path / "meant.safetensors"))
    if "rotated" not in way:
        assert same(model, expected)
    for left, right in zip(model.parameters(), expected.parameters(), strict=True):
        assert (left - right).abs().max() <= 1e-5 * right.abs().max()
    assert inspect_checkpoint(file).problems == ()
    assert same(load_stage(convert_checkpoint(file, tmp_path / "own.safetensors", dtype="fp32")), model)


def load_stage(path):
    return (load_stage2 if inspect_checkpoint(path, values=False).kind == "stage2" else load_stage1)(path)


@pytest.mark.parametrize("way", ["one number", "e5m2", "rows", "mxfp8", "int8"])
def test_converting_without_a_dtype_keeps_what_can_be_kept(tmp_path, states, way):
    """Storage that is not written here becomes bf16, in which fp8 times a power of two is exact; nothing is clipped."""
    save_file(quantized_state(way, states["native"])[0], tmp_path / "stored.safetensors")
    path = convert_checkpoint(tmp_path / "stored.safetensors", tmp_path / "own.safetensors")
    weight = load_file(path)["layers.0.qkv.weight"]
    assert weight.dtype == (torch.float8_e4m3fn if way == "one number" else torch.bfloat16)
    before, after = (load_stage2(p, dtype=torch.float32) for p in (tmp_path / "stored.safetensors", path))
    for left, right in zip(after.parameters(), before.parameters(), strict=True):
        assert (left - right).norm() <= {"one number": 0.04}.get(way, 4e-3) * right.norm()
    assert way != "mxfp8" or torch.equal(after.layers[1].qkv.weight, before.layers[1].qkv.weight)


def test_plain_fp8_becomes_bf16_without_loss(tmp_path, states):
    state = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in states["native"].items()}
    save_file(state, tmp_path / "plain.safetensors")
    path = convert_checkpoint(tmp_path / "plain.safetensors", tmp_path / "own.safetensors")
    assert load_file(path)["layers.0.qkv.weight"].dtype == torch.bfloat16
    assert same(load_stage2(path), load_stage2(tmp_path / "plain.safetensors"))


@pytest.mark.parametrize("way", WAYS)
def test_a_text_encoder_is_what_its_layers_mean(tmp_path, way):
    shutil.copy(TINY_TEXT / "tokenizer.json", tmp_path)
    stored, meant = quantized_state(way, load_file(TINY_TEXT / "model.safetensors"))
    for name, state in (("stored", stored), ("meant", meant)):
        save_file(state, tmp_path / f"{name}.safetensors")
    files = tmp_path / "stored.safetensors", tmp_path / "meant.safetensors"
    loaded = [load_text_encoder(file, dtype=torch.float32).model for file in files]
    assert same(*loaded) or "rotated" in way
    for left, right in zip(*(model.parameters() for model in loaded), strict=True):
        assert (left - right).abs().max() <= 1e-5 * right.abs().max()
    assert inspect_checkpoint(files[0]).problems == ()


def test_a_vae_in_fp8(tmp_path, tiny_vae):
    """Core's nodes write such files; convolutions have one scale."""
    stored, meant = {}, {}
    for name, tensor in tiny_vae.state_dict().items():
        stored[name] = meant[name] = tensor
        if tensor.ndim == 5:
            stored[name] = (tensor * 100).to(torch.float8_e4m3fn)
            meant[name] = stored[name].float() * 0.01
            stored[f"{name}_scale"] = torch.tensor(0.01)
    save_file(stored, tmp_path / "vae.safetensors")
    loaded = dict(load_vae(tmp_path / "vae.safetensors", dtype=torch.float32).named_parameters())
    assert all(torch.equal(loaded[name], tensor) for name, tensor in meant.items())
    plain = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tiny_vae.state_dict().items()}
    save_file(plain, tmp_path / "plain.safetensors")
    assert load_vae(tmp_path / "plain.safetensors").dtype == torch.bfloat16
    assert same(
        load_vae(convert_checkpoint(tmp_path / "vae.safetensors", tmp_path / "own.safetensors", dtype="fp32")),
        load_vae(tmp_path / "vae.safetensors", dtype=torch.float32),
    )


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool])
def test_whole_numbers_without_a_scale_are_no_weights(tmp_path, states, tiny_vae, dtype):
    stage = {**states["native"], "layers.0.qkv.weight": torch.ones(384, 128).to(dtype)}
    name = "decoder.conv_in.conv.weight"
    vae = {**tiny_vae.state_dict(), name: torch.ones(tiny_vae.state_dict()[name].shape).to(dtype)}
    for load, state in ((load_stage2, stage), (load_vae, vae)):
        save_file(state, tmp_path / "codes.safetensors")
        with pytest.raises(ValueError, match=rf"weight.*{dtype}"):
            load(tmp_path / "codes.safetensors")
