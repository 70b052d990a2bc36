"""The command line: what it writes and when, resuming, interrupts, many processes, convert and inspect."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import flashvideo
from flashvideo import generation
from flashvideo.cli.jobs import this_process
from flashvideo.config import SIZES, parse_size
from flashvideo.preview import load_preview
from flashvideo.video_io import read_metadata, read_video

ASSETS = Path(flashvideo.__file__).parent / "assets" / "tiny"
PREVIEW_FILES = ["out.preview.mp4", "out.preview.safetensors"]
PROMPTS = ["a red ball rolls", "a blue cube turns", "rain falls on a lake"]


class StoppedError(RuntimeError):
    pass


def stop(error):
    def raising(*_, **__):
        raise error

    return raising


@pytest.fixture
def prompts_file(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("# a comment\n" + "\n\n".join(PROMPTS) + "\n", encoding="utf-8-sig")
    return file


@pytest.fixture
def count(monkeypatch):
    """``count("sample_stage1")``: a list that grows with each call of a function of the generation."""

    def watch(name):
        calls, function = [], getattr(generation, name)
        monkeypatch.setattr(generation, name, lambda *a, **k: calls.append(name) or function(*a, **k))
        return calls

    return watch


# generate


def test_preview_is_on_disk_before_stage2(generate, names, tmp_path, monkeypatch):
    seen = []

    def refine(*_, **__):
        seen.extend(names(tmp_path))
        raise StoppedError("Stage II broke")

    monkeypatch.setattr(generation, "refine_latents", refine)
    said = generate("a red ball", "-o", tmp_path / "out.mp4", code=1)
    assert seen == names(tmp_path) == PREVIEW_FILES
    assert "Stage II broke" in said.err


def test_preview_file_has_all_settings(made):
    preview = load_preview(made / "out.preview.safetensors")
    assert preview.prompt == "a red ball rolls"
    assert (preview.stage1.seed, preview.stage2.seed) == (3, 3)
    assert (preview.stage1.height, preview.stage1.num_frames, preview.stage1.num_steps) == (32, 5, 2)
    assert (preview.stage2.height, preview.stage2.num_steps, preview.stage2.noise_step) == (64, 2, 675)
    assert (preview.content, preview.noise_step, preview.fps) == ("preview", None, 8)
    assert preview.stage1_embeds.shape == preview.stage2_embeds.shape == (1, 226, 32)
    assert not torch.equal(preview.stage1_embeds, preview.stage2_embeds)
    assert preview.models == {"stage1": "stage1.pt", "stage2": "stage2.pt", "vae": "3d-vae.pt", "text": "text"}


def test_all_outputs(made, names):
    endings = ["degraded.safetensors", "joint.mp4", "mp4", *(n[4:] for n in PREVIEW_FILES), "refined.safetensors"]
    assert names(made) == [f"out.{ending}" for ending in endings]
    assert read_video(made / "out.mp4")[0].shape == (1, 3, 5, 64, 64)
    assert read_video(made / "out.preview.mp4")[0].shape == (1, 3, 5, 32, 32)
    joint = read_video(made / "out.joint.mp4")[0]
    assert joint.shape[2:4] == (5, 64)
    assert joint.shape[4] >= 128
    assert load_preview(made / "out.degraded.safetensors").noise_step == 675
    assert load_preview(made / "out.refined.safetensors").content == "refined"


def test_video_tells_its_settings(made):
    tags = read_metadata(made / "out.mp4")
    settings = json.loads(tags["flashvideo"])
    assert tags["comment"] == settings["prompt"] == "a red ball rolls"
    assert (settings["stage1"]["seed"], settings["stage2"]["width"], settings["models"]["vae"]) == (3, 64, "3d-vae.pt")
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
    run("refine", tmp_path / "out.preview.safetensors", "--models", "tiny", "-o", tmp_path / "out.mp4")
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


# refine, decode


@pytest.mark.parametrize("kind", ["preview", "degraded"])
def test_refine_equals_generate(run, names, made, tmp_path, kind):
    run("refine", made / f"out.{kind}.safetensors", "--models", "tiny", "-o", tmp_path / "again.mp4")
    assert names(tmp_path) == ["again.mp4"]
    assert (tmp_path / "again.mp4").read_bytes() == (made / "out.mp4").read_bytes()


def test_refine_keeps_what_generate_keeps(run, made, tmp_path):
    options = ["--models", "tiny", "--joint", "--keep-degraded", "--keep-latents"]
    run("refine", made / "out.preview.safetensors", *options, "-o", tmp_path / "out.mp4")
    for ending in ("mp4", "joint.mp4", "degraded.safetensors", "refined.safetensors"):
        assert (tmp_path / f"out.{ending}").read_bytes() == (made / f"out.{ending}").read_bytes()


def test_decode_equals_generate(run, names, made, tmp_path):
    run("decode", made / "out.refined.safetensors", "--models", "tiny", "-o", tmp_path / "again.mp4")
    assert names(tmp_path) == ["again.mp4"]
    assert (tmp_path / "again.mp4").read_bytes() == (made / "out.mp4").read_bytes()


def test_refine_takes_other_settings(run, made, tmp_path):
    command = ("refine", made / "out.preview.safetensors", "--models", "tiny", "--steps", 3, "--size", "96x96")
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
    run(*command, "--models", "tiny", "--allow-other-noise-step")
    assert (tmp_path / "out.mp4").read_bytes() != (made / "out.mp4").read_bytes()
    assert names(tmp_path) == ["out.mp4"]


def test_refined_latents_survive_a_failed_decoding(generate, run, names, made, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(generation, "decode_stream", stop(StoppedError("no memory")))
        said = generate("a red ball rolls", "--seed", 3, "-o", tmp_path / "out.mp4", code=1)
    assert names(tmp_path) == [*PREVIEW_FILES, "out.refined.safetensors"]
    assert "no memory" in said.err
    run("decode", tmp_path / "out.refined.safetensors", "--models", "tiny", "-o", tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == (made / "out.mp4").read_bytes()


# many prompts


@pytest.fixture
def many(generate, prompts_file, tmp_path):
    def command(*arguments, code=0):
        return generate("--prompts", prompts_file, "--seed", 3, *arguments, "-o", tmp_path / "videos", code=code)

    return command


def videos_in(folder):
    return sorted(p for p in folder.iterdir() if p.suffix == ".mp4" and ".preview" not in p.name)


def test_many_prompts_resume(many, generate, names, tmp_path, made, count):
    stage1 = count("sample_stage1")
    many()
    first = {path.name: path.read_bytes() for path in (tmp_path / "videos").iterdir()}
    assert len(first) == 9
    assert len(stage1) == 3
    assert videos_in(tmp_path / "videos")[0].read_bytes() == (made / "out.mp4").read_bytes()
    generate(PROMPTS[2], "--seed", 3, "-o", tmp_path / "alone.mp4")
    assert videos_in(tmp_path / "videos")[2].read_bytes() == (tmp_path / "alone.mp4").read_bytes()

    stage1.clear()
    said = many()
    assert said.out.count("finished already") == 3
    assert not stage1
    assert {path.name: path.read_bytes() for path in (tmp_path / "videos").iterdir()} == first


def test_interrupted_prompts_go_on(many, names, tmp_path, monkeypatch, count):
    stage1, stage2 = count("sample_stage1"), count("refine_latents")
    refine = generation.refine_latents
    interrupt = lambda *a, **k: refine(*a, **k) if len(stage2) < 1 else stop(KeyboardInterrupt())()  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(generation, "refine_latents", interrupt)
        assert "interrupted" in many(code=130).err
    left = names(tmp_path / "videos")
    assert len(left) == 5
    assert [name[:4] for name in left] == ["0000", "0000", "0000", "0001", "0001"]
    assert len(videos_in(tmp_path / "videos")) == 1
    assert len(stage1) == 2
    assert all(name.endswith((".mp4", ".preview.safetensors")) for name in left)

    stage1.clear()
    many()
    assert len(stage1) == 1  # the third prompt's only
    assert len(videos_in(tmp_path / "videos")) == 3


def test_failed_decoding_goes_on_without_stage2(many, tmp_path, monkeypatch, count):
    with monkeypatch.context() as patch:
        patch.setattr(generation, "decode_stream", stop(StoppedError("no memory")))
        many(code=1)
    stage2 = count("refine_latents")
    many()
    assert len(stage2) == 2
    assert not list((tmp_path / "videos").glob("*.refined.safetensors"))
    assert len(videos_in(tmp_path / "videos")) == 3


def test_previews_first_videos_later(many, tmp_path, count):
    stage1 = count("sample_stage1")
    many("--preview-only")
    assert not videos_in(tmp_path / "videos")
    many()
    assert len(stage1) == 3
    assert len(videos_in(tmp_path / "videos")) == 3


@pytest.mark.parametrize("change", [("--steps", 3), ("--fps", 12), ("--cfg", 3), ("--preview-cfg", 3)])
def test_another_setting_makes_another_video(many, tmp_path, change):
    many("--preview-only")
    before = set((tmp_path / "videos").iterdir())
    many("--preview-only", *change)
    assert len(set((tmp_path / "videos").iterdir()) - before) == 6


def test_processes_share_the_prompts(many, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    made_by = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        before = set((tmp_path / "videos").glob("*")) if rank else set()
        many()
        made_by.append({path.name[:4] for path in (tmp_path / "videos").iterdir() if path not in before})
    assert made_by == [{"0000", "0002"}, {"0001"}]


def test_processes_share_the_seeds(generate, names, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    generate("a ball", "--num-previews", 3, "--preview-only", "-o", tmp_path / "out.mp4")
    assert names(tmp_path) == ["out.seed1.preview.mp4", "out.seed1.preview.safetensors"]


def test_process_of_mpi(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    assert this_process() == (2, 4)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="process 2 of 2"):
        this_process()


@pytest.mark.parametrize("launcher", [["--multi_gpu"], ["--cpu"]])
def test_accelerate_launch(small, prompts_file, tmp_path, made, launcher):
    """--multi_gpu starts the processes as on GPUs; --cpu starts one, which does everything."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *launcher, "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["-m", "flashvideo", "generate", *small, "--seed", "3", "--device", "cpu", "--preview-only"]
    command += ["--prompts", str(prompts_file), "-o", str(tmp_path / "videos")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as many as the runs in this process
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    previews = sorted((tmp_path / "videos").glob("*.preview.safetensors"))
    assert len(previews) == 3
    assert previews[0].read_bytes() == (made / "out.preview.safetensors").read_bytes()
    assert len(list((tmp_path / "videos").iterdir())) == 6
    assert done.stdout.count("preview: ") == 3
    for index in range(1, 4):
        assert done.stdout.count(f"[{index}/3]") == 1


# interrupts


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_during_stage2(small, names, tmp_path, which):
    command = [sys.executable, "-m", "flashvideo", "generate", *small, "--steps", "5000", "a red ball"]
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "out.mp4")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        bufsize=0,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    said = b""
    try:
        while b"Stage II:" not in said and (block := process.stderr.read(1 << 12)):
            said += block
        process.send_signal(which)
        said += process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130, said.decode()
    assert b"interrupted" in said
    assert b"Traceback" not in said
    assert names(tmp_path) == PREVIEW_FILES


