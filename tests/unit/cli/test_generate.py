"""The command line: what generate, refine and decode write and when."""

from __future__ import annotations

import json

import pytest
import torch

import flashvideo
from flashvideo.runs import chain
from flashvideo.runs.record import load_record
from flashvideo.runs.settings import SIZES, parse_size
from flashvideo.video.files import read_metadata, read_video
from tests.conftest import TINY
from tests.unit.conftest import PREVIEW_FILES, StoppedError, names_of_models, stop
from tests.unit.vae.draft_files import save_decoder

# generate


def test_preview_is_on_disk_before_stage2(generate, names, tmp_path, monkeypatch):
    seen = []

    def refine(*_, **__):
        seen.extend(names(tmp_path))
        raise StoppedError("Stage II broke")

    monkeypatch.setattr(chain, "refine_latents", refine)
    said = generate("a red ball", "-o", tmp_path / "out.mp4", code=1)
    assert [name for name in seen if not name.endswith(".lock")] == names(tmp_path) == PREVIEW_FILES
    assert "Stage II broke" in said.err


def test_preview_file_has_all_settings(made):
    preview = load_record(made / "out.preview.safetensors")
    assert preview.prompt == "a red ball rolls"
    assert (preview.stage1.seed, preview.stage2.seed) == (3, 3)
    assert (preview.stage1.height, preview.stage1.num_frames, preview.stage1.num_steps) == (32, 5, 2)
    assert (preview.stage2.height, preview.stage2.num_steps, preview.stage2.noise_step) == (64, 2, 675)
    assert (preview.content, preview.noise_step, preview.fps) == ("preview", None, 8)
    assert preview.stage1_embeds.shape == preview.stage2_embeds.shape == (1, 226, 32)
    assert not torch.equal(preview.stage1_embeds, preview.stage2_embeds)
    assert names_of_models(preview.models) == {
        "stage1": "stage1.pt",
        "stage2": "stage2.pt",
        "vae": "3d-vae.pt",
        "text": "text",
    }


def test_all_outputs(made, names):
    endings = ["degraded.safetensors", "joint.mp4", "mp4", *(n[4:] for n in PREVIEW_FILES), "refined.safetensors"]
    assert names(made) == [f"out.{ending}" for ending in endings]
    assert read_video(made / "out.mp4")[0].shape == (1, 3, 5, 64, 64)
    assert read_video(made / "out.preview.mp4")[0].shape == (1, 3, 5, 32, 32)
    joint = read_video(made / "out.joint.mp4")[0]
    assert joint.shape[2:4] == (5, 64)
    assert joint.shape[4] >= 128
    assert load_record(made / "out.degraded.safetensors").noise_step == 675
    assert load_record(made / "out.refined.safetensors").content == "refined"


def test_video_tells_its_settings(made):
    tags = read_metadata(made / "out.mp4")
    settings = json.loads(tags["flashvideo"])
    assert tags["comment"] == settings["prompt"] == "a red ball rolls"
    assert (settings["stage1"]["seed"], settings["stage2"]["width"], names_of_models(settings["models"])["vae"]) == (
        3,
        64,
        "3d-vae.pt",
    )
    assert json.loads(read_metadata(made / "out.preview.mp4")["flashvideo"])["content"] == "preview"


def test_plain_run_leaves_video_and_preview_only(generate, names, tmp_path, made):
    generate("a red ball rolls", "--seed", 3, "-o", tmp_path / "out.mp4")
    assert names(tmp_path) == ["out.mp4", *PREVIEW_FILES]
    assert (tmp_path / "out.mp4").read_bytes() == (made / "out.mp4").read_bytes()


