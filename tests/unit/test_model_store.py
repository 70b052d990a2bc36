"""The model store: in which precision parts are computed."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from flashvideo import convert_checkpoint
from flashvideo.model_store import ModelStore, find_models
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


def test_other_files_compute_in_what_they_hold(halves, tmp_path):
    convert_checkpoint(TINY / "stage1.pt", tmp_path / "stage1.safetensors", dtype="bf16")
    with ModelStore(find_models(tmp_path, {}, ("stage1",))).use("stage1") as stage1:
        assert stage1.dtype == torch.bfloat16
