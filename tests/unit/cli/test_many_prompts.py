"""The command line with many prompts: resuming, interrupts, many processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest

from flashvideo.checkpoints.locks import claimed
from flashvideo.runs import chain
from flashvideo.runs.jobs import this_process
from tests.conftest import TINY
from tests.unit.conftest import PREVIEW_FILES, StoppedError, stop

PROMPTS = ["a red ball rolls", "a blue cube turns", "rain falls on a lake"]


@pytest.fixture
def prompts_file(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("# a comment\n" + "\n\n".join(PROMPTS) + "\n", encoding="utf-8-sig")
    return file


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
    refine = chain.refine_latents
    interrupt = lambda *a, **k: refine(*a, **k) if len(stage2) < 1 else stop(KeyboardInterrupt())()  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(chain, "refine_latents", interrupt)
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
        patch.setattr(chain, "decode_stream", stop(StoppedError("no memory")))
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


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1])],
    ids=["empty", "cut short", "a bit"],
)
def test_one_damaged_preview_does_not_stop_the_others(many, tmp_path, damage, caplog):
    many("--preview-only")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "videos").iterdir()}
    first, *_ = (path for path in sorted((tmp_path / "videos").iterdir()) if path.suffix == ".safetensors")
    first.write_bytes(damage(first.read_bytes()))
    many()
    assert "It is made again now." in caplog.text
    assert {name: (tmp_path / "videos" / name).read_bytes() for name in whole} == whole


@pytest.mark.parametrize("part", ["stage1.pt", "3d-vae.pt", "text/model.safetensors", "text/tokenizer.json"])
def test_other_weights_under_the_same_path_make_prompts_be_done_again(run, small, tmp_path, part):
    """One bit of them: the names of their files, their sizes and all settings are the same."""
    models = shutil.copytree(TINY, tmp_path / "models")
    (tmp_path / "p.txt").write_text("a ball")

    def command():
        arguments = [models if argument == str(TINY) else argument for argument in small]
        run("generate", *arguments, "--prompts", tmp_path / "p.txt", "--preview-only", "-o", tmp_path / "videos")
        return {path.name for path in (tmp_path / "videos").iterdir()}

    before = command()
    assert command() == before
    data = bytearray((models / part).read_bytes())
    if part.endswith("json"):
        data += b" "
    else:
        data[len(data) // 2] ^= 1
    (models / part).write_bytes(data)
    assert len(command()) == 2 * len(before)


def test_processes_that_know_nothing_of_each_other_share_a_folder(many, tmp_path, names):
    many("--preview-only")
    prompt, *_ = (path.name for path in sorted((tmp_path / "videos").iterdir()) if path.suffix == ".safetensors")
    with claimed(tmp_path / "videos" / prompt.replace(".preview.safetensors", ".mp4")):
        assert many().out.count("another process is at it") == 1
    assert len(videos_in(tmp_path / "videos")) == 2
    many()
    assert len(videos_in(tmp_path / "videos")) == 3
    assert not [name for name in names(tmp_path / "videos") if name.startswith(".")]


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
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells' background jobs ignore it
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

    stream = chain.decode_stream
    monkeypatch.setattr(chain, "decode_stream", one_chunk)
    generate("a ball", "--joint", "-o", tmp_path / "out.mp4", code=130)
    assert names(tmp_path) == [*PREVIEW_FILES, "out.refined.safetensors"]
