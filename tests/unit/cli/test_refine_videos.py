"""``flashvideo refine`` of video files: frames, sound, tags, cuts; many; and gone on with after any end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from flashvideo.runs import refining
from flashvideo.video import joining
from flashvideo.video.color_match import cells_of_a_latent
from flashvideo.video.files import VideoWriter, read_metadata, read_video
from tests.coded_videos import write_coded
from tests.conftest import TINY
from tests.unit.runs.test_stream import moving

FAST = ["--models", str(TINY), "--size=32x32", "--steps=1", "--cfg=1", "--time-windows=3,1"]
PROMPT = "--prompt=a red ball rolls"
FPS = Fraction(24000, 1001)


def scene(frames: int, seed: int) -> torch.Tensor:
    """Another one for every seed: its colours are far from those of the next."""
    return moving(frames, 32, 32) * 0.2 + (0.8 if seed % 2 else 0.0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video of two scenes, of 10 and 11 frames, with sound and a title."""
    folder = tmp_path_factory.mktemp("clip")
    silent = folder / "silent.mp4"
    with VideoWriter(silent, FPS) as writer:
        writer.write(scene(10, 0))
        writer.write(scene(11, 1))
    path = folder / "clip.mp4"
    with av.open(str(path), "w") as out, av.open(str(silent)) as source:
        out.metadata["title"] = "Two scenes"
        pictures = joining._like(out, source.streams.video[0])
        sound = out.add_stream("aac", rate=48000)
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = pictures
                out.mux(packet)
        wave = (0.3 * np.sin(np.arange(42000) / 20)).astype(np.float32)
        for start in range(0, 42000, 1000):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1000], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, start
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return path


def packets_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]


def sound_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)


@pytest.fixture(scope="module")
def refined(clip, tmp_path_factory, one_thread):
    """The clip refined in one go."""
    from flashvideo.cli import main

    folder = tmp_path_factory.mktemp("refined")
    with one_thread():
        assert main(["refine", str(clip), *FAST, PROMPT, "-o", str(folder / "out.mp4")]) == 0
    assert [path.name for path in folder.iterdir()] == ["out.mp4"]
    return folder / "out.mp4"


def test_frames_rate_sound_and_tags_are_kept(clip, refined):
    video, rate = read_video(refined)
    assert video.shape == (1, 3, 21, 32, 32)
    assert rate == FPS
    assert packets_of(refined) == packets_of(clip)
    np.testing.assert_allclose(sound_of(refined), sound_of(clip), atol=1e-6)
    tags = read_metadata(refined)
    assert tags["title"] == "Two scenes"
    assert tags["comment"] == "a red ball rolls"
    told = json.loads(tags["flashvideo"])
    assert (told["prompt"], told["draws"], told["cuts"]) == ("a red ball rolls", "frame", "auto")
    assert told["stage2"]["time_windows"] == "3,1"
    assert told["models"]["stage2"].startswith("stage2.pt")


def test_another_seed_draws_other_noise(run, clip, refined, tmp_path):
    run("refine", clip, *FAST, PROMPT, "--seed=7", "-o", tmp_path / "out.mp4")
    assert json.loads(read_metadata(tmp_path / "out.mp4")["flashvideo"])["stage2"]["seed"] == 7
    assert not torch.equal(read_video(tmp_path / "out.mp4")[0], read_video(refined)[0])


def test_cuts_can_be_given_or_off(run, clip, refined, tmp_path):
    said = run("refine", clip, *FAST, PROMPT, "--cuts=10", "-o", tmp_path / "given.mp4")
    assert "2 stretches, with cuts before the frames 10 (--cuts off refines them as one)" in said.out
    assert "stretches" not in run("refine", clip, *FAST, PROMPT, "--cuts=off", "-o", tmp_path / "off.mp4").out
    auto, given, off = (read_video(path)[0] for path in (refined, tmp_path / "given.mp4", tmp_path / "off.mp4"))
    assert torch.equal(given, auto)  # where they were found
    assert not torch.equal(off, auto)


