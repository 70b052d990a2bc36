"""Preview files: what goes in comes out, and what is damaged is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from flashvideo.runs.chain import refine_record
from flashvideo.runs.record import Record, load_record
from flashvideo.runs.settings import Stage1Settings, Stage2Settings

KEY = "flashvideo.preview"


@pytest.fixture
def preview():
    embeds = torch.randn(1, 226, 32), torch.randn(1, 226, 32).bfloat16()
    stage1 = Stage1Settings(height=32, width=48, num_frames=5, num_steps=7, guidance_curve="smooth", seed=11)
    stage2 = Stage2Settings(height=64, width=96, noise_step=700, shift=1.5, motion="slow,", resize="crop", seed=12)
    models = {"vae": "v.pt", "stage1": "s.pt"}
    return Record(torch.randn(1, 16, 2, 4, 6), 'a "red"\nbälle', *embeds, stage1, stage2, 12.5, models=models)


def altered(path, target, **changes):
    """A preview file with other settings in its header."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as handle:
        settings = json.loads(handle.metadata()[KEY])
    for name, value in changes.items():
        group, _, key = name.rpartition("__")
        (settings[group] if group else settings)[key] = value
    save_file(load_file(path), target, metadata={KEY: json.dumps(settings)})
    return target


def test_round_trip(preview, tmp_path):
    for content, step in (("preview", None), ("degraded", 700), ("refined", None)):
        kept = replace(preview, content=content, noise_step=step)
        record = load_record(kept.save(tmp_path / f"{content}.safetensors"))
        for name in ("latents", "stage1_embeds", "stage2_embeds"):
            assert torch.equal(getattr(record, name), getattr(preview, name))
            assert getattr(record, name).dtype == getattr(preview, name).dtype
        assert record.description() == kept.description()
        assert (record.stage1, record.stage2, record.prompt) == (preview.stage1, preview.stage2, preview.prompt)


def test_same_preview_same_bytes(preview, tmp_path):
    first = preview.save(tmp_path / "a.safetensors").read_bytes()
    other_order = replace(preview, models=dict(reversed(preview.models.items())))
    assert other_order.save(tmp_path / "b.safetensors").read_bytes() == first


def test_degraded_latents_tell_their_noise_step(preview):
    degraded = preview.as_degraded(preview.latents, preview.stage2, {"stage2": "b.pt", "vae": "w.pt", "stage1": "x"})
    assert (degraded.content, degraded.noise_step) == ("degraded", 700)
    refined = degraded.as_refined(torch.zeros_like(preview.latents), preview.stage2, {})
    assert torch.equal(refined.stage1_latents, preview.latents), "it still knows the preview"
    assert degraded.models == {"stage1": "s.pt", "stage2": "b.pt", "vae": "w.pt"}
    refined = degraded.as_refined(preview.latents, preview.stage2, {})
    assert (refined.content, refined.noise_step) == ("refined", None)