def test_interrupt_while_decoding(generate, names, tmp_path, monkeypatch):
    def one_chunk(*arguments, **options):
        yield next(iter(stream(*arguments, **options)))
        raise KeyboardInterrupt

    stream = generation.decode_stream
    monkeypatch.setattr(generation, "decode_stream", one_chunk)
    generate("a ball", "--joint", "-o", tmp_path / "out.mp4", code=130)
    assert names(tmp_path) == [*PREVIEW_FILES, "out.refined.safetensors"]


# convert


@pytest.mark.parametrize(
    ("source", "kind"), [("stage1.pt", "stage1"), ("stage2.pt", "stage2"), ("3d-vae.pt", "vae"), ("lora", "lora")]
)
def test_convert_round_trip(run, names, tmp_path, lora_file, source, kind):
    path = lora_file if source == "lora" else ASSETS / source
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


@pytest.fixture
def lora_file(tmp_path_factory):
    from flashvideo.checkpoints.lora import save_lora

    pairs = {"layers.0.attn_out": (torch.randn(4, 128), torch.randn(128, 4))}
    return save_lora(pairs, tmp_path_factory.mktemp("lora") / "lora.safetensors", naming="diffusers")


def test_converted_models_make_the_same_video(generate, run, tmp_path, made):
    run("convert", ASSETS / "stage1.pt", tmp_path / "stage1.safetensors")
    run("convert", ASSETS / "stage2.pt", tmp_path / "stage2.safetensors")
    run("convert", ASSETS / "3d-vae.pt", tmp_path / "vae.safetensors")
    parts = [f"--{name}={tmp_path / name}.safetensors" for name in ("stage1", "stage2", "vae")]
    generate("a red ball rolls", "--seed", 3, *parts, "--keep-latents", "-o", tmp_path / "out.mp4")
    ours, theirs = (load_preview(folder / "out.refined.safetensors") for folder in (tmp_path, made))
    assert torch.equal(ours.latents, theirs.latents)
    assert ours.models["stage1"] == "stage1.safetensors"


