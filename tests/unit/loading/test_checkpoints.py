"""Reading and converting checkpoints: every key accounted for, every layout the same model, memory bounded."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flashvideo import (
    FlashVideoTransformer3DModel,
    convert_checkpoint,
    load_stage1,
    load_stage2,
    load_vae,
)
from flashvideo.checkpoints.files import TensorInfo, WeightFile, open_weights
from flashvideo.checkpoints.layouts import detect_transformer, transformer_layout
from flashvideo.loading.source import open_transformer
from tests.conftest import TINY
from tests.lora_files import comfyui_name

LOADERS = {"stage1": load_stage1, "stage2": load_stage2}
FULL = {"stage1": (42, 3072, 5_903_533_632 - 333_053_952), "stage2": (30, 1920, 1_696_399_168)}


def published(stage):
    """The contents of a tiny published file."""
    return torch.load(TINY / f"{stage}.pt", weights_only=True)["module"]


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def header_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


# ---- every key of the full-size files ----


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_full_size_keys_are_all_accounted_for(golden, monkeypatch, stage):
    """The full-size network on the meta device; each listed key is used or is ballast, none is missing."""
    listed = golden.json(f"keys_{stage}")
    tensors = {
        name: TensorInfo(tuple(shape), torch.bfloat16, lambda s=tuple(shape): torch.empty(s, device="meta"))
        for name, shape in listed["keys"]
    }
    assert len(tensors) == listed["n_keys"]
    weights = WeightFile(TINY, "pickle", tensors, container="module")
    monkeypatch.setattr("flashvideo.loading.source.open_weights", lambda _path: weights)
    source = open_transformer("stage.pt")
    source.check()
    layers, dim, elements = FULL[stage]
    assert source.kind == stage
    assert (source.config["num_layers"], source.config["num_attention_heads"] * 64) == (layers, dim)
    assert source.config["text_embed_dim"] == 4096
    assert source.lora_rank == (128 if stage == "stage1" else 0)
    assert source.ballast == ("model.diffusion_model.transformer.position_embeddings.weight",)
    model = FlashVideoTransformer3DModel(**source.config, device="meta")
    position_embeddings = 64 * dim
    assert sum(p.numel() for p in model.parameters()) + position_embeddings == elements
    assert set(source.parts) == {name for name, _ in model.named_parameters()}


def test_full_size_vae_keys_are_all_accounted_for(golden):
    from flashvideo.loading.load import check_whole_vae, meta_vae, vae_names

    listed = golden.json("keys_vae")
    tensors = {n: TensorInfo(tuple(s), torch.float32, lambda: torch.empty(0)) for n, s in listed["keys"]}
    weights = WeightFile(TINY, "pickle", tensors)
    config, mapping = vae_names(weights)
    assert set(mapping.values()) == set(tensors)
    vae = meta_vae(config)
    check_whole_vae(vae, weights, mapping)
    assert sum(p.numel() for p in vae.parameters()) == 215_583_907


@pytest.mark.parametrize("stage", ["tiny_stage1", "tiny_stage2", "full_stage1", "full_stage2"])
def test_architecture_of_the_listed_networks(golden, stage):
    config = golden.json("configs")[stage]
    kind = stage.split("_")[1]
    if stage.startswith("full"):
        shapes = dict(golden.json(f"keys_{kind}")["keys"])
        detected = detect_transformer(shapes)
        assert detected.kind == "published"
        assert detected.num_layers == config["num_layers"]
        return
    found = open_transformer(TINY / f"{kind}.pt").config
    assert found["num_layers"] == config["num_layers"]
    assert found["num_attention_heads"] == config["num_attention_heads"]
    assert found["time_embed_dim"] == config["time_embed_dim"]
    assert found["text_embed_dim"] == config["text_hidden_size"]


# ---- layouts ----


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_converted_file_is_the_same_model(tmp_path, stage, dtype):
    path = convert_checkpoint(TINY / f"{stage}.pt", tmp_path / "model.safetensors", kind=stage, dtype=dtype)
    model, original = LOADERS[stage](path), LOADERS[stage](TINY / f"{stage}.pt")
    assert same_weights(model, original.to(model.dtype))
    header = header_of(path)
    assert header["flashvideo.kind"] == stage
    assert header["flashvideo.dtype"] == dtype
    assert len(header["flashvideo.source_sha256"]) == 64
    assert header["flashvideo.version"]


def test_converted_file_has_one_tensor_a_parameter(tmp_path):
    path = convert_checkpoint(TINY / "stage1.pt", tmp_path / "model.safetensors")
    names = set(load_file(path))
    assert names == {name for name, _ in load_stage1(path).named_parameters()}


def test_converting_twice_changes_nothing(tmp_path):
    once = convert_checkpoint(TINY / "stage2.pt", tmp_path / "a.safetensors", dtype="bf16")
    twice = convert_checkpoint(once, tmp_path / "b.safetensors")
    assert load_file(once).keys() == load_file(twice).keys()
    assert all(torch.equal(a, b) for a, b in zip(load_file(once).values(), load_file(twice).values(), strict=True))


def test_fp8_is_storage_of_linear_weights_with_scales(tmp_path):
    path = convert_checkpoint(TINY / "stage2.pt", tmp_path / "fp8.safetensors", dtype="fp8_e4m3")
    stored = load_file(path)
    fp8 = {name for name, tensor in stored.items() if tensor.dtype == torch.float8_e4m3fn}
    assert len(fp8) == 2 * 5
    assert all(f"{name}_scale" in stored for name in fp8)
    assert all(stored[name].ndim == 2 for name in fp8)
    layers = json.loads(header_of(path)["_quantization_metadata"])["layers"]
    assert {f"{name}.weight" for name in layers} == fp8
    model, original = load_stage2(path), load_stage2(TINY / "stage2.pt")
    assert model.dtype == torch.bfloat16
    for (name, a), b in zip(model.named_parameters(), original.parameters(), strict=True):
        limit = 0.04 if name in fp8 else 0.005
        assert (a.float() - b).norm() / b.norm() < limit, name
    assert load_stage2(path, dtype=torch.float32).dtype == torch.float32
    with pytest.raises(ValueError, match="storage format"):
        load_stage2(path, dtype=torch.float8_e4m3fn)


def test_fp8_survives_zeros_and_large_values(tmp_path):
    state = published("stage2")
    prefix = "model.diffusion_model.transformer.layers.0."
    state[prefix + "mlp.dense_h_to_4h.weight"].zero_()
    state[prefix + "mlp.dense_4h_to_h.weight"].mul_(1e4)
    torch.save({"module": state}, tmp_path / "stage2.pt")
    path = convert_checkpoint(tmp_path / "stage2.pt", tmp_path / "fp8.safetensors", dtype="fp8_e4m3")
    model = load_stage2(path)
    assert model.layers[0].mlp_up.weight.abs().max() == 0
    large = state[prefix + "mlp.dense_4h_to_h.weight"]
    assert (model.layers[0].mlp_down.weight.float() - large).norm() / large.norm() < 0.04


def test_vae_layouts_are_the_same_model(tmp_path, tiny_vae):
    path = convert_checkpoint(TINY / "3d-vae.pt", tmp_path / "vae.safetensors", kind="vae")
    assert same_weights(load_vae(path), tiny_vae)
    tiny_vae.save_pretrained(tmp_path / "folder")
    assert same_weights(load_vae(tmp_path / "folder"), tiny_vae)
    half = load_vae(path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="fp8 does not apply"):
        convert_checkpoint(TINY / "3d-vae.pt", tmp_path / "other.safetensors", dtype="fp8_e4m3")


def test_merged_published_file_loads_too(tmp_path, tiny_stage1):
    """A LoRA linear of the authors' also takes plain weights."""
    merged = {}
    for native, pieces in transformer_layout("published", 2).items():
        for leaf in ("weight", "bias"):
            if f"{native}.{leaf}" in tiny_stage1.state_dict():
                tensor = tiny_stage1.state_dict()[f"{native}.{leaf}"].clone()
                shape = (128, 16, 2, 2) if native == "patch_embed" and leaf == "weight" else tensor.shape
                merged[f"model.diffusion_model.{pieces[0].module}.{leaf}"] = tensor.view(shape)
    torch.save({"module": merged, "iteration": 5}, tmp_path / "merged.pt")
    assert same_weights(load_stage1(tmp_path / "merged.pt"), tiny_stage1)