def test_existing_file_is_kept(preview, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(ValueError, match="exists already"):
        preview.save(path)
    assert path.read_bytes() == b"mine"
    preview.save(path, overwrite=True)
    assert load_record(path).prompt == preview.prompt


@pytest.mark.parametrize("name", ["invented", "stage1__invented", "stage2__invented"])
def test_what_a_later_version_asks_for_is_refused(preview, tmp_path, name):
    path = altered(preview.save(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", **{name: 1})
    with pytest.raises(ValueError, match=r"b\.safetensors.* has invented, which this program does not know.* Update"):
        load_record(path)


def test_what_an_earlier_version_did_not_know_has_its_default(preview, tmp_path):
    path = altered(preview.save(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", stage2={"height": 64})
    assert load_record(path).stage2 == Stage2Settings(height=64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "2"}, "another version .format 2"),
        ({"content": "dream"}, "another version"),
        ({"stage1": None}, "damaged"),
        ({"stage1": [1]}, r"stage1 is \[1\]; expected a table of settings"),
        ({"prompt": 7}, "prompt is 7, expected text"),
        ({"prompt": "a \ud83c ball"}, "prompt of .* half of a surrogate pair.* at character 3"),
        ({"prompt": "a\0ball"}, "prompt of .* a NUL at character 2"),
        ({"prompt": "x" * 30_000}, "prompt of .* 30000 characters"),
        ({"prompt": "x" * 2_000_000}, "description has 2.* characters"),
        ({"models": -0.0}, "models is -0.0, expected a table of names"),
        ({"models": None}, "models is None, expected a table of names"),
        ({"models": {"vae": 3}}, "the vae of models in .* is 3; expected text"),
        ({"models": {"vae": "\udfff"}}, "the vae of models in .* half of a surrogate pair"),
        ({"models": {"\udfff": "a"}}, "a model's name in .* half of a surrogate pair"),
        ({"noise_step": "much"}, "noise_step is 'much', expected a number or null"),
        ({"noise_step": True, "content": "degraded"}, "noise_step is True, expected a number or null"),
        ({"fps": None}, "fps is None, expected a number"),
        ({"fps": True}, "fps is True, expected a number"),
        ({"fps": 10**400}, "fps is 1000.* expected a number"),
        ({"content": ["preview"]}, "another version"),
        ({"stage2__solver": 3}, "stage2 has solver as 3; expected one of euler"),
        ({"stage2__match_colors": []}, r"stage2 has match_colors as \[\]; expected a number"),
        ({"stage2__sample_posterior": 1}, "stage2 has sample_posterior as 1; expected True or False"),
        ({"stage2__motion": None}, "stage2 has motion as None; expected words"),
        ({"stage1__num_frames": True}, "stage1 has num_frames as True; expected a whole number"),
        ({"stage1__num_steps": 10**400}, "stage1 has num_steps as 1000.*; expected a whole number"),
        ({"stage2__noise_step": 5000}, "settings that cannot run: noise step 5000"),
        ({"stage2__height": "tall"}, "damaged"),
        ({"stage1__seed": -1}, "settings that cannot run: seed -1"),
        ({"stage1__num_frames": 6}, "settings that cannot run: 6 frames"),
        ({"content": "degraded"}, "noise step"),
        ({"content": "degraded", "noise_step": 1000}, "noise step 1000"),
        ({"fps": 0}, "0 frames a second"),
        ({"fps": "fast"}, "damaged"),
    ],
)
def test_wrong_settings_are_refused(preview, tmp_path, changes, message):
    path = preview.save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=message):
        load_record(altered(path, tmp_path / "b.safetensors", **changes))


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "7", "{", '"x"', "null", '{"format": "1"}'])
def test_a_description_that_is_no_table_is_refused(preview, tmp_path, text):
    tensors = load_file(preview.save(tmp_path / "a.safetensors"))
    save_file(tensors, tmp_path / "b.safetensors", metadata={KEY: text})
    with pytest.raises(ValueError, match=r"is a damaged file of latents"):
        load_record(tmp_path / "b.safetensors")


@pytest.mark.parametrize("name", ["latents", "stage1_embeds", "stage2_embeds"])
def test_nan_is_refused(preview, tmp_path, name):
    tensor = getattr(preview, name).clone()
    tensor.view(-1)[5] = float("nan")
    path = replace(preview, **{name: tensor}).save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=f"NaN or infinite {name}"):
        load_record(path)


@pytest.mark.parametrize(
    ("name", "shape"), [("latents", (1, 4, 2, 4, 6)), ("latents", (1, 16, 2, 3, 6)), ("stage2_embeds", (226, 32))]
)
def test_wrong_shapes_are_refused(preview, tmp_path, name, shape):
    path = replace(preview, **{name: torch.zeros(shape)}).save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"expected|must be even"):
        load_record(path)


def test_any_header_length(preview, tmp_path):
    """A safetensors file of a header length 128, 384 ... begins with the same byte as a pickle."""
    first_bytes = set()
    for length in range(0, 512, 8):
        record = load_record(replace(preview, prompt="x" * length).save(tmp_path / f"{length}.safetensors"))
        assert record.prompt == "x" * length
        first_bytes.add((tmp_path / f"{length}.safetensors").read_bytes()[0])
    assert 0x80 in first_bytes


def test_missing_tensor_is_refused(preview, tmp_path):
    path = preview.save(tmp_path / "a.safetensors")
    tensors = load_file(path)
    del tensors["stage2_embeds"]
    save_file(tensors, tmp_path / "b.safetensors", metadata={KEY: json.dumps(preview.description())})
    with pytest.raises(ValueError, match=r"damaged file of latents .*stage2_embeds"):
        load_record(tmp_path / "b.safetensors")


def test_other_files_are_no_previews(tmp_path):
    save_file({"latents": torch.zeros(1, 16, 1, 2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="holds no latents of FlashVideo"):
        load_record(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="There is no file"):
        load_record(tmp_path / "b.safetensors")


def test_refining_checks_before_it_starts(preview):
    degraded = replace(preview, content="degraded", noise_step=675, latents=torch.zeros(1, 16, 2, 8, 12))
    with pytest.raises(ValueError, match=r"with noise step 675, .* 700"):
        refine_record(None, degraded, preview.stage2)
    with pytest.raises(ValueError, match="for 96x64, 96x96 was asked for"):
        refine_record(None, degraded, replace(preview.stage2, noise_step=675, height=96))
    with pytest.raises(ValueError, match="refined already"):
        refine_record(None, replace(preview, content="refined"), preview.stage2)
