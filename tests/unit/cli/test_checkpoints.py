"""The command line on weights: convert and inspect."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors import safe_open

from flashvideo.runs.record import load_record
from tests.conftest import TINY
from tests.unit.conftest import names_of_models, stop


@pytest.mark.parametrize(
    ("source", "kind"), [("stage1.pt", "stage1"), ("stage2.pt", "stage2"), ("3d-vae.pt", "vae"), ("lora", "lora")]
)
def test_convert_round_trip(run, names, tmp_path, lora_file, source, kind):
    path = lora_file if source == "lora" else TINY / source
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    run("convert", path, first, "--kind", kind)
    run("convert", first, second)
    tensors = []
    for file in (first, second):
        with safe_open(file, framework="pt") as handle:
            tensors.append({name: handle.get_tensor(name) for name in handle.keys()})  # noqa: SIM118
            assert handle.metadata()["flashvideo.kind"] == kind
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())
    assert json.loads(run("inspect", first, "--json").out)["kind"] == kind


def test_converted_models_make_the_same_video(generate, run, tmp_path, made):
    run("convert", TINY / "stage1.pt", tmp_path / "stage1.safetensors")
    run("convert", TINY / "stage2.pt", tmp_path / "stage2.safetensors")
    run("convert", TINY / "3d-vae.pt", tmp_path / "vae.safetensors")
    parts = [f"--{name}={tmp_path / name}.safetensors" for name in ("stage1", "stage2", "vae")]
    generate("a red ball rolls", "--seed", 3, *parts, "--keep-latents", "-o", tmp_path / "out.mp4")
    ours, theirs = (load_record(folder / "out.refined.safetensors") for folder in (tmp_path, made))
    assert torch.equal(ours.latents, theirs.latents)
    assert names_of_models(ours.models)["stage1"] == "stage1.safetensors"


def test_lora_changes_the_video_and_is_recorded(generate, tmp_path, lora_file, made):
    lora = ("--lora", lora_file, "--lora-scale", 0.5)
    generate("a red ball rolls", "--seed", 3, *lora, "--preview-only", "-o", tmp_path / "out.mp4")
    preview = load_record(tmp_path / "out.preview.safetensors")
    assert names_of_models(preview.models)["lora"] == "lora.safetensors x 0.5"
    assert not torch.equal(preview.latents, load_record(made / "out.preview.safetensors").latents)


def test_interrupted_convert_leaves_nothing(run, names, tmp_path, monkeypatch):
    from flashvideo.loading.source import TransformerSource

    read, calls = TransformerSource.read, []

    def interrupted(*arguments, **options):
        calls.append(names(tmp_path))
        return read(*arguments, **options) if len(calls) < 5 else stop(KeyboardInterrupt())()

    monkeypatch.setattr(TransformerSource, "read", interrupted)
    run("convert", TINY / "stage1.pt", tmp_path / "new.safetensors", code=130)
    assert len(calls) == 5
    assert len(calls[-1]) == 1  # it was being written
    assert names(tmp_path) == []


def test_convert_keeps_an_existing_file(run, tmp_path):
    target = tmp_path / "new.safetensors"
    target.write_bytes(b"mine")
    assert "exists already" in run("convert", TINY / "stage2.pt", target, code=2).err
    assert target.read_bytes() == b"mine"
    run("convert", TINY / "stage2.pt", target, "--overwrite", "--dtype", "bf16")
    assert json.loads(run("inspect", target, "--json").out)["metadata"]["dtype"] == "bf16"


def test_convert_never_writes_onto_what_it_reads(run, tmp_path):
    source = tmp_path / "stage2.safetensors"
    run("convert", TINY / "stage2.pt", source)
    before = source.read_bytes()
    (tmp_path / "link.safetensors").symlink_to(source)
    for target in (source, tmp_path / "link.safetensors"):
        assert "is what would be read" in run("convert", source, target, "--overwrite", code=2).err
    assert source.read_bytes() == before


def test_convert_refuses_another_kind_or_name(run, names, tmp_path):
    said = run("convert", TINY / "stage2.pt", tmp_path / "a.safetensors", "--kind", "stage1", code=2)
    assert "is a stage2 checkpoint, not stage1" in said.err
    assert "must end in .safetensors" in run("convert", TINY / "stage2.pt", tmp_path / "a.pt", code=2).err
    assert "fp8" in run("convert", TINY / "3d-vae.pt", tmp_path / "a.safetensors", "--dtype=fp8_e4m3", code=2).err
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "kind", "layout"),
    [
        ("stage1.pt", "stage1", "published"),
        ("stage2.pt", "stage2", "published"),
        ("3d-vae.pt", "vae", "published"),
        ("text", "text", ""),
        ("text/model.safetensors", "text", ""),
    ],
)
def test_inspect_bundled(run, name, kind, layout):
    found = json.loads(run("inspect", TINY / name, "--json").out)
    assert (found["kind"], found["layout"], found["sound"]) == (kind, layout, True)
    assert found["parameters"] > 10000
    assert "nothing missing, all values finite" in run("inspect", TINY / name).out


def test_inspect_says_what_a_stage_is(run):
    said = run("inspect", TINY / "stage1.pt").out
    assert "num_layers 2" in said
    assert "rank 4, merged on loading" in said
    assert "under 'module'" in said
    assert "fits into" in said


@pytest.mark.parametrize("content", ["preview", "degraded", "refined"])
def test_inspect_preview(run, made, content):
    found = json.loads(run("inspect", made / f"out.{content}.safetensors", "--json").out)
    assert (found["kind"], found["layout"], found["config"]["prompt"]) == ("preview", content, "a red ball rolls")


def test_inspect_converted_fp8_and_lora(run, tmp_path, lora_file):
    run("convert", TINY / "stage2.pt", tmp_path / "new.safetensors", "--dtype", "fp8_e4m3")
    found = json.loads(run("inspect", tmp_path / "new.safetensors", "--json").out)
    assert (found["kind"], found["layout"], found["metadata"]["dtype"]) == ("stage2", "native", "fp8_e4m3")
    assert set(found["dtypes"]) == {"fp8_e4m3", "bf16", "fp32"}
    found = json.loads(run("inspect", lora_file, "--json").out)
    assert (found["kind"], found["lora_rank"]) == ("lora", 4)


def test_inspect_prints_the_scales_of_a_lora(run, tmp_path, lora_file):
    """One line where all are equal, else one for each scale with its modules; of a converted file its dtype too."""
    from safetensors.torch import load_file, save_file

    assert "scale:        1, no alpha is stated: 1 module\n" in run("inspect", lora_file).out
    state = load_file(lora_file)
    for block in range(2):
        for side in "AB":
            name = f"transformer.transformer_blocks.{{}}.attn1.to_out.0.lora_{side}.weight"
            state[name.format(block)] = state[name.format(0)].clone()
    config = {"lora_alpha": 8, "use_rslora": True, "alpha_pattern": {"1.attn1.to_out.0": 2}}
    save_file(state, tmp_path / "rs.safetensors", metadata={"lora_adapter_metadata": json.dumps(config)})
    said = run("inspect", tmp_path / "rs.safetensors").out
    for alpha, scale, block in ((8, 4, 0), (2, 1, 1)):
        formula = f"{scale} = alpha {alpha} / sqrt(rank 4), from lora_adapter_metadata of rs.safetensors"
        assert f"scale:        {formula}: 1 module (transformer.transformer_blocks.{block}.attn1.to_out.0)" in said
    run("convert", tmp_path / "rs.safetensors", tmp_path / "native.safetensors", "--dtype", "bf16")
    said = run("inspect", tmp_path / "native.safetensors").out
    assert "converted:    bf16, from a file with SHA-256" in said
    assert "scale:        1, any other is in the weights already: 2 modules" in said
    assert "scale:        0.25 = alpha 1 / rank 4, as the authors have it" in run("inspect", TINY / "stage1.pt").out


def test_inspect_names_what_is_missing(run, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(TINY / "text", tmp_path / "text")
    tensors = load_file(tmp_path / "text" / "model.safetensors")
    tensors.pop("encoder.block.1.layer.0.SelfAttention.v.weight")
    save_file(tensors, tmp_path / "text" / "model.safetensors")
    assert "block.1.layer.0.SelfAttention.v.weight" in run("inspect", tmp_path / "text", code=1).out
    for kind, container in (("stage1", "module"), ("3d-vae", "state_dict")):
        tree = torch.load(TINY / f"{kind}.pt", weights_only=True)
        name = next(
            name for name in reversed(list(tree[container])) if name.endswith("weight") and "position" not in name
        )
        tree[container].pop(name)
        torch.save(tree, tmp_path / f"{kind}.pt")
        found = json.loads(run("inspect", tmp_path / f"{kind}.pt", "--json", code=1).out)
        assert any(name in problem for problem in found["problems"])


def test_inspect_unknown_weights(run, tmp_path):
    torch.save({"state_dict": {"lstm.weight": torch.zeros(2, 2)}}, tmp_path / "other.pt")
    said = run("inspect", tmp_path / "other.pt", code=1)
    assert "nothing that FlashVideo knows" in said.out
    assert "lstm.weight" in said.out


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("source", ["stage1.pt", "stage2.pt", "3d-vae.pt", "lora", "preview"])
def test_a_flipped_bit_in_what_we_wrote(run, made, names, lora_file, tmp_path, source):
    """The last byte of the numbers: no value of it is NaN, and every reader says so."""
    damaged = tmp_path / "a.safetensors"
    if source == "preview":
        shutil.copy(made / "out.preview.safetensors", damaged)
    else:
        run("convert", lora_file if source == "lora" else TINY / source, damaged)
    assert "sound" in run("inspect", damaged).out
    flip_a_bit(damaged)
    said = run("inspect", damaged, code=1)
    assert said.out.count("is not as it was written") == 1
    assert "NOT SOUND:    it will not load as it is" in said.out
    commands = {
        "stage1.pt": ("generate", "a ball", "--models", TINY, "--stage1", damaged, "--preview-steps", 1, "--frames", 5),
        "stage2.pt": ("refine", made / "out.preview.safetensors", "--models", TINY, "--stage2", damaged),
        "3d-vae.pt": ("decode", made / "out.refined.safetensors", "--models", TINY, "--vae", damaged),
        "lora": ("generate", "a ball", "--models", TINY, "--lora", damaged),
        "preview": ("refine", damaged, "--models", TINY),
    }
    said = run(*commands[source], "-o", tmp_path / "out.mp4", code=2)
    assert "changed since. The disk or a copy damaged it, or another program changed it" in said.err
    assert names(tmp_path) == ["a.safetensors"]


def test_inspect_of_what_cannot_be_read(run, tmp_path):
    for content in (b"", b"\x08\0\0\0\0\0\0\0{", (TINY / "stage1.pt").read_bytes()[:5000]):
        (tmp_path / "a.safetensors").write_bytes(content)
        assert "error: " in run("inspect", tmp_path / "a.safetensors", code=2).err
