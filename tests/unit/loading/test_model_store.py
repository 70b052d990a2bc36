"""The model store: in which precision parts are computed."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from flashvideo import convert_checkpoint
from flashvideo.loading.model_store import ModelStore, find_models
from flashvideo.loading.published import PUBLISHED
from flashvideo.training.models import TransformerModel, new_transformer, save_transformer
from tests.conftest import TINY

PARTS = ("stage1", "stage2", "vae", "text")


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """The golden models in fp16."""
    folder = tmp_path_factory.mktemp("halves")
    for name, file in (("stage1", "stage1.pt"), ("stage2", "stage2.pt"), ("vae", "3d-vae.pt")):
        convert_checkpoint(TINY / file, folder / f"{name}.safetensors", dtype="fp16")
    shutil.copytree(TINY / "text", folder / "text")
    weights = load_file(TINY / "text" / "model.safetensors")
    save_file({name: value.half() for name, value in weights.items()}, folder / "text" / "model.safetensors")
    return folder


def dtypes(store: ModelStore) -> set[torch.dtype]:
    found = set()
    for name in PARTS:
        with store.use(name) as part:
            found |= {parameter.dtype for parameter in (part[0] if name == "text" else part).parameters()}
    return found


def test_fp16_files_compute_in_fp32_on_a_cpu(halves):
    paths = find_models(halves, {}, PARTS)
    assert dtypes(ModelStore(paths)) == {torch.float32}
    assert dtypes(ModelStore(paths, dtype=torch.bfloat16)) == {torch.bfloat16}
    assert "dtype" not in ModelStore(paths).describe(), "nobody chose it"


def test_prompts_have_the_length_that_the_stages_take(tmp_path):
    """Without a call of ``check`` before."""
    size = TransformerModel(num_layers=1, num_attention_heads=1, time_embed_dim=8, text_embed_dim=32)
    model = new_transformer(size, 0, stage2=False, latent_scale=1.0)
    save_transformer(model, tmp_path / "stage1.safetensors", "stage1")
    shutil.copytree(TINY / "text", tmp_path / "text")
    with ModelStore(find_models(tmp_path, {}, ("stage1", "text"))).use("text") as (_, _, length):
        assert length == 32
    with ModelStore(find_models(TINY, {}, ("stage2", "text"))).use("text") as (_, _, length):
        assert length == 226


def test_other_files_compute_in_what_they_hold(halves, tmp_path):
    convert_checkpoint(TINY / "stage1.pt", tmp_path / "stage1.safetensors", dtype="bf16")
    with ModelStore(find_models(tmp_path, {}, ("stage1",))).use("stage1") as stage1:
        assert stage1.dtype == torch.bfloat16


def test_parts_that_are_not_found_are_told_with_their_sources(tmp_path):
    with pytest.raises(ValueError, match="Not found in") as error:
        find_models(tmp_path, {}, ("stage2", "text"))
    said = str(error.value)
    assert "https://huggingface.co/FoundationVision/FlashVideo/resolve/main/stage2.pt" in said
    assert PUBLISHED["text"].url in said
    assert PUBLISHED["stage1"].url not in said