def test_preview_only_then_refine(generate, run, names, tmp_path, made, count):
    stage2 = count("refine_latents")
    generate("a red ball rolls", "--seed", 3, "--preview-only", "-o", tmp_path / "out.mp4")
    assert names(tmp_path) == PREVIEW_FILES
    assert not stage2
    for name in PREVIEW_FILES:
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes()
    run("refine", tmp_path / "out.preview.safetensors", "--models", TINY, "-o", tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == (made / "out.mp4").read_bytes()


def test_previews_are_those_of_single_seeds(generate, names, tmp_path, made):
    generate("a red ball rolls", "--seed", 1, "--num-previews", 3, "-o", tmp_path / "out.mp4")
    assert len(names(tmp_path)) == 9
    for ending in ("mp4", "preview.mp4", "preview.safetensors"):
        assert (tmp_path / f"out.seed3.{ending}").read_bytes() == (made / f"out.{ending}").read_bytes()
        different = {(tmp_path / f"out{seed}.{ending}").read_bytes() for seed in ("", ".seed2", ".seed3")}
        assert len(different) == 3


def test_sizes():
    assert parse_size("1080p") == SIZES["1080P".lower()] == (1072, 1920)
    assert parse_size("270p") == (256, 480)
    assert parse_size("960x528") == parse_size("960X528") == parse_size("540p") == (528, 960)
    assert all(side % 16 == 0 for size in SIZES.values() for side in size)
    for wrong in ("big", "960", "960x", "0x0", "-16x16", "100x64"):
        with pytest.raises(ValueError, match=r"size|height|width"):
            parse_size(wrong)


def test_size_reaches_the_video(generate, tmp_path):
    generate("a red ball", "--size", "96x48", "--resize", "crop", "-o", tmp_path / "out.mp4")
    assert read_video(tmp_path / "out.mp4")[0].shape[3:] == (48, 96)


def test_stretching_is_told(generate, tmp_path, caplog):
    generate("a red ball", "--size", "96x48", "--preview-only", "-o", tmp_path / "out.mp4")
    assert "stretched by 100 %" in caplog.text


def test_sizes_follow_an_upright_preview(generate, run, tmp_path):
    """Presets are turned, a factor and a short side keep the shape; what is cut off is said."""
    for name, size, wanted in (("preset", "270p", (480, 256)), ("short", "short=64", (96, 64)), ("x", "x2", (96, 64))):
        output = ["--preview-only", "-o", tmp_path / f"{name}.mp4"]
        generate("a red ball", "--preview-size=32x48", f"--size={size}", *output)
        stage2 = load_record(tmp_path / f"{name}.preview.safetensors").stage2
        assert (stage2.height, stage2.width) == wanted
    refine = ["refine", tmp_path / "x.preview.safetensors", "--models", TINY, "-o"]
    assert "becomes" not in run(*refine, tmp_path / "kept.mp4").out
    assert read_video(tmp_path / "kept.mp4")[0].shape[3:] == (96, 64)
    said = run(*refine, tmp_path / "cut.mp4", "--size=64x64", "--resize=crop").out
    assert "32x48 becomes 64x64: 33 % of its height are cut off" in said
    run(*refine, tmp_path / "input.mp4", "--size=input")
    assert read_video(tmp_path / "input.mp4")[0].shape[3:] == (48, 32)


# refine, decode


@pytest.mark.parametrize("kind", ["preview", "degraded"])
def test_refine_equals_generate(run, names, made, tmp_path, kind):
    run("refine", made / f"out.{kind}.safetensors", "--models", TINY, "-o", tmp_path / "again.mp4")
    assert names(tmp_path) == ["again.mp4"]
    assert (tmp_path / "again.mp4").read_bytes() == (made / "out.mp4").read_bytes()


def test_refine_keeps_what_generate_keeps(run, made, tmp_path):
    options = ["--models", TINY, "--joint", "--keep-degraded", "--keep-latents"]
    run("refine", made / "out.preview.safetensors", *options, "-o", tmp_path / "out.mp4")
    for ending in ("mp4", "joint.mp4", "degraded.safetensors", "refined.safetensors"):
        assert (tmp_path / f"out.{ending}").read_bytes() == (made / f"out.{ending}").read_bytes()


def test_decode_equals_generate(run, names, made, tmp_path):
    run("decode", made / "out.refined.safetensors", "--models", TINY, "-o", tmp_path / "again.mp4")
    assert names(tmp_path) == ["again.mp4"]
    assert (tmp_path / "again.mp4").read_bytes() == (made / "out.mp4").read_bytes()


def test_refine_takes_other_settings(run, made, tmp_path):
    command = ("refine", made / "out.preview.safetensors", "--models", TINY, "--steps", 3, "--size", "96x96")
    run(*command, "--noise-step", 700, "-o", tmp_path / "out.mp4")
    settings = json.loads(read_metadata(tmp_path / "out.mp4")["flashvideo"])["stage2"]
    assert (settings["num_steps"], settings["width"], settings["noise_step"]) == (3, 96, 700)


def test_other_noise_step_of_degraded_latents(run, names, made, tmp_path, count):
    loading = count("refine_latents")
    command = ("refine", made / "out.degraded.safetensors", "--noise-step", 700, "-o", tmp_path / "out.mp4")
    said = run(*command, "--models", tmp_path / "nowhere", code=2)  # found before the models are looked for
    assert "675" in said.err
    assert "700" in said.err
    assert not loading
    run(*command, "--models", TINY, "--allow-other-noise-step")
    assert (tmp_path / "out.mp4").read_bytes() != (made / "out.mp4").read_bytes()
    assert names(tmp_path) == ["out.mp4"]


def test_degraded_latents_keep_their_seed(run, no_work, made, tmp_path):
    said = run("refine", made / "out.degraded.safetensors", "--seed=4", "-o", tmp_path / "out.mp4", code=2)
    assert "--seed 4 would draw other noise" in said.err
    assert "degraded with that of seed 3. Leave it out, or refine the preview." in said.err


def test_refined_latents_survive_a_failed_decoding(generate, run, names, made, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(chain, "decode_stream", stop(StoppedError("no memory")))
        said = generate("a red ball rolls", "--seed", 3, "-o", tmp_path / "out.mp4", code=1)
    assert names(tmp_path) == [*PREVIEW_FILES, "out.refined.safetensors"]
    assert "no memory" in said.err
    run("decode", tmp_path / "out.refined.safetensors", "--models", TINY, "-o", tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == (made / "out.mp4").read_bytes()


@pytest.mark.parametrize(
    ("error", "too_large"),
    [(RuntimeError("Invalid buffer size: 21.30 GiB"), True), (RuntimeError("device-side assert triggered"), False)],
)
def test_what_is_too_large_is_told_what_to_do(generate, tmp_path, monkeypatch, error, too_large):
    monkeypatch.setattr(chain, "sample_stage1", stop(error))
    said = generate("a red ball", "-o", tmp_path / "out.mp4", code=1)
    assert f"failed: RuntimeError: {error}" in said.err
    assert ("That is too large for the memory here." in said.err) is too_large


def test_version_and_help(run):
    assert flashvideo.__version__ in run("--version").out
    for command in ("generate", "refine", "decode", "convert", "inspect"):
        assert command in run("--help").out
        assert "usage: flashvideo " + command in run(command, "--help").out


# drafts


def test_a_draft_is_named_so_and_the_same_command_goes_on(run, made, names, tmp_path):
    models, preview = tmp_path / "models", made / "out.preview.safetensors"
    models.mkdir()
    for file in ("stage2.pt", "3d-vae.pt"):
        (models / file).symlink_to(TINY / file)
    command = ["refine", preview, "-o", tmp_path / "out.mp4", "--models", models]
    assert "taehv/raw/main/safetensors/taecvx.safetensors" in run(*command, "--draft", code=2).err
    assert "no use for it" in run(*command, "--draft", "--joint", code=2).err
    save_decoder(models / "taecvx.safetensors")
    said = run(*command, "--draft").out
    assert names(tmp_path) == ["models", "out.draft.mp4", "out.refined.safetensors"]
    assert f"draft: {tmp_path / 'out.draft.mp4'}" in said
    assert json.loads(read_metadata(tmp_path / "out.draft.mp4")["flashvideo"])["decoder"] == "draft"
    draft, _ = read_video(tmp_path / "out.draft.mp4")
    refined = (tmp_path / "out.refined.safetensors").read_bytes()
    assert "out.draft.mp4 exists" in run(*command, "--draft", code=2).err
    run(*command)
    assert (tmp_path / "out.draft.mp4").exists()
    exact, _ = read_video(tmp_path / "out.mp4")
    assert torch.equal(exact, read_video(made / "out.mp4")[0])
    assert draft.shape == exact.shape
    assert refined == (made / "out.refined.safetensors").read_bytes()
