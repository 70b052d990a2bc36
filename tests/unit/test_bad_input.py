"""Bad input: a clear error before any long work, nothing half-written, nothing in a file executed."""

from __future__ import annotations

import argparse
import builtins
import errno
import importlib
import json
import logging
import os
import pickle
import resource
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

import flashvideo
from flashvideo import (
    convert_checkpoint,
    decode_latents,
    degrade_latents,
    encode_video,
    load_stage1,
    load_stage2,
    load_vae,
    refine_latents,
    sample_stage1,
)
from flashvideo.checkpoints.files import open_weights
from flashvideo.checkpoints.inspect import inspect_checkpoint
from flashvideo.cli.options import pick_device
from flashvideo.config import Stage1Settings, Stage2Settings
from flashvideo.model_store import ModelStore, find_models
from flashvideo.models.text import load_text_encoder
from flashvideo.preview import load_preview

ASSETS = Path(flashvideo.__file__).parent / "assets" / "tiny"
LOADERS = [load_stage1, load_stage2, load_vae, load_text_encoder, load_preview, inspect_checkpoint]


@pytest.fixture
def no_work(monkeypatch):
    """Fails the test if a model is loaded."""

    def loading(_store, name):
        raise AssertionError(f"{name} was loaded")

    monkeypatch.setattr(ModelStore, "_load", loading)


@pytest.fixture
def models(tmp_path):
    """A copy of the bundled models, to be damaged."""
    return Path(shutil.copytree(ASSETS, tmp_path / "models"))


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
        "shutil": Payload(shutil.copy, str(ASSETS / "stage2.pt"), str(mark)),
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
    tree = torch.load(ASSETS / "stage2.pt", weights_only=True)
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
            with pytest.raises(ValueError, match="was not executed"):
                load(tmp_path / name)
    assert names(tmp_path) == ["a.pt", "b.pt"]


@pytest.mark.parametrize("function", [logging.FileHandler, builtins.open])
def test_unknown_callables_are_not_called(tmp_path, function):
    mark = tmp_path / "executed"
    tree = torch.load(ASSETS / "stage2.pt", weights_only=True)
    tree["log"] = Payload(function, str(mark), "w")
    pickle.loads(pickle.dumps(tree["log"])).close()
    assert mark.exists()
    mark.unlink()
    torch.save(tree, tmp_path / "stage2.pt")
    load_stage2(tmp_path / "stage2.pt")
    assert not mark.exists()