def test_each_stretch_has_its_prompt(run, clip, refined, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red ball rolls\nsnow falls\n")
    run("refine", clip, *FAST, f"--prompts={tmp_path}/prompts.txt", "-o", tmp_path / "out.mp4")
    one, two = read_video(refined)[0], read_video(tmp_path / "out.mp4")[0]
    assert torch.equal(one[:, :, :10], two[:, :, :10])
    assert not torch.equal(one[:, :, 10:], two[:, :, 10:])
    (tmp_path / "prompts.txt").write_text("a\nb\nc\n")
    said = run("refine", clip, *FAST, f"--prompts={tmp_path}/prompts.txt", "-o", tmp_path / "no.mp4", code=2)
    assert "there are 3 prompts for 2 stretches, which begin at the frames 0, 10." in said.err


def test_the_prompt_in_the_file_is_the_default(run, refined, clip, tmp_path):
    run("refine", refined, *FAST, "-o", tmp_path / "again.mp4")
    assert read_metadata(tmp_path / "again.mp4")["comment"] == "a red ball rolls"
    said = run("refine", clip, *FAST, "-o", tmp_path / "no.mp4", code=2)
    assert "does not say what it shows. Describe it with --prompt" in said.err


def test_the_size_follows_the_video(run, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(refining.Refiner, "refine", lambda *_: None)
    monkeypatch.setattr("flashvideo.cli.refine.join", lambda job, _stretches: seen.append(job.settings))
    for name, (height, width) in (("wide", (32, 48)), ("tall", (48, 32))):
        with VideoWriter(tmp_path / f"{name}.mp4", 8) as writer:
            writer.write(moving(3, height, width))
        for size in ("x2", "720p", None):
            options = ["--models", TINY, PROMPT, *([f"--size={size}"] if size else [])]
            run("refine", tmp_path / f"{name}.mp4", *options, "-o", tmp_path / f"{name}{size}.mp4")
    sizes = [(one.height, one.width) for one in seen]
    assert sizes == [(64, 96), (720, 1280), (1072, 1920), (96, 64), (1280, 720), (1920, 1072)]
    assert {one.time_windows for one in seen} == {"13,3"}


def test_a_varying_rate_keeps_its_time(run, tmp_path):
    source = write_coded(tmp_path / "a.mkv", scene(5, 0), "libx264", "yuv420p", 10, [0, 100, 300, 400, 500])
    said = run("refine", source, *FAST, PROMPT, "-o", tmp_path / "out.mp4")
    assert "0 frames" not in said.err
    video, rate = read_video(tmp_path / "out.mp4")
    assert (video.shape[2], rate) == (6, 10)


def test_sound_that_does_not_fit_is_told(run, tmp_path, caplog):
    with VideoWriter(tmp_path / "a.mkv", 8) as writer:
        writer.write(scene(3, 0))
    with av.open(str(tmp_path / "b.mkv"), "w") as out, av.open(str(tmp_path / "a.mkv")) as source:
        pictures, sound = joining._like(out, source.streams.video[0]), out.add_stream("pcm_s16le", rate=8000)
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = pictures
                out.mux(packet)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 3000), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        out.mux(sound.encode(frame))
    run("refine", tmp_path / "b.mkv", *FAST, PROMPT, "-o", tmp_path / "out.mp4")
    assert "Its sound in pcm_s16le does not go into .mp4 as it is, and is left out. Write an .mkv" in caplog.text
    run("refine", tmp_path / "b.mkv", *FAST, PROMPT, "-o", tmp_path / "out.mkv")
    assert packets_of(tmp_path / "out.mkv") == packets_of(tmp_path / "b.mkv")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--joint"], "--joint goes with previews"),
        (["--keep-latents"], "--keep-latents goes with previews"),
        (["--cuts=often"], "cuts are 'often'; expected auto, off, or numbers of frames such as 120,455"),
        (["--cuts=30"], "cuts before the frames 30; expected rising numbers from 1 to 20"),
        (["--cuts=9,9"], "cuts before the frames 9, 9; expected rising numbers"),
        (["--prompt= "], "Give a prompt that is not empty"),
        (["--size=33x32"], "multiples of 16"),
    ],
)
def test_bad_settings_are_refused_before_work(run, no_work_of_stage2, clip, tmp_path, given, said):
    assert said in run("refine", clip, *FAST, PROMPT, *given, "-o", tmp_path / "out.mp4", code=2).err
    assert not (tmp_path / "out.mp4").exists()


@pytest.fixture
def no_work_of_stage2(monkeypatch):
    def working(*_, **__):
        raise AssertionError("frames were refined")

    monkeypatch.setattr(refining, "go_on_refining", working)


def test_options_of_videos_are_refused_for_previews(run, made, tmp_path):
    for option in (PROMPT, "--cuts=off", "--prompts=a.txt", "--ray=local"):
        said = run("refine", made / "out.preview.safetensors", option, "-o", tmp_path / "a.mp4", code=2)
        assert "goes with videos; a preview holds its prompt" in said.err


