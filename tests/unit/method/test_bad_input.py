"""Bad settings and arguments: a clear error before any long work, and nothing half-written."""

from __future__ import annotations

import pytest
import torch

from flashvideo import (
    convert_checkpoint,
    decode_latents,
    degrade_latents,
    encode_video,
    refine_latents,
    sample_stage1,
)
from flashvideo.cli.options import pick_device
from flashvideo.runs.settings import Stage1Settings, Stage2Settings
from tests.conftest import TINY


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
            convert_checkpoint(TINY / "stage1.pt", tmp_path / "new.safetensors", **arguments)
    assert names(tmp_path) == []
