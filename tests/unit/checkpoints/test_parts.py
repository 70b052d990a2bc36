"""One table of what stands around a model's names: for transformer, VAE and text encoder, load, inspect and convert."""

from __future__ import annotations

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from flashvideo import convert_checkpoint, load_stage2, load_vae
from flashvideo.checkpoints.files import open_weights
from flashvideo.checkpoints.metadata import NOTE, CheckpointMetadata, metadata_tensor
from flashvideo.checkpoints.parts import model_part
from flashvideo.loading.text import load_text_encoder
from flashvideo.runs.inspect import inspect_checkpoint
from tests.conftest import TINY
from tests.unit.conftest import TINY_TEXT

PREFIXES = (
    *("module.", "_orig_mod.", "module._orig_mod.", "_forward_module.", "_fsdp_wrapped_module.", "model."),
    *("model.diffusion_model.", "diffusion_model.", "transformer.", "first_stage_model.", "vae.", "text_encoder."),
    *("cond_stage_model.", "cond_stage_model.transformer.", "conditioner.embedders.0.transformer.", "unet.", "net."),
    *("text_encoders.t5xxl.transformer.", "text_encoders.t5xxl.", "t5xxl.transformer.", "ema.", "ema_model.module."),
    *("model._orig_mod.diffusion_model.", "pipe.dit.", "student.", "generator."),
)
CONTAINERS = (
    *(("module",), ("state_dict",), ("model",), ("ema",), ("model", "state_dict"), ("app", "model")),
    *(("state", "ema", "shadow"), ("params_ema",)),
)


def load_text(path, **more):
    return load_text_encoder(path, tokenizer=TINY_TEXT, **more).model


LOADERS = {"transformer": load_stage2, "vae": load_vae, "text": load_text}
KINDS = {"transformer": "stage2", "vae": "vae", "text": "text"}


@pytest.fixture(scope="module")
def states():
    vae = torch.load(TINY / "3d-vae.pt", weights_only=True)["state_dict"]
    published = torch.load(TINY / "stage2.pt", weights_only=True)["module"]
    bare = {name.removeprefix("model.diffusion_model."): tensor for name, tensor in published.items()}
    return {"transformer": bare, "vae": vae, "text": load_file(TINY_TEXT / "model.safetensors")}