def test_lora_changes_the_video_and_is_recorded(generate, tmp_path, lora_file, made):
    lora = ("--lora", lora_file, "--lora-scale", 0.5)
    generate("a red ball rolls", "--seed", 3, *lora, "--preview-only", "-o", tmp_path / "out.mp4")
    preview = load_preview(tmp_path / "out.preview.safetensors")
    assert preview.models["lora"] == "lora.safetensors x 0.5"
    assert not torch.equal(preview.latents, load_preview(made / "out.preview.safetensors").latents)


def test_interrupted_convert_leaves_nothing(run, names, tmp_path, monkeypatch):
    from flashvideo.checkpoints.source import TransformerSource

    read, calls = TransformerSource.read, []

    def interrupted(*arguments, **options):
        calls.append(names(tmp_path))
        return read(*arguments, **options) if len(calls) < 5 else stop(KeyboardInterrupt())()

    monkeypatch.setattr(TransformerSource, "read", interrupted)
    run("convert", ASSETS / "stage1.pt", tmp_path / "new.safetensors", code=130)
    assert len(calls) == 5
    assert len(calls[-1]) == 1  # it was being written
    assert names(tmp_path) == []


def test_convert_keeps_an_existing_file(run, tmp_path):
    target = tmp_path / "new.safetensors"
    target.write_bytes(b"mine")
    assert "exists already" in run("convert", ASSETS / "stage2.pt", target, code=2).err
    assert target.read_bytes() == b"mine"
    run("convert", ASSETS / "stage2.pt", target, "--overwrite", "--dtype", "bf16")
    assert json.loads(run("inspect", target, "--json").out)["metadata"]["dtype"] == "bf16"