def cogvideox(**config):
    small = {"num_layers": 2, "num_attention_heads": 2, "text_embed_dim": 32, "time_embed_dim": 64}
    return CogVideoXTransformer3DModel(**small, use_rotary_positional_embeddings=True, **config)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_transformer_as_comfyui_names_it(tmp_path, prefix):
    """Core's save nodes write its own CogVideoX so."""
    state = cogvideox().state_dict()
    save_file(state, tmp_path / "diffusers.safetensors")
    named = {
        f"{prefix}{comfyui_name(module)}.{leaf}": tensor
        for name, tensor in state.items()
        for module, _, leaf in [name.rpartition(".")]
    }
    save_file(named, tmp_path / "comfyui.safetensors")
    model = load_stage1(tmp_path / "comfyui.safetensors")
    assert same_weights(model, load_stage1(tmp_path / "diffusers.safetensors"))
    assert same_weights(
        load_stage1(convert_checkpoint(tmp_path / "comfyui.safetensors", tmp_path / "own.safetensors")), model
    )
    del named[f"{prefix}blocks.1.k.bias"]
    save_file(named, tmp_path / "comfyui.safetensors")
    with pytest.raises(ValueError, match=r"\(comfyui layout\)\. missing: .*blocks\.1\.k\.bias"):
        load_stage1(tmp_path / "comfyui.safetensors")


