"""What core's save nodes make of models that our loaders loaded loads again as the same models, here and there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flashvideo import convert_checkpoint, load_stage1, load_stage2, load_vae
from flashvideo.loading.model_store import ASSETS, BUNDLED
from flashvideo.loading.text import load_text_encoder
from flashvideo.runs.inspect import inspect_checkpoint
from tests.comfy.conftest import Bench
from tests.conftest import TINY
from tests.quantized_files import quantized_state

BUNDLED_FILES = {name: ASSETS / BUNDLED / f"{name}.safetensors" for name in ("stage1", "stage2", "vae")}
LOADERS = {"stage1": load_stage1, "stage2": load_stage2, "vae": load_vae}


def same(left: Any, right: Any) -> bool:
    others = dict(right.named_parameters())
    return all(torch.equal(p.float(), others.pop(n).float()) for n, p in left.named_parameters()) and not others


def saved_file(bench: Bench, name: str) -> Path:
    (file,) = (bench.server.base / "output" / "saved").glob(f"{name}*_00001_.safetensors")
    return file


def test_a_whole_checkpoint(bench: Bench) -> None:
    """Model, VAE and text encoder in one file, each with its own latent scale, norms and text length."""
    model = bench.add("FlashVideoLoadStage2", model_name="tiny-stage2.safetensors (bundled)")
    sockets = {
        "clip": bench.add("FlashVideoLoadTextEncoder", text_encoder_name="tiny-text (bundled)"),
        "vae": bench.add("FlashVideoLoadVAE", vae_name="tiny-vae.safetensors (bundled)"),
    }
    bench.add("CheckpointSave", model=model, **sockets, filename_prefix="saved/whole")
    bench.add("VAESave", vae=sockets["vae"], filename_prefix="saved/vae")
    bench.add("CLIPSave", clip=sockets["clip"], filename_prefix="saved/text")
    bench.run()
    whole = saved_file(bench, "whole")
    found = inspect_checkpoint(whole)
    assert (found.kind, found.also, found.sound) == ("stage2", ("vae", "text"), True)
    for kind, file in (("stage2", whole), ("vae", whole), ("vae", saved_file(bench, "vae"))):
        before, after = LOADERS[kind](BUNDLED_FILES[kind]), LOADERS[kind](file)
        assert same(after, before)
        for key in ("latent_scale", "max_text_seq_length", "norm_eps", "norm_num_groups"):
            assert getattr(after.config, key, None) == getattr(before.config, key, None), key
    text = load_text_encoder(ASSETS / BUNDLED / "text")
    for file in (whole, saved_file(bench, "text")):
        assert same(load_text_encoder(file, tokenizer=ASSETS / BUNDLED / "text").model, text.model)


@pytest.mark.parametrize("way", ["plain", "comfy_quant", "scale_input", "int8 rows", "mxfp8", "nvfp4"])
def test_a_model_in_few_bits(bench: Bench, tmp_path: Path, way: str) -> None:
    """Saved as it was loaded, loaded by the library as what it means, and by our node again."""
    native = load_file(convert_checkpoint(TINY / "stage2.pt", tmp_path / "native.safetensors"))
    save_file(native if way == "plain" else quantized_state(way, native)[0], tmp_path / "stored.safetensors")
    name = f"{tmp_path.name}.safetensors"
    bench.server.add_model("diffusion_models", tmp_path / "stored.safetensors", name)
    model = bench.add("FlashVideoLoadStage2", model_name=name)
    bench.add("ModelSave", model=model, filename_prefix=f"saved/{tmp_path.name}")
    bench.run()
    file = saved_file(bench, tmp_path.name)
    assert same(*(load_stage2(path, dtype=torch.float32) for path in (file, tmp_path / "stored.safetensors")))
    bench.server.add_model("diffusion_models", file, f"again-{name}")
    again = Bench(bench.server, tmp_path)
    probe = again.add("ProbeModel", model=again.add("FlashVideoLoadStage2", model_name=f"again-{name}"))
    facts = json.loads(again.run().outputs[probe[0]]["facts"][0])
    assert ("QuantizedTensor" in facts["weights"]) == (way != "plain")
