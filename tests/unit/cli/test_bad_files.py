"""Files that are damaged, foreign or hostile: a clear error before any long work, and nothing in them is executed."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import shutil
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from flashvideo import (
    convert_checkpoint,
    load_stage1,
    load_stage2,
    load_vae,
)
from flashvideo.loading.model_store import ModelStore, find_models
from flashvideo.loading.text import load_text_encoder
from flashvideo.runs.inspect import inspect_checkpoint
from flashvideo.runs.record import load_record
from tests.conftest import TINY

LOADERS = [load_stage1, load_stage2, load_vae, load_text_encoder, load_record, inspect_checkpoint]


@pytest.fixture
def models(tmp_path):
    """A copy of the bundled models, to be damaged."""
    return Path(shutil.copytree(TINY, tmp_path / "models"))


# files that run code


class Payload:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def payloads(mark):
    touch = f"open({str(mark)!r}, 'w').close()"
    return {
        "os.system": Payload(os.system, f"touch {mark}"),
        "eval": Payload(builtins.eval, touch),
        "exec": Payload(builtins.exec, touch),
        "subprocess": Payload(subprocess.call, ["touch", str(mark)]),
        "shutil": Payload(shutil.copy, str(TINY / "stage2.pt"), str(mark)),
    }


@pytest.fixture(params=list(payloads("")))
def evil(request, tmp_path):
    mark = tmp_path / "executed"
    payload = payloads(mark)[request.param]
    pickle.loads(pickle.dumps(payload))  # it does do what it is made for
    assert mark.exists()
    mark.unlink()
    return SimpleNamespace(payload=payload, mark=mark)


@pytest.mark.parametrize("place", ["beside", "inside"])
def test_code_in_a_checkpoint_is_refused(evil, run, names, tmp_path, place):
    tree = torch.load(TINY / "stage2.pt", weights_only=True)
    (tree if place == "beside" else tree["module"])["extra"] = evil.payload
    path = tmp_path / "stage2.pt"
    torch.save(tree, path)
    for load in LOADERS:
        with pytest.raises(ValueError, match=r"contains code: it asks to run .* Nothing in it was executed"):
            load(path)
    assert "contains code" in run("inspect", path, code=2).err
    assert "contains code" in run("convert", path, tmp_path / "new.safetensors", code=2).err
    assert names(tmp_path) == ["stage2.pt"]


def test_code_in_an_old_pickle_is_refused(evil, names, tmp_path):
    torch.save(
        {"module": {"w": torch.zeros(2)}, "x": evil.payload}, tmp_path / "a.pt", _use_new_zipfile_serialization=False
    )
    (tmp_path / "b.pt").write_bytes(pickle.dumps(evil.payload))
    for name in ("a.pt", "b.pt"):
        for load in LOADERS:
            with pytest.raises(ValueError, match=r"contains code: it asks to run .* Nothing in it was executed"):
                load(tmp_path / name)
    assert names(tmp_path) == ["a.pt", "b.pt"]


# damaged and foreign files


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    files = [TINY / "stage1.pt", TINY / "3d-vae.pt", TINY / "text" / "model.safetensors"]
    return [*files, convert_checkpoint(TINY / "stage2.pt", folder / "stage2.safetensors")]


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("part", [0.00001, 0.001, 0.5, 0.99, 0.99999])
def test_truncated_file(sound, tmp_path, index, part):
    whole = sound[index].read_bytes()
    path = tmp_path / f"cut{sound[index].suffix}"
    path.write_bytes(whole[: max(5, int(len(whole) * part))])
    for load in LOADERS:
        with pytest.raises(ValueError, match=r"truncated|damaged|another kind") as error:
            load(path)
        assert str(path) in str(error.value)


def no_checkpoint_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


FOREIGN = {
    "web page": (lambda p: p.write_text("<!DOCTYPE html><html>Log in"), "is a web page, not weights"),
    "page without doctype": (lambda p: p.write_text("\n <HTML>Not found"), "is a web page, not weights"),
    "lfs pointer": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "git lfs pull",
    ),
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "zip": (no_checkpoint_zip, "is a zip archive, not weights"),
    "text": (lambda p: p.write_text("hello world, this is no model"), "no readable safetensors"),
    "image": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), r"is a picture \(PNG\), not"),
    "tensor alone": (lambda p: torch.save(torch.zeros(3), p), "no dictionary of tensors"),
    "folder": (lambda p: p.mkdir(), "has no weights"),
    "missing": (lambda p: None, "There is no file"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_file(run, no_work, names, tmp_path, kind):
    make, message = FOREIGN[kind]
    path = tmp_path / "model.safetensors"
    make(path)
    for load in (*LOADERS[:3], load_record, inspect_checkpoint):
        with pytest.raises(ValueError, match=message):
            load(path)
    before = names(tmp_path)
    run("inspect", path, code=2)
    run("convert", path, tmp_path / "new.safetensors", code=2)
    run("refine", path, "--models", TINY, "-o", tmp_path / "out.mp4", code=2)
    assert names(tmp_path) == before


@pytest.mark.parametrize("name", ["stage1", "stage2", "vae", "text-encoder", "lora"])
def test_foreign_file_of_any_part(generate, no_work, names, tmp_path, name):
    path = tmp_path / "login.safetensors"
    path.write_text("<html>Log in")
    said = generate("a ball", f"--{name}", path, "-o", tmp_path / "out.mp4", code=2)
    assert "is a web page, not weights" in said.err
    assert names(tmp_path) == ["login.safetensors"]


def test_wrong_stage(generate, no_work, names, tmp_path):
    with pytest.raises(ValueError, match=r"is a Stage II transformer .*Stage I was expected"):
        load_stage1(TINY / "stage2.pt")
    with pytest.raises(ValueError, match=r"is a Stage I transformer .*Stage II was expected"):
        load_stage2(TINY / "stage1.pt")
    with pytest.raises(ValueError, match="not a CogVideoX VAE"):
        load_vae(TINY / "stage1.pt")
    with pytest.raises(ValueError, match="no FlashVideo or CogVideoX transformer"):
        load_stage1(TINY / "3d-vae.pt")
    for name, file in (
        ("stage1", "stage2.pt"),
        ("stage2", "stage1.pt"),
        ("vae", "text"),
        ("text-encoder", "3d-vae.pt"),
    ):
        generate("a ball", f"--{name}", TINY / file, "-o", tmp_path / "out.mp4", code=2)
    assert names(tmp_path) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_weights_are_found_and_named(run, tmp_path, value):
    for file, container in (("stage1.pt", "module"), ("3d-vae.pt", "state_dict")):
        tree = torch.load(TINY / file, weights_only=True)
        name = next(name for name in tree[container] if name.endswith("weight"))
        tree[container][name].view(-1)[-1] = value
        torch.save(tree, tmp_path / file)
        said = run("inspect", tmp_path / file, code=1)
        assert f"NaN or infinite values in: {name}" in said.out
        found = json.loads(run("inspect", tmp_path / file, "--json", code=1).out)
        assert (found["damaged"], found["sound"]) == ([name], False)
        run("inspect", tmp_path / file, "--quick")


def test_nan_weights_stop_the_sampling(generate, names, models, tmp_path):
    tree = torch.load(models / "stage1.pt", weights_only=True)
    tree["module"][next(n for n in tree["module"] if n.endswith("query_key_value.original.weight"))].fill_(float("nan"))
    torch.save(tree, models / "stage1.pt")
    said = generate("a ball", "--models", models, "-o", tmp_path / "out.mp4", code=2)
    assert "NaN or infinite" in said.err
    assert names(tmp_path) == ["models"]


def test_incomplete_vae_is_found_before_work(generate, no_work, models, tmp_path):
    tree = torch.load(models / "3d-vae.pt", weights_only=True)
    tree["state_dict"].pop("decoder.mid.block_1.conv1.conv.weight")
    torch.save(tree, models / "3d-vae.pt")
    said = generate("a ball", "--models", models, "-o", tmp_path / "out.mp4", code=2)
    assert "decoder.mid_block.resnets.0.conv1.conv.weight" in said.err


def test_parts_that_do_not_fit_together(generate, no_work, tmp_path):
    lora = {"transformer.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.zeros(2, 3072)}
    lora["transformer.transformer_blocks.0.attn1.to_q.lora_B.weight"] = torch.zeros(3072, 2)
    save_file(lora, tmp_path / "large.safetensors")
    said = generate("a ball", "--lora", tmp_path / "large.safetensors", "-o", tmp_path / "out.mp4", code=2)
    assert "LoRA does not fit" in said.err
    store = ModelStore(find_models(str(TINY), {}, ("stage1", "stage2")))
    store.check()
    with pytest.raises(ValueError, match=r"width 4096, stage1 .* takes 32"):
        store.check_text_width(4096, "t5xxl")


def test_missing_parts_are_listed(generate, run, no_work, made, tmp_path):
    (tmp_path / "empty").mkdir()
    said = generate("a ball", "--models", tmp_path / "empty", "-o", tmp_path / "out.mp4", code=2)
    for looked_for in ("stage1*.safetensors", "stage2*.pt", "*vae*.pt", "t5*.safetensors", "--models FOLDER"):
        assert looked_for in said.err
    command = ("refine", made / "out.preview.safetensors", "-o", tmp_path / "out.mp4")
    said = run(*command, code=2)
    assert "no models folder was given" in said.err
    assert "text" not in said.err.split("Give")[0]
    assert "There is no folder" in run(*command, "--models", tmp_path / "nowhere", code=2).err
    assert "which was given for vae" in run(*command, "--models", TINY, "--vae", tmp_path / "v.pt", code=2).err