def test_lora_is_merged_in_fp32_and_rounded_once(tmp_path):
    state = {name: tensor.bfloat16() for name, tensor in published("stage1").items()}
    torch.save({"module": state}, tmp_path / "stage1.pt")
    model = load_stage1(tmp_path / "stage1.pt")
    assert model.dtype == torch.bfloat16
    prefix = "model.diffusion_model.transformer.layers.1.attention.query_key_value."
    products = [state[f"{prefix}matrix_B.{i}"].float() @ state[f"{prefix}matrix_A.{i}"].float() for i in range(3)]
    expected = (state[f"{prefix}original.weight"].float() + torch.cat(products) / 4).bfloat16()
    assert torch.equal(model.layers[1].qkv.weight, expected)
    name = "model.diffusion_model.mixins.adaln_layer.adaLN_modulations.0.1."
    product = state[f"{name}matrix_B.0"].float() @ state[f"{name}matrix_A.0"].float() / 4
    assert torch.equal(
        model.layers[0].modulation.weight, (state[f"{name}original.weight"].float() + product).bfloat16()
    )


def test_own_latent_scale_travels(tmp_path):
    model = FlashVideoTransformer3DModel(
        num_layers=1,
        num_attention_heads=1,
        text_embed_dim=8,
        time_embed_dim=8,
        latent_scale=0.9,
        max_text_seq_length=32,
    )
    model.save_pretrained(tmp_path / "model")
    again = load_stage1(tmp_path / "model")
    assert again.config.latent_scale == 0.9
    assert again.text_length == 32
    path = convert_checkpoint(tmp_path / "model", tmp_path / "model.safetensors")
    assert load_stage1(path).config.latent_scale == 0.9
    assert load_stage1(path).text_length == 32


# ---- what is wrong is named ----