def test_convert_refuses_another_kind_or_name(run, names, tmp_path):
    said = run("convert", ASSETS / "stage2.pt", tmp_path / "a.safetensors", "--kind", "stage1", code=2)
    assert "is a stage2 checkpoint, not stage1" in said.err
    assert "must end in .safetensors" in run("convert", ASSETS / "stage2.pt", tmp_path / "a.pt", code=2).err
    assert "fp8" in run("convert", ASSETS / "3d-vae.pt", tmp_path / "a.safetensors", "--dtype=fp8_e4m3", code=2).err
    assert names(tmp_path) == []


# inspect


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
    found = json.loads(run("inspect", ASSETS / name, "--json").out)
    assert (found["kind"], found["layout"], found["sound"]) == (kind, layout, True)
    assert found["parameters"] > 10000
    assert "nothing missing, all values finite" in run("inspect", ASSETS / name).out


def test_inspect_says_what_a_stage_is(run):
    said = run("inspect", ASSETS / "stage1.pt").out
    assert "num_layers 2" in said
    assert "rank 4, merged on loading" in said
    assert "under 'module'" in said
    assert "fits into" in said


@pytest.mark.parametrize("content", ["preview", "degraded", "refined"])
def test_inspect_preview(run, made, content):
    found = json.loads(run("inspect", made / f"out.{content}.safetensors", "--json").out)
    assert (found["kind"], found["layout"], found["config"]["prompt"]) == ("preview", content, "a red ball rolls")


def test_inspect_converted_fp8_and_lora(run, tmp_path, lora_file):
    run("convert", ASSETS / "stage2.pt", tmp_path / "new.safetensors", "--dtype", "fp8_e4m3")
    found = json.loads(run("inspect", tmp_path / "new.safetensors", "--json").out)
    assert (found["kind"], found["layout"], found["metadata"]["dtype"]) == ("stage2", "native", "fp8_e4m3")
    assert set(found["dtypes"]) == {"fp8_e4m3", "bf16", "fp32"}
    found = json.loads(run("inspect", lora_file, "--json").out)
    assert (found["kind"], found["lora_rank"]) == ("lora", 4)


def test_inspect_names_what_is_missing(run, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(ASSETS / "text", tmp_path / "text")
    tensors = load_file(tmp_path / "text" / "model.safetensors")
    tensors.pop("encoder.block.1.layer.0.SelfAttention.v.weight")
    save_file(tensors, tmp_path / "text" / "model.safetensors")
    assert "block.1.layer.0.SelfAttention.v.weight" in run("inspect", tmp_path / "text", code=1).out
    for kind, container in (("stage1", "module"), ("3d-vae", "state_dict")):
        tree = torch.load(ASSETS / f"{kind}.pt", weights_only=True)
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


def test_version_and_help(run):
    assert flashvideo.__version__ in run("--version").out
    for command in ("generate", "refine", "decode", "convert", "inspect"):
        assert command in run("--help").out
        assert "usage: flashvideo " + command in run(command, "--help").out