@pytest.fixture(scope="module")
def models(states, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    for part, state in states.items():
        save_file(state, folder / f"{part}.safetensors")
    return {part: load(folder / f"{part}.safetensors") for part, load in LOADERS.items()}


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


def prefixed(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize("part", LOADERS)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes(tmp_path, states, models, part, prefix):
    file = tmp_path / "x.safetensors"
    save_file(prefixed(states[part], prefix), file)
    assert same(LOADERS[part](file), models[part])
    found = inspect_checkpoint(file, values=False)
    assert (found.kind, found.problems) == (KINDS[part], ())
    if part != "text":
        assert same(LOADERS[part](convert_checkpoint(file, tmp_path / "own.safetensors")), models[part])


@pytest.mark.parametrize("part", LOADERS)
@pytest.mark.parametrize("keys", CONTAINERS, ids=".".join)
@pytest.mark.parametrize("zipped", [True, False])
def test_containers(tmp_path, states, models, part, keys, zipped):
    tree = prefixed(states[part], "model.")
    for key in reversed(keys):
        tree = {key: tree, "step": torch.tensor(7), "rng_state": torch.ones(3), "args": {"lr": 1e-4}}
    tree["optimizer"] = {"state": {0: {"exp_avg": torch.ones(2)}, 1: {"exp_avg": torch.ones(2)}}, "param_groups": [{}]}
    torch.save(tree, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    assert same(LOADERS[part](tmp_path / "x.pt"), models[part])
    assert inspect_checkpoint(tmp_path / "x.pt", values=False).container == ".".join(keys)


@pytest.mark.parametrize("part", LOADERS)
def test_wrappers_inside_of_names(tmp_path, states, models, part):
    """torch.compile of single layers, checkpointed and sharded ones."""
    for wrapper in (
        "_orig_mod",
        "_checkpoint_wrapped_module",
        "_fsdp_wrapped_module",
        "_fsdp_wrapped_module._orig_mod",
    ):
        state = {".".join((*name.split(".")[:2], wrapper, *name.split(".")[2:])): t for name, t in states[part].items()}
        save_file(state, tmp_path / "x.safetensors")
        assert same(LOADERS[part](tmp_path / "x.safetensors"), models[part]), wrapper


def test_a_whole_pipeline_in_one_file(tmp_path, states, models):
    for prefixes in (
        ("model.diffusion_model.", "first_stage_model.", "text_encoders.t5xxl.transformer."),
        ("transformer.", "vae.", "text_encoder."),
        ("", "vae.", "text_encoder."),
    ):
        parts = [prefixed(states[part], prefix) for part, prefix in zip(LOADERS, prefixes, strict=True)]
        file = tmp_path / "whole.safetensors"
        save_file({name: tensor for state in parts for name, tensor in state.items()}, file)
        assert all(same(load(file), models[part]) for part, load in LOADERS.items())
        found = inspect_checkpoint(file, values=False)
        assert (found.kind, found.also, found.problems) == ("stage2", ("vae", "text"), ())
        for kind, part in (("vae", "vae"), ("stage2", "transformer"), (None, "transformer")):
            own = convert_checkpoint(file, tmp_path / "own.safetensors", kind=kind, overwrite=True)
            assert same(LOADERS[part](own), models[part])
    torch.save(states, tmp_path / "whole.pt")
    assert all(same(load(tmp_path / "whole.pt"), models[part]) for part, load in LOADERS.items())


@pytest.mark.parametrize("part", LOADERS)
@pytest.mark.parametrize(
    ("right", "others"),
    [
        ("model.", ["model_ema."]),
        ("", ["ema."]),
        ("model.diffusion_model.", ["diffusion_model_averaged."]),
        ("module.", ["teacher."]),
        ("student.", ["teacher."]),
        ("module._orig_mod.", ["ema.module.", "ema_2.module."]),
    ],
)
def test_two_sets_of_weights(tmp_path, states, models, caplog, part, right, others):
    """Neither the order of the keys nor the container decides, and the log says what does."""
    sets = {right: states[part], **{other: {n: t + 1 for n, t in states[part].items()} for other in others}}
    for order in (list(sets), list(sets)[::-1]):
        flat = {f"{prefix}{name}": tensor for prefix in order for name, tensor in sets[prefix].items()}
        torch.save(flat, tmp_path / "flat.pt")
        nested = {prefix.rstrip("."): sets[prefix] for prefix in order if prefix}
        torch.save({**(sets.get("", {})), **nested}, tmp_path / "nested.pt")
        save_file(flat, tmp_path / "flat.safetensors")
        for file in ("flat.pt", "nested.pt", "flat.safetensors"):
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                assert same(LOADERS[part](tmp_path / file), models[part])
            (line,) = [r.getMessage() for r in caplog.records if "sets of weights" in r.getMessage()]
            assert f"{file} holds {len(sets)} sets" in line
            assert f"taken: {right.rstrip('.') or 'no prefix'}." in line


def test_one_name_twice_is_refused(tmp_path, states):
    state = states["transformer"]
    name = next(name for name in state if "layers.0" in name)
    save_file(
        {**state, name.replace("layers.0", "layers._orig_mod.0"): state[name].clone()}, tmp_path / "x.safetensors"
    )
    with pytest.raises(ValueError, match=r"holds .* twice, as .*_orig_mod"):
        load_stage2(tmp_path / "x.safetensors")


def test_a_header_as_a_tensor(tmp_path, states):
    """It is read in the place of a header, of its own model only, and stays out of the tensors."""
    config = {"norm_eps": 0.25}
    note = metadata_tensor(CheckpointMetadata(kind="stage2", latent_scale=0.75, config=config))
    vae_note = metadata_tensor(CheckpointMetadata(kind="vae", config={"norm_eps": 0.5}))
    state = prefixed(states["transformer"], "model.diffusion_model.") | prefixed(states["vae"], "first_stage_model.")
    state |= {f"model.diffusion_model.{NOTE}": note, f"first_stage_model.{NOTE}": vae_note}
    save_file(state, tmp_path / "x.safetensors")
    model = load_stage2(tmp_path / "x.safetensors")
    assert (model.config.latent_scale, model.config.norm_eps) == (0.75, 0.25)
    assert load_vae(tmp_path / "x.safetensors").config.norm_eps == 0.5
    part = model_part(open_weights(tmp_path / "x.safetensors"), "transformer")
    assert NOTE not in part.weights.tensors
    for damaged in (torch.zeros(3), torch.zeros(3, dtype=torch.uint8), torch.tensor(list(b"[1]"), dtype=torch.uint8)):
        save_file({**state, f"model.diffusion_model.{NOTE}": damaged}, tmp_path / "y.safetensors")
        with pytest.raises(ValueError, match=f"{NOTE} is damaged"):
            load_stage2(tmp_path / "y.safetensors")