def test_ballast_is_skipped_with_one_line(tmp_path, caplog):
    state = published("stage2")
    state["model.diffusion_model.mixins.pos_embed.freqs_sin"] = torch.zeros(4)
    state["model.diffusion_model.mixins.pos_embed.freqs_cos"] = torch.zeros(4)
    state["conditioner.embedders.0.transformer.shared.weight"] = torch.zeros(4)
    state["first_stage_model.encoder.conv_in.weight"] = torch.zeros(4)
    state["loss.logvar"] = torch.zeros(1)
    torch.save({"module": state}, tmp_path / "stage2.pt")
    with caplog.at_level("INFO", "flashvideo"):
        model = load_stage2(tmp_path / "stage2.pt")
    lines = [r.getMessage() for r in caplog.records if "skipped" in r.getMessage()]
    assert len(lines) == 1
    assert "skipped 6 entries" in lines[0]
    assert same_weights(model, load_stage2(TINY / "stage2.pt"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("model.diffusion_model.transformer.layers.1.mlp.dense_4h_to_h.bias"), "dense_4h_to_h.bias"),
        (lambda s: s.pop("model.diffusion_model.time_size_embedding.2.weight"), "time_size_embedding.2.weight"),
        (lambda s: s.update({"model.diffusion_model.transformer.extra.weight": torch.zeros(3)}), "extra.weight"),
        (
            lambda s: s.update({"model.diffusion_model.transformer.final_layernorm.weight": torch.zeros(3)}),
            "final_layernorm.weight is [3]",
        ),
        (
            lambda s: [s.pop(k) for k in list(s) if "time_size_embedding" in k],
            "time_size_embedding.0.weight",
        ),
    ],
)
def test_wrong_keys_are_named(tmp_path, change, named):
    state = published("stage2")
    change(state)
    torch.save({"module": state}, tmp_path / "stage2.pt")
    with pytest.raises(ValueError, match="whole stage2") as error:
        load_stage2(tmp_path / "stage2.pt")
    assert named in str(error.value)


def test_vae_with_wrong_keys(tmp_path):
    state = torch.load(TINY / "3d-vae.pt", weights_only=True)["state_dict"]
    whole = dict(state)
    del state["decoder.conv_out.conv.bias"]
    torch.save({"state_dict": state}, tmp_path / "vae.pt")
    with pytest.raises(ValueError, match=r"decoder\.conv_out\.conv\.bias"):
        load_vae(tmp_path / "vae.pt")
    torch.save(
        {"state_dict": {**whole, "loss.x": torch.zeros(1), "encoder.extra": torch.zeros(1)}}, tmp_path / "vae.pt"
    )
    with pytest.raises(ValueError, match=r"encoder\.extra"):
        load_vae(tmp_path / "vae.pt")


def test_a_transformer_is_no_vae_and_the_reverse(tmp_path):
    with pytest.raises(ValueError, match="not a CogVideoX VAE"):
        load_vae(TINY / "stage2.pt")
    with pytest.raises(ValueError, match="no FlashVideo or CogVideoX transformer"):
        load_stage1(TINY / "3d-vae.pt")
    with pytest.raises(ValueError, match="is a stage1 checkpoint, not vae"):
        convert_checkpoint(TINY / "stage1.pt", tmp_path / "x.safetensors", kind="vae")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"patch_size_t": 2}, "CogVideoX 1.5"),
        ({"patch_size_t": 2, "in_channels": 32, "ofs_embed_dim": 128}, "CogVideoX 1.5"),
        ({"in_channels": 32}, "an image-to-video CogVideoX"),
    ],
)
def test_other_cogvideox_transformers_are_told(tmp_path, config, what):
    """Their names are the same."""
    save_file(cogvideox(**config).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=f"other.safetensors is {what}.*expected CogVideoX-5B for text to video"):
        load_stage1(tmp_path / "other.safetensors")


def test_a_lora_that_is_not_merged_is_told(tmp_path):
    """A whole model saved while PEFT's layers stand around its own."""
    path = convert_checkpoint(TINY / "stage2.pt", tmp_path / "model.safetensors")
    wrapped = {re.sub(r"(qkv|attn_out)\.(?=weight|bias)", r"\1.base_layer.", n): t for n, t in load_file(path).items()}
    wrapped["layers.0.qkv.lora_A.default.weight"] = torch.zeros(2, 128)
    save_file(wrapped, tmp_path / "wrapped.safetensors")
    with pytest.raises(ValueError, match=r"a LoRA that PEFT has not merged: merge it \(merge_and_unload\)"):
        load_stage2(tmp_path / "wrapped.safetensors")