def test_honest_pickle_with_unknown_classes_loads(tmp_path, monkeypatch):
    module = importlib.import_module("types").ModuleType("megatron_like")
    module.Config = type("Config", (dict,), {"__module__": "megatron_like"})
    module.Flags = type("Flags", (set,), {"__module__": "megatron_like"})
    monkeypatch.setitem(__import__("sys").modules, "megatron_like", module)
    tree = torch.load(ASSETS / "stage1.pt", weights_only=True)
    tree["args"] = argparse.Namespace(lr=1e-4, nested=module.Config(a=[1, 2]), flags=module.Flags("ab"))
    tree["rng"] = (torch.get_rng_state(), torch.float16, torch.Size((2, 3)))
    torch.save(tree, tmp_path / "stage1.pt")
    monkeypatch.delitem(__import__("sys").modules, "megatron_like")
    ours, theirs = (load_stage1(path).state_dict() for path in (tmp_path / "stage1.pt", ASSETS / "stage1.pt"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    from flashvideo.checkpoints.pickles import InertPlaceholder, PickledFile

    args = PickledFile(tmp_path / "stage1.pt").tree["args"]
    assert isinstance(args, InertPlaceholder)
    assert type(args).__module__ == "placeholder.argparse"


# damaged and foreign files


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    files = [ASSETS / "stage1.pt", ASSETS / "3d-vae.pt", ASSETS / "text" / "model.safetensors"]
    return [*files, convert_checkpoint(ASSETS / "stage2.pt", folder / "stage2.safetensors")]


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
    "zip": (no_checkpoint_zip, "no torch checkpoint"),
    "text": (lambda p: p.write_text("hello world, this is no model"), "no readable safetensors"),
    "image": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), "no readable safetensors"),
    "tensor alone": (lambda p: torch.save(torch.zeros(3), p), "no dictionary of tensors"),
    "folder": (lambda p: p.mkdir(), r"has no \.safetensors weights"),
    "missing": (lambda p: None, "There is no file"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_file(run, no_work, names, tmp_path, kind):
    make, message = FOREIGN[kind]
    path = tmp_path / "model.safetensors"
    make(path)
    for load in (*LOADERS[:3], load_preview, inspect_checkpoint):
        with pytest.raises(ValueError, match=message):
            load(path)
    before = names(tmp_path)
    run("inspect", path, code=2)
    run("convert", path, tmp_path / "new.safetensors", code=2)
    run("refine", path, "--models", "tiny", "-o", tmp_path / "out.mp4", code=2)
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
        load_stage1(ASSETS / "stage2.pt")
    with pytest.raises(ValueError, match=r"is a Stage I transformer .*Stage II was expected"):
        load_stage2(ASSETS / "stage1.pt")
    with pytest.raises(ValueError, match="not a CogVideoX VAE"):
        load_vae(ASSETS / "stage1.pt")
    with pytest.raises(ValueError, match="no FlashVideo or CogVideoX transformer"):
        load_stage1(ASSETS / "3d-vae.pt")
    for name, file in (
        ("stage1", "stage2.pt"),
        ("stage2", "stage1.pt"),
        ("vae", "text"),
        ("text-encoder", "3d-vae.pt"),
    ):
        generate("a ball", f"--{name}", ASSETS / file, "-o", tmp_path / "out.mp4", code=2)
    assert names(tmp_path) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_weights_are_found_and_named(run, tmp_path, value):
    for file, container in (("stage1.pt", "module"), ("3d-vae.pt", "state_dict")):
        tree = torch.load(ASSETS / file, weights_only=True)
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
    store = ModelStore(find_models("tiny", {}, ("stage1", "stage2")))
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
    assert "which was given for vae" in run(*command, "--models", "tiny", "--vae", tmp_path / "v.pt", code=2).err


@pytest.mark.parametrize("name", ["meta", "abacus", "cuda:99", "cpu:x"])
def test_unknown_device(name):
    with pytest.raises(ValueError, match=f"device '{name}' cannot be used"):
        pick_device(name)


# settings

SETTINGS = [
    ("--frames", "48", "48 frames: the VAE takes 1, 5, 9"),
    ("--frames", "0", "0 frames"),
    ("--frames", "-3", "-3 frames"),
    ("--frames", "5.0", "invalid int"),
    ("--size", "1000x1000", "height 1000: sizes are multiples of 16 pixels. Use 992 or 1008"),
    ("--size", "huge", "expected 270p"),
    ("--preview-size", "40x32", "width 40"),
    ("--noise-step", "1000", "noise step 1000: expected a whole number from 0"),
    ("--noise-step", "-1", "noise step -1"),
    ("--noise-step", "675.5", "invalid int"),
    ("--steps", "0", "steps of Stage II is 0"),
    ("--preview-steps", "0", "steps of Stage I is 0"),
    ("--preview-steps", "1001", "the schedule has 1000"),
    ("--seed", "-1", "seed -1"),
    ("--seed", str(2**63), "seed"),
    ("--solver", "magic", "invalid choice"),
    ("--shift", "0", "shift is 0"),
    ("--shift", "-2", "shift is -2"),
    ("--shift", "nan", "shift is nan"),
    ("--shift", "inf", "shift is inf"),
    ("--cfg", "nan", "nan"),
    ("--cfg", "-1", "-1"),
    ("--preview-cfg", "inf", "inf"),
    ("--num-previews", "0", "--num-previews is 0"),
    ("--fps", "0", "--fps is 0"),
    ("--fps", "nan", "--fps is nan"),
    ("--resize", "melt", "invalid choice"),
    ("--dtype", "fp8_e4m3", "invalid choice"),
    ("--device", "abacus", "device 'abacus'"),
    ("--tokenizer", "nowhere", "given for the tokenizer"),
]


@pytest.mark.parametrize(("option", "value", "message"), SETTINGS)
def test_bad_setting(generate, no_work, names, tmp_path, option, value, message):
    said = generate("a ball", f"{option}={value}", "-o", tmp_path / "out.mp4", code=2)
    assert message in said.err
    assert names(tmp_path) == []


@pytest.mark.parametrize("prompt", ["", " \n\t "])
def test_empty_prompt(generate, no_work, names, tmp_path, prompt):
    assert "The prompt is empty" in generate(prompt, "-o", tmp_path / "out.mp4", code=2).err
    assert names(tmp_path) == []


def test_prompt_or_prompts(generate, no_work, names, tmp_path):
    assert "one of the two" in generate("-o", tmp_path / "out.mp4", code=2).err
    assert "one of the two" in generate("a ball", "--prompts", "x.txt", "-o", tmp_path / "out", code=2).err
    for content, message in ((b"\n# no\n", "no prompts in it"), (b"\xff\xfe\xff", "cannot be read")):
        (tmp_path / "p.txt").write_bytes(content)
        assert message in generate("--prompts", tmp_path / "p.txt", "-o", tmp_path / "out", code=2).err
    assert "cannot be read" in generate("--prompts", tmp_path / "q.txt", "-o", tmp_path / "out", code=2).err
    assert names(tmp_path) == ["p.txt"]


@pytest.mark.parametrize(
    "settings",
    [
        Stage1Settings(num_frames=48),
        Stage1Settings(num_frames=0),
        Stage1Settings(height=100),
        Stage1Settings(num_steps=0),
        Stage1Settings(num_steps=2.5),  # type: ignore[arg-type]
        Stage1Settings(seed=-1),
        Stage1Settings(guidance_curve="wild"),
        Stage1Settings(guidance_exponent=4.5),
        Stage1Settings(guidance_scale=-1),
        Stage2Settings(width=8),
        Stage2Settings(noise_step=675.5),  # type: ignore[arg-type]
        Stage2Settings(noise_step=1000),
        Stage2Settings(solver="magic"),
        Stage2Settings(shift=0),
        Stage2Settings(shift=float("inf")),
        Stage2Settings(rounding="fp4"),
        Stage2Settings(resize="melt"),
        Stage2Settings(guidance_scale=float("nan")),
        Stage2Settings(seed=2**63),
    ],
)
def test_bad_settings_of_the_library(settings):
    with pytest.raises(ValueError, match=r"\d|expected"):
        settings.check()
    type(settings)().check()


# outputs


@pytest.mark.parametrize("name", ["out.mp4", "out.preview.mp4", "out.preview.safetensors", "out.refined.safetensors"])
def test_existing_output_is_kept(generate, no_work, names, tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    said = generate("a ball", "-o", tmp_path / "out.mp4", code=2)
    assert name in said.err
    assert "--overwrite" in said.err
    assert names(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == b"mine"


def test_overwrite(generate, run, tmp_path, made):
    for file in made.iterdir():
        (tmp_path / file.name).write_bytes(b"old")
    options = ("--seed", 3, "--joint", "--keep-degraded", "--keep-latents", "--overwrite")
    generate("a red ball rolls", *options, "-o", tmp_path / "out.mp4")
    for file in made.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()
    for command, source in (("refine", "preview"), ("decode", "refined")):
        path = made / f"out.{source}.safetensors"
        run(command, path, "--models", "tiny", "-o", tmp_path / "out.mp4", code=2)
        run(command, path, "--models", "tiny", "-o", tmp_path / "out.mp4", "--overwrite")
    assert (tmp_path / "out.mp4").read_bytes() == (made / "out.mp4").read_bytes()


def test_output_that_cannot_be(generate, no_work, names, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.mp4").mkdir()
    for output, message in (
        (tmp_path / "nowhere" / "out.mp4", "does not exist"),
        (tmp_path / "file" / "out.mp4", "does not exist"),
        (tmp_path / "folder.mp4", "is a folder"),
        (tmp_path / "out.gif", "expected one of .mp4"),
        (tmp_path / "out", "expected one of .mp4"),
    ):
        assert message in generate("a ball", "-o", output, code=2).err
    (tmp_path / "p.txt").write_text("a ball")
    assert "is a file" in generate("--prompts", tmp_path / "p.txt", "-o", tmp_path / "file", code=2).err
    assert "does not exist" in generate("--prompts", tmp_path / "p.txt", "-o", tmp_path / "a" / "b", code=2).err
    assert names(tmp_path) == ["file", "folder.mp4", "p.txt"]


def test_closed_folder(generate, run, no_work, names, tmp_path, monkeypatch):
    def closed(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", closed)
    for said in (
        generate("a ball", "-o", tmp_path / "out.mp4", code=2),
        run("convert", ASSETS / "stage1.pt", tmp_path / "new.safetensors", code=2),
    ):
        assert "cannot be written to (Permission denied)" in said.err
    assert names(tmp_path) == []


def test_full_disk_is_told_before_work(generate, run, no_work, made, names, tmp_path, monkeypatch):
    free = SimpleNamespace(total=10**9, used=10**9, free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    (tmp_path / "p.txt").write_text("a ball")
    for said in (
        generate("a ball", "-o", tmp_path / "out.mp4", code=2),
        generate("--prompts", tmp_path / "p.txt", "-o", tmp_path / "out", code=2),
        run("refine", made / "out.preview.safetensors", "--models", "tiny", "-o", tmp_path / "out.mp4", code=2),
        run("convert", ASSETS / "stage1.pt", tmp_path / "new.safetensors", code=2),
    ):
        assert "0.00 GB free" in said.err
        assert "Make room" in said.err
    assert [name for name in names(tmp_path) if name != "out"] == ["p.txt"]


@pytest.fixture
def small_files():
    """``with small_files(bytes):`` no file grows beyond that: what a full disk does, by the system itself."""

    class Limit:
        def __init__(self, size):
            self.size = size

        def __enter__(self):
            self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

        def __exit__(self, *_):
            resource.setrlimit(resource.RLIMIT_FSIZE, self.before)

    return Limit


@pytest.mark.parametrize(("size", "left"), [(5_000, 0), (64_000, 2)])
def test_disk_that_fills_up(generate, names, small_files, tmp_path, size, left):
    """Stage I's latents take 61 kB, the refined ones 67 kB."""
    with small_files(size):
        said = generate("a ball", "-o", tmp_path / "out.mp4", code=1)
    assert "Nothing half-written was left behind" in said.err
    assert names(tmp_path) == ["out.preview.mp4", "out.preview.safetensors"][:left]


def test_disk_that_fills_up_while_encoding(run, names, small_files, made, tmp_path):
    with small_files(5_000):
        said = run("decode", made / "out.refined.safetensors", "--models", "tiny", "-o", tmp_path / "out.mp4", code=1)
    assert "out.mp4 failed" in said.err
    assert names(tmp_path) == []


def test_disk_that_fills_up_while_converting(run, names, small_files, tmp_path):
    with small_files(100_000):
        said = run("convert", ASSETS / "stage2.pt", tmp_path / "new.safetensors", code=1)
    assert "new.safetensors failed" in said.err
    assert names(tmp_path) == []


def test_no_space_at_the_last_step(generate, names, tmp_path, monkeypatch):
    def full(_self, _target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    said = generate("a ball", "-o", tmp_path / "out.mp4", code=1)
    assert "No space left on device" in said.err
    assert names(tmp_path) == []


# the library's functions


def latents(*shape):
    return torch.zeros(shape or (1, 16, 2, 4, 4))


EMBEDS = torch.zeros(1, 226, 32)


def never(*_, **__):
    raise AssertionError("the transformer ran")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((latents(1, 4, 2, 4, 4), EMBEDS), {}, r"noise is .* \[1, 4, 2, 4, 4\]"),
        ((latents(16, 2, 4, 4), EMBEDS), {}, r"expected floating point \[B, 16"),
        ((latents(1, 16, 2, 4, 5), EMBEDS), {}, "must be even"),
        ((latents().long(), EMBEDS), {}, "torch.int64"),
        ((latents(), torch.zeros(1, 226, 16)), {}, r"prompt_embeds has shape \[1, 226, 16\]; expected \[1, 226, 32\]"),
        ((latents(), torch.zeros(1, 100, 32)), {}, r"expected \[1, 226, 32\]"),
        ((latents(), torch.zeros(3, 226, 32)), {}, r"expected \[1, 226, 32\]"),
        ((latents(), EMBEDS), {"negative_prompt_embeds": torch.zeros(1, 226, 8)}, "negative_prompt_embeds has shape"),
        ((latents(), EMBEDS), {"num_steps": 0}, "num_steps is 0"),
        ((latents(), EMBEDS), {"num_steps": 1001}, "1000 steps"),
        ((latents(), EMBEDS), {"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ((latents(), EMBEDS), {"guidance_exponent": 4.5}, "must be whole"),
        ((latents(), EMBEDS), {"guidance_curve": "wild"}, "guidance_curve is 'wild'"),
        ((latents(), EMBEDS), {"num_steps": 3, "step_noise": [latents()] * 3}, "expected 2 tensors"),
        ((latents(), EMBEDS), {"num_steps": 2, "step_noise": [latents(1, 16, 1, 4, 4)]}, "expected 1 tensors of shape"),
    ],
)
def test_sample_stage1_refuses(tiny_stage1, monkeypatch, arguments, options, message):
    monkeypatch.setattr(type(tiny_stage1), "forward", never)
    with pytest.raises(ValueError, match=message):
        sample_stage1(tiny_stage1, *arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((latents(1, 4, 2, 4, 4), EMBEDS), {}, r"latents is .* \[1, 4, 2, 4, 4\]"),
        ((latents(1, 16, 2, 3, 4), EMBEDS), {}, "must be even"),
        ((latents(), torch.zeros(1, 226, 16)), {}, r"prompt_embeds has shape \[1, 226, 16\]"),
        ((latents(), EMBEDS), {"noise_step": 1000}, "noise step 1000"),
        ((latents(), EMBEDS), {"noise_step": 675.5}, "noise step 675.5"),
        ((latents(), EMBEDS), {"num_steps": 0}, "num_steps is 0"),
        ((latents(), EMBEDS), {"shift": 0}, "shift is 0"),
        ((latents(), EMBEDS), {"shift": -1}, "shift is -1"),
        ((latents(), EMBEDS), {"shift": float("nan")}, "shift is nan"),
        ((latents(), EMBEDS), {"solver": "magic"}, "solver is 'magic'; expected one of euler"),
        ((latents(), EMBEDS), {"rounding": "fp4"}, "rounding is 'fp4'"),
        ((latents(), EMBEDS), {"guidance_scale": -1}, "guidance_scale is -1"),
    ],
)
def test_refine_latents_refuses(tiny_stage2, monkeypatch, arguments, options, message):
    monkeypatch.setattr(type(tiny_stage2), "forward", never)
    with pytest.raises(ValueError, match=message):
        refine_latents(tiny_stage2, *arguments, **options)


def test_other_stage_is_refused(tiny_stage1, tiny_stage2, monkeypatch):
    monkeypatch.setattr(type(tiny_stage1), "forward", never)
    with pytest.raises(ValueError, match="Stage II transformer"):
        sample_stage1(tiny_stage2, latents(), EMBEDS)
    with pytest.raises(ValueError, match="looks like Stage I's"):
        refine_latents(tiny_stage1, latents(), EMBEDS)


def test_degrade_latents_refuses():
    for arguments, options, message in (
        ((latents(1, 4, 2, 4, 4),), {}, "expected floating point"),
        ((latents(), 1000), {}, "noise step 1000"),
        ((latents(), -1), {}, "noise step -1"),
        ((latents(), 0.5), {}, "noise step 0.5"),
        ((latents(),), {"noise": latents(1, 16, 1, 4, 4)}, "noise has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            degrade_latents(*arguments, **options)


def test_encode_and_decode_refuse(tiny_vae):
    video = torch.zeros(1, 3, 5, 32, 32)
    for wrong, options, message in (
        (video[:, :, :4], {}, "4 frames"),
        (video[:, :, :0], {}, "shape"),
        (video[..., :30], {}, "multiples of 8"),
        (video[:, :1], {}, r"expected floating point \[B, 3, F, H, W\]"),
        (video[0], {}, r"expected floating point \[B, 3, F, H, W\]"),
        (video.to(torch.uint8), {}, "torch.uint8"),
        (video, {"noise": latents(1, 16, 1, 4, 4)}, "noise has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            encode_video(tiny_vae, wrong, **options)
    for wrong, options, message in (
        (latents(1, 4, 2, 4, 4), {}, "this VAE decodes 16"),
        (latents(16, 2, 4, 4), {}, "expected floating point"),
        (latents(1, 16, 0, 4, 4), {}, "shape"),
        (latents(), {"method": "magic"}, "method is 'magic'"),
    ):
        with pytest.raises(ValueError, match=message):
            decode_latents(tiny_vae, wrong, **options)


def test_convert_refuses(tmp_path, names):
    for arguments, message in (
        ({"kind": "stage3"}, "kind is 'stage3'"),
        ({"dtype": "int8"}, "dtype 'int8' is not supported"),
        ({"kind": "vae"}, "is a stage1 checkpoint, not vae"),
    ):
        with pytest.raises(ValueError, match=message):
            convert_checkpoint(ASSETS / "stage1.pt", tmp_path / "new.safetensors", **arguments)
    assert names(tmp_path) == []


def test_damaged_folder(tmp_path):
    shutil.copytree(ASSETS / "text", tmp_path / "text")
    (tmp_path / "text" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is no JSON"):
        open_weights(tmp_path / "text")
    (tmp_path / "text" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(ValueError, match=r"lacks gone\.safetensors"):
        open_weights(tmp_path / "text")


def test_unreadable_file(tmp_path, monkeypatch):
    (tmp_path / "a.pt").write_bytes(b"x")
    monkeypatch.setattr(
        Path, "open", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EACCES, "Permission denied"))
    )
    with pytest.raises(ValueError, match=r"cannot be read \(Permission denied\)"):
        open_weights(tmp_path / "a.pt")
