"""The report with real models, and its command."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
import torch

from flashvideo.loading.model_store import ModelStore, find_models
from flashvideo.method.student import Student
from flashvideo.report import LoadedModels
from flashvideo.report.extras import parse_extra
from flashvideo.report.models import EncodedClips
from flashvideo.report.refinement import refiner_of
from flashvideo.runs import chain
from tests.conftest import TINY
from tests.unit.report.oracle import SETTINGS

TINY_OPTIONS = [
    *("--models", str(TINY), "--clips", 2, "--ablation-clips", 2, "--low-size", "16x16", "--size", "32x32"),
    *("--frames", 5, "--preview-steps", 2, "--steps", 1, "--cfg", 1, "--nfe-values", "1"),
    *("--cfg-values", "1", "--noise-step-values", "300"),
]


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    with one_thread():
        yield


@pytest.fixture(scope="module")
def loaded():
    return LoadedModels(ModelStore(find_models(str(TINY), {}, ("stage1", "stage2", "vae", "text"))))


def test_clips_do_not_depend_on_their_batch(loaded):
    captions, seeds = ["a red ball rolls", "a blue ball rests"], [3, 4]
    first = replace(SETTINGS.stage1, height=16, width=16)
    second = replace(SETTINGS.stage2, height=32, width=32, num_steps=1)
    low = loaded.generate_low(captions, seeds, first)
    assert low.shape == (2, 3, 5, 16, 16)
    alone = loaded.generate_low(captions[1:], seeds[1:], first)
    torch.testing.assert_close(low[1:], alone, atol=1e-3, rtol=0)
    assert not torch.equal(low[:1], low[1:])
    high = loaded.refine(low, captions, seeds, second)
    assert high.shape == (2, 3, 5, 32, 32)
    torch.testing.assert_close(loaded.refine(low[1:], captions[1:], seeds[1:], second), high[1:], atol=1e-3, rtol=0)


def test_encoded_clips_are_remembered_and_noise_step_0_degrades_nothing(loaded, monkeypatch):
    encodings, degradations = [], []
    encode, degrade = chain.encode_video, chain.degrade_latents
    monkeypatch.setattr(chain, "encode_video", lambda *a, **k: encodings.append(1) or encode(*a, **k))
    monkeypatch.setattr(chain, "degrade_latents", lambda *a, **k: degradations.append(1) or degrade(*a, **k))
    video = torch.rand(1, 3, 5, 16, 16, generator=torch.Generator().manual_seed(0))
    settings = replace(SETTINGS.stage2, height=32, width=32, num_steps=1, guidance_scale=1.0)
    asked = []

    def load():
        asked.append(1)
        with loaded.models.use("stage2") as transformer:
            return transformer

    other = loaded.with_stage("stage2", load)
    assert not asked
    clips = [
        models.refine(video, ["a ball"], [0], replace(settings, noise_step=step))
        for models, step in ((loaded, 500), (other, 500), (other, 0), (other, 999))
    ]
    assert (len(encodings), len(degradations), len(asked)) == (1, 3, 1)
    torch.testing.assert_close(clips[0], clips[1], atol=0, rtol=0)
    assert not torch.equal(clips[1], clips[2])


CLIP = torch.rand(1, 3, 5, 16, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "change",
    [
        {"resize": "crop"},
        {"sample_posterior": False},
        {"height": 48},
        {"width": 48},
        {"seed": 1},
        {"video": CLIP.flip(4)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_decides_encoded_clips_is_not_remembered_for_another(loaded, change):
    clips, settings = EncodedClips(), replace(SETTINGS.stage2, height=32, width=32)
    first = clips.get(loaded.models, CLIP, [0], settings)
    video, seed = change.get("video", CLIP), change.get("seed", 0)
    settings = replace(settings, **{name: value for name, value in change.items() if name not in ("video", "seed")})
    other = clips.get(loaded.models, video, [seed], settings)
    assert torch.equal(other, EncodedClips().get(loaded.models, video, [seed], settings))
    assert other.shape != first.shape or not torch.equal(other, first)
    unlike = replace(settings, noise_step=300, num_steps=7, guidance_scale=2.0, solver="heun")
    assert torch.equal(clips.get(loaded.models, video, [seed], unlike), other)


def test_command_writes_everything(run, tmp_path):
    out = tmp_path / "out"
    stage1 = TINY / "stage1.pt"
    extras = ["--extra", f"single={stage1}", "--extra", f"twin={stage1}"]
    said = run("report", *TINY_OPTIONS, *extras, "-o", out)
    assert "floor missed: fidelity, one shape" in said.out
    record = json.loads((out / "report.json").read_text())
    names = [
        "judge",
        "fidelity",
        "refinement",
        "nfe",
        "cfg",
        "guidance",
        "noise_step",
        "windows",
        "windows_wider",
        "windows_larger",
    ]
    names += ["training", "sizes", "adaptation", "cost"]
    assert list(record["sections"]) == names
    hashes = {part: weights["sha256"] for part, weights in record["sections"]["adaptation"]["weights"].items()}
    assert hashes["stage1"] == hashes["extra twin"] == hashlib.sha256(stage1.read_bytes()).hexdigest()
    assert "extra single" not in hashes
    assert "extra single" in record["sections"]["cost"]["weights"]
    assert not record["sections"]["judge"]["weights"]
    assert not all(floor["met"] for floor in record["floors"])
    for section in record["sections"].values():
        for picture in section["result"]["pictures"]:
            assert (out / picture["file"]).stat().st_size > 0
        for row in (row for table in section["result"]["tables"] for row in table["rows"]):
            assert row["low"] <= row["mean"] + 1e-9
            assert row["mean"] <= row["high"] + 1e-9
            assert row["n"] == 2
    text = (out / "report.md").read_text()
    assert all(f"\n## {name}\n" in text for name in names)
    assert all(word in text for word in ("**not met**", hashes["stage1"], hashes["vae"], "A small sample"))
    before = (out / "report.json").read_bytes()
    said = run("report", *TINY_OPTIONS, *extras, "-o", out, "--check", code=1)
    assert "floors missed" in said.out
    assert (out / "report.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sections", "judge,colour"], "colour; expected some of judge"),
        (["--models", "/nowhere"], "There is no folder"),
        (["--clips", 1], "at least 2"),
        (["--size", "48x48", "--low-size", "32x32"], "whole multiple"),
        (["--size", "33x32"], "multiples of 16"),
        (["--nfe-values", "1,x"], "'1,x'"),
        (["--extra", "other"], "NAME=PATH"),
        (["--extra", "other=/nowhere.safetensors"], "There is no /nowhere"),
        (["--extra", f"other={TINY / '3d-vae.pt'}"], "no transformer"),
        (["--extra", f"other={TINY / 'stage2.pt'},noise_step=1000"], "noise step 1000"),
        (["--extra", f"other={TINY / 'stage2.pt'},only=judge"], "only for 'judge'"),
        (["--extra", f"other={TINY / 'stage2.pt'},only=cost"], "other (stage2); expected one of each stage"),
        (["--extra", f"other={TINY / 'stage2.pt'},base={TINY / 'stage2.pt'}"], "is no LoRA"),
    ],
)
def test_bad_input_is_told_before_any_work(run, tmp_path, options, message):
    said = run("report", *TINY_OPTIONS, *options, "-o", tmp_path / "out", code=2)
    assert message in said.err
    assert not (tmp_path / "out").exists()


def test_models_are_needed_only_where_they_are_used(run, tmp_path):
    said = run("report", "--sections", "nfe", "-o", tmp_path / "out", code=2)
    assert "stage2" in said.err
    small = ["--clips", 2, "--frames", 5, "--low-size", "32x48", "--size", "64x96"]
    run("report", *small, "--sections", "judge", "-o", tmp_path / "out")


class Asked:
    """Models that are asked to refine."""

    def refine(self, videos, captions, seeds, settings):
        self.settings = settings
        return videos


def test_extra_lora_goes_onto_its_base(loaded, tmp_path):
    from flashvideo.loading.lora import save_lora
    from flashvideo.loading.source import open_transformer

    base = TINY / "stage2.pt"
    source = open_transformer(base)
    rows, columns = source.shape("layers.0.attn_out.weight")
    pairs = {"layers.0.attn_out": (torch.ones(2, columns), torch.ones(rows, 2))}
    lora = save_lora(pairs, tmp_path / "lora.safetensors", student=Student(1, 2.0, 7.0))
    with pytest.raises(ValueError, match="Name the transformer"):
        parse_extra(f"lora={lora}")
    extra = parse_extra(f"lora={lora},base={base}")
    assert (extra.stage, extra.base) == ("stage2", base)
    merged, plain = (one.load(None, torch.device("cpu")) for one in (extra, parse_extra(f"plain={base}")))
    changed = merged.layers[0].attn_out.weight.float() - plain.layers[0].attn_out.weight.float()
    torch.testing.assert_close(changed, torch.full_like(changed, 2.0), atol=2e-2, rtol=0)
    names = extra.hashes()["extra lora"]
    assert names.file == "stage2.pt + lora.safetensors"
    assert len(names.sha256) == 2 * 64 + 3
    asked = Asked()
    student = replace(extra.extra(loaded, None, torch.device("cpu")), models=asked)
    refiner_of(student, SETTINGS.stage2).enlarge(torch.zeros(0), [])
    assert (asked.settings.num_steps, asked.settings.shift, asked.settings.guidance_scale) == (1, 2.0, 1.0)