# ---- memory ----

MEMORY_SCRIPT = """
import sys, torch, flashvideo
from flashvideo.models import transformer
def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
import threading
peak, stop = [0], threading.Event()
def watch():
    while not stop.wait(0.002):
        peak[0] = max(peak[0], anonymous())
torch.set_num_threads(1)
torch.randn(64, 64) @ torch.randn(64, 64)
flashvideo.load_stage1(sys.argv[2])  # what code and libraries themselves take
before = anonymous()
thread = threading.Thread(target=watch); thread.start()
model = flashvideo.load_stage1(sys.argv[1], dtype=getattr(torch, sys.argv[3]))
stop.set(); thread.join()
size = sum(p.numel() * p.element_size() for p in model.parameters())
print(max(peak[0], anonymous()) - before, size)
"""


@pytest.fixture(scope="module")
def large_stage1(tmp_path_factory):
    """A published Stage I file of 177 MB in bf16, LoRA unmerged."""
    folder = tmp_path_factory.mktemp("large")
    generator = torch.Generator().manual_seed(0)
    shapes = {name: tuple(tensor.shape) for name, tensor in published("stage1").items()}
    layers = 8

    def grown(name, shape):
        wide = [6 * n if n in (128, 256, 384, 512, 1536) else n for n in shape]
        return (
            torch.randn(wide, generator=generator).bfloat16() * 0.02
            if "layernorm_list" not in name
            else torch.ones(shape)
        )

    state = {}
    for name, shape in shapes.items():
        for layer in range(layers) if "layers.1." in name or "s.1.1." in name or "list.1." in name else [None]:
            target = name
            if layer is not None:
                for old in ("layers.1.", "modulations.1.", "list.1.", "Modulations.1."):
                    target = target.replace(old, old.replace("1", str(layer)))
            state[target] = grown(name, shape)
    torch.save({"module": state}, folder / "stage1.pt")
    return folder / "stage1.pt"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_loading_takes_little_more_than_the_model(large_stage1, dtype):
    """Anonymous host memory, LoRA merged on the way: never twice. What the allocator keeps varies by tens of MB."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_SCRIPT, large_stage1, TINY / "stage1.pt", dtype],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    used, size = map(int, done.stdout.split())
    assert size > 1e8
    assert used <= 1.4 * max(size, large_stage1.stat().st_size), (
        f"{used / 1e6:.0f} MB for a model of {size / 1e6:.0f} MB"
    )


def test_pickled_tensors_are_views_of_the_file(large_stage1):
    """Opening reads no tensor: memory is touched when one is read."""
    weights = open_weights(large_stage1)
    name, info = next(iter(weights.tensors.items()))
    assert info.read().untyped_storage().nbytes() == large_stage1.stat().st_size
    assert torch.equal(info.read(), torch.load(large_stage1, weights_only=True)["module"][name])


def test_loaded_weights_do_not_depend_on_the_file(tmp_path):
    """Nothing of a model stays mapped: the file can be replaced while the model is in use."""
    path = convert_checkpoint(TINY / "stage2.pt", tmp_path / "model.safetensors")
    model = load_stage2(path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 100_000)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_legacy_torch_files_are_read(tmp_path):
    torch.save({"module": published("stage2")}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same_weights(load_stage2(tmp_path / "old.pt"), load_stage2(TINY / "stage2.pt"))


def test_convert_refuses(tmp_path, names):
    for arguments, message in (
        ({"kind": "stage3"}, "kind is 'stage3'"),
        ({"dtype": "int8"}, "dtype 'int8' is not supported"),
        ({"kind": "vae"}, "is a stage1 checkpoint, not vae"),
    ):
        with pytest.raises(ValueError, match=message):
            convert_checkpoint(TINY / "stage1.pt", tmp_path / "new.safetensors", **arguments)
    assert names(tmp_path) == []
