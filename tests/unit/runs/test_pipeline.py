"""The diffusers pipeline: the same numbers as the command line, saving, offloading, missing parts."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiffusionPipeline

from flashvideo import FlashVideoPipeline
from flashvideo.loading.text import load_text_encoder
from flashvideo.runs.record import load_record
from flashvideo.runs.settings import Stage1Settings, Stage2Settings
from flashvideo.video.files import VideoWriter
from tests.conftest import TINY

PROMPT = "a red ball rolls"
STAGE1 = Stage1Settings(height=32, width=32, num_frames=5, num_steps=2, seed=3)
STAGE2 = Stage2Settings(height=64, width=64, num_steps=2, seed=3)


@pytest.fixture(autouse=True)
def one_thread_each(one_thread):
    with one_thread():
        yield


@pytest.fixture(scope="module")
def parts(tiny_stage1, tiny_stage2, tiny_vae):
    text = load_text_encoder(TINY / "text")
    return {
        "stage1": tiny_stage1,
        "stage2": tiny_stage2,
        "vae": tiny_vae,
        "text_encoder": text.model,
        "tokenizer": text.tokenizer,
    }


@pytest.fixture
def pipeline(parts):
    built = FlashVideoPipeline(**parts)
    built.set_progress_bar_config(disable=True)
    return built


@pytest.fixture(scope="module")
def expected(made):
    return {name: load_record(made / f"out.{name}.safetensors") for name in ("preview", "refined")}


def same_video(video, file, tmp_path):
    """Whether writing ``video`` gives the frames of ``file``."""
    from flashvideo.video.files import read_video

    with VideoWriter(tmp_path / "check.mp4") as writer:
        writer.write(video)
    return torch.equal(read_video(tmp_path / "check.mp4")[0], read_video(file)[0])


def test_equals_the_command_line(pipeline, expected, made, tmp_path):
    out = pipeline(PROMPT, stage1=STAGE1, stage2=STAGE2)
    assert torch.equal(out.preview.latents, expected["preview"].latents)
    assert torch.equal(out.preview.stage2_embeds, expected["preview"].stage2_embeds)
    assert out.frames.shape == (1, 3, 5, 64, 64)
    assert out.preview_frames.shape == (1, 3, 5, 32, 32)
    assert same_video(out.frames, made / "out.mp4", tmp_path)


def test_a_seed_sets_both_stages(pipeline, expected):
    base = {"stage1": Stage1Settings(height=32, width=32, num_frames=5, num_steps=2), "stage2": STAGE2.with_seed(0)}
    out = pipeline(PROMPT, **base, seed=3, preview_only=True)
    assert torch.equal(out.preview.latents, expected["preview"].latents)
    assert (out.preview.stage1, out.preview.stage2) == (STAGE1, STAGE2)
    assert torch.equal(out.frames, out.preview_frames)


def test_refine_of_a_saved_preview(pipeline, made, tmp_path):
    preview = load_record(made / "out.preview.safetensors")
    assert same_video(pipeline.refine(preview), made / "out.mp4", tmp_path)


def test_ready_embeddings_need_no_encoder(parts, expected):
    bare = FlashVideoPipeline(parts["stage1"], parts["stage2"], parts["vae"])
    bare.set_progress_bar_config(disable=True)
    embeds = expected["preview"].stage1_embeds, expected["preview"].stage2_embeds
    out = bare(prompt_embeds=embeds, stage1=STAGE1, stage2=STAGE2, preview_only=True)
    assert torch.equal(out.preview.latents, expected["preview"].latents)


def test_save_and_load(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    assert (tmp_path / "model_index.json").is_file()
    loaded = FlashVideoPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert isinstance(loaded, DiffusionPipeline)
    ours, theirs = (p(PROMPT, stage1=STAGE1, stage2=STAGE2) for p in (loaded, pipeline))
    assert torch.equal(ours.preview.latents, theirs.preview.latents)
    assert torch.equal(ours.frames, theirs.frames)


def test_save_and_load_without_optional_parts(parts, tmp_path):
    FlashVideoPipeline(parts["stage1"], None, parts["vae"]).save_pretrained(tmp_path)
    loaded = FlashVideoPipeline.from_pretrained(tmp_path)
    assert loaded.stage2 is None
    assert loaded.text_encoder is None
    assert loaded.stage1.config.num_layers == parts["stage1"].config.num_layers


def test_saved_parts_serve_the_command_line(pipeline, generate, expected, tmp_path):
    pipeline.save_pretrained(tmp_path / "saved")
    paths = [f"--{name}={tmp_path / 'saved' / name}" for name in ("stage1", "stage2")]
    paths += [f"--vae={tmp_path / 'saved'}", f"--text-encoder={tmp_path / 'saved'}"]
    generate(PROMPT, "--seed", 3, *paths, "--keep-latents", "-o", tmp_path / "out.mp4")
    assert torch.equal(load_record(tmp_path / "out.refined.safetensors").latents, expected["refined"].latents)


def test_offloading_gives_the_same(pipeline, expected, made, tmp_path):
    places = []
    offloaded = pipeline.offload_to("cpu")
    assert offloaded is pipeline

    def report(what, _done, _total):
        places.append(what)

    out = offloaded(PROMPT, stage1=STAGE1, stage2=STAGE2, progress=report)
    assert torch.equal(out.preview.latents, expected["preview"].latents)
    assert same_video(out.frames, made / "out.mp4", tmp_path)
    assert list(dict.fromkeys(places)) == ["Prompt", "Stage I", "Decode preview", "Encode", "Stage II", "Decode"]


def test_offloading_takes_every_part_off(parts, monkeypatch):
    """On a device that can be told from the CPU: the calls of ``to`` are watched, since none is here."""
    moves = []
    for name in ("stage1", "stage2", "vae", "text_encoder"):
        monkeypatch.setattr(parts[name], "to", lambda place, *_, n=name, **__: moves.append((n, str(place))))
    built = FlashVideoPipeline(**parts)
    built.set_progress_bar_config(disable=True)
    built._offload_device = torch.device("cpu", 0)
    built(PROMPT, stage1=STAGE1, stage2=STAGE2)
    order = [name for name, place in moves if place == "cpu:0"]
    assert order == ["text_encoder", "stage1", "vae", "vae", "stage2", "vae"]
    assert moves == [pair for name in order for pair in ((name, "cpu:0"), (name, "cpu"))]


def test_progress_bars(parts, capfd):
    built = FlashVideoPipeline(**parts)
    built.set_progress_bar_config(disable=False, ascii=True)
    built(PROMPT, stage1=STAGE1, stage2=STAGE2)
    said = capfd.readouterr().err
    for what in ("Prompt", "Stage I:", "Decode preview", "Encode", "Stage II:", "Decode:"):
        assert what in said
    assert "2/2" in said


@pytest.mark.parametrize("missing", ["stage1", "stage2", "text_encoder", "tokenizer"])
def test_missing_part_is_named_before_work(parts, missing):
    built = FlashVideoPipeline(**{**parts, missing: None})
    started = []
    with pytest.raises(ValueError, match=f"without {missing}"):
        built(PROMPT, stage1=STAGE1, stage2=STAGE2, progress=lambda *a: started.append(a))
    assert not started


def test_bad_input_is_refused_before_work(pipeline, expected):
    started = []
    good = expected["preview"].stage1_embeds
    for arguments, message in (
        ({"prompt": PROMPT, "stage1": Stage1Settings(num_frames=6)}, "6 frames"),
        ({"prompt": PROMPT, "stage2": Stage2Settings(noise_step=1000)}, "noise step 1000"),
        ({"prompt": PROMPT, "fps": 0}, "fps is 0"),
        ({"prompt": PROMPT, "seed": -1}, "seed -1"),
        ({}, "Give a prompt"),
        ({"prompt_embeds": (good, good[:, :, :16])}, "prompt_embeds of stage2 has shape"),
        ({"prompt_embeds": (good[:, :10], good)}, "prompt_embeds of stage1 has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline(**arguments, progress=lambda *a: started.append(a))
    assert not started
    with pytest.raises(ValueError, match="prompt is ' '"):
        pipeline(" ")
    assert all(what == "Prompt" for what, *_ in started)


def test_videos_that_do_not_fit_are_refused_with_the_estimate(pipeline, expected, monkeypatch):
    monkeypatch.setattr(FlashVideoPipeline, "use", None)  # nothing is run
    huge = Stage2Settings(height=160000, width=320000)
    with pytest.raises(ValueError, match=r"5 frames of 320000x160000 need \d+ GB of host memory"):
        pipeline(PROMPT, stage1=STAGE1, stage2=huge)
    with pytest.raises(ValueError, match=r"5 frames of 320000x160000 need \d+ GB of host memory"):
        pipeline.refine(expected["preview"], huge)