def test_what_exists_is_kept(run, clip, refined, tmp_path):
    shutil.copy(refined, tmp_path / "out.mp4")
    said = run("refine", clip, *FAST, PROMPT, "-o", tmp_path / "out.mp4", code=2)
    assert "exists already and is kept" in said.err
    run("refine", clip, *FAST, PROMPT, "--noise-step=600", "--overwrite", "-o", tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() != refined.read_bytes()


def interrupted(monkeypatch, after: int) -> None:
    """End the next run after so many frames' pieces were written."""
    write, left = refining._Parts.write, [after]

    def stopping(self, frames):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        write(self, frames)

    monkeypatch.setattr(refining._Parts, "write", stopping)


@pytest.mark.parametrize("part", [8, 96])
def test_a_full_disk_loses_nothing(run, clip, refined, tmp_path, monkeypatch, part):
    monkeypatch.setattr(refining, "PART_FRAMES", part)
    command = ("refine", clip, *FAST, PROMPT, "-o", tmp_path / "out.mp4")
    for after in (0, 1, 2):
        with monkeypatch.context() as patch:
            interrupted(patch, after)
            assert "No space left" in run(*command, code=1).err
    said = run("refine", clip, *FAST, PROMPT, "--noise-step=600", "-o", tmp_path / "out.mp4", code=2)
    assert "holds parts of another run (other stage2)" in said.err
    run(*command)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    if part == 96:
        assert (tmp_path / "out.mp4").read_bytes() == refined.read_bytes()
    else:
        monkeypatch.undo()
        monkeypatch.setattr(refining, "PART_FRAMES", part)
        run("refine", clip, *FAST, PROMPT, "-o", tmp_path / "whole.mp4")
        assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_ended_just_before_the_last_act(run, clip, refined, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(refining, "discard", lambda job: None)
        run("refine", clip, *FAST, PROMPT, "-o", tmp_path / "out.mp4")
    assert len(list(tmp_path.iterdir())) == 2
    run("refine", clip, *FAST, PROMPT, "-o", tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_a_folder_of_others_is_left_alone(run, no_work_of_stage2, clip, tmp_path, more):
    (tmp_path / "out.mp4.parts").mkdir()
    (tmp_path / "out.mp4.parts" / "mine.txt").write_text("mine")
    said = run("refine", clip, *FAST, PROMPT, *more, "-o", tmp_path / "out.mp4", code=2)
    assert "and has other files. Move it" in said.err
    assert (tmp_path / "out.mp4.parts" / "mine.txt").read_text() == "mine"


def test_a_mask_that_moves_goes_with_one_stretch(run, no_work_of_stage2, clip, tmp_path):
    said = run("refine", clip, *FAST, PROMPT, f"--keep={clip}", "-o", tmp_path / "out.mp4", code=2)
    assert "moves, and the video has 2 stretches, each of which begins anew" in said.err


def test_killed_anywhere_the_bytes_are_the_same(clip, refined, tmp_path):
    command = [sys.executable, "-m", "flashvideo", "refine", clip, *FAST, PROMPT, "-o", tmp_path / "out.mp4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    folder = tmp_path / "out.mp4.parts"
    for kept in ("latents-00000/settled0-*", "latents-00001/start-*"):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not list(folder.glob(kept)):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0
    assert (tmp_path / "out.mp4").read_bytes() == refined.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_a_folder_of_videos(run, clip, refined, tmp_path, monkeypatch):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    shutil.copy(clip, source / "a.mp4")
    write_coded(source / "b.avi", scene(3, 0), "mpeg4", "yuv420p", 8)
    (source / "c.mp4").write_bytes(b"no video")
    (source / "notes.txt").write_text("no video either")
    said = run("refine", source, *FAST, PROMPT, "-o", out, code=2)
    assert "1 of 3 videos were not refined: c.mp4. See above." in said.err
    assert sorted(path.name for path in out.iterdir()) == ["a.mp4", "b.mp4"]
    (source / "c.mp4").unlink()
    before = (out / "a.mp4").stat().st_mtime_ns
    said = run("refine", source, *FAST, PROMPT, "-o", out)
    assert said.out.count("finished already") == 2
    assert (out / "a.mp4").stat().st_mtime_ns == before
    (out / "a.mp4").unlink()
    (out / "b.mp4").unlink()
    for rank, names in ((1, ["b.mp4"]), (0, ["a.mp4", "b.mp4"])):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        run("refine", source / "a.mp4", source / "b.avi", *FAST, PROMPT, "-o", out)
        assert sorted(path.name for path in out.iterdir()) == names
    assert read_video(out / "a.mp4")[0].shape[2] == 21


@pytest.mark.parametrize(
    ("names", "more", "said"),
    [
        (["a.mp4", "a.avi"], [], "Two videos would be written as"),
        (["a.mp4", "b.mp4"], ["--prompts=p.txt"], "--prompts goes with one video"),
        (["a.mp4", "b.mp4"], ["--cuts=9"], "--cuts with frame numbers goes with one video"),
        (["a.mp4", "b.safetensors"], [], "is a preview; previews are refined one by one"),
    ],
)
def test_bad_lists_are_refused(run, no_work, tmp_path, names, more, said):
    prompt = [] if more and "prompts" in more[0] else [PROMPT]
    for name in names:
        (tmp_path / name).write_bytes(b"\0")
    sources = [tmp_path / name for name in names]
    assert said in run("refine", *sources, *FAST, *prompt, *more, "-o", tmp_path / "out", code=2).err


def test_an_empty_folder_is_refused(run, no_work, tmp_path):
    (tmp_path / "in").mkdir()
    assert "has no videos" in run("refine", tmp_path / "in", *FAST, PROMPT, "-o", tmp_path / "out", code=2).err


@pytest.mark.parametrize(
    ("source", "target", "cells"),
    [((48, 80), (192, 320), 2), ((96, 160), (192, 320), 4), ((192, 320), (192, 320), 8), ((32, 32), (1072, 1920), 1)],
)
def test_colours_are_kept_in_cells_of_a_latent(refined, source, target, cells):
    assert cells_of_a_latent(source, target) == cells
    assert json.loads(read_metadata(refined)["flashvideo"])["stage2"]["match_colors"] == 8
