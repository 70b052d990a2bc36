"""A run that was ended in the middle: the same command goes on, to the same bytes; files of another are kept."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from flashvideo.checkpoints.locks import claimed
from flashvideo.runs.record import load_record
from tests.conftest import TINY

PROMPT = "a red ball rolls"
EVERYTHING = ("--joint", "--keep-degraded", "--keep-latents")


@pytest.fixture
def ended_after(monkeypatch):
    """``with ended_after(n):`` the run is interrupted once its n-th file has its name."""

    def ending(count):
        patch, place, done = pytest.MonkeyPatch(), Path.replace, []

        def replace_and_end(self, target):
            result = place(self, target)
            done.append(target)
            if len(done) == count:
                raise KeyboardInterrupt
            return result

        patch.setattr(Path, "replace", replace_and_end)
        return patch

    return ending


def end_and_repeat(ended_after, command, count):
    patch = ended_after(count)
    try:
        command(code=130)
    finally:
        patch.undo()
    command(code=0)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_generate_goes_on(generate, ended_after, made, tmp_path, count):
    def command(code):
        generate(PROMPT, "--seed", 3, *EVERYTHING, "-o", tmp_path / "out.mp4", code=code)

    end_and_repeat(ended_after, command, count)
    assert contents(tmp_path) == contents(made)


def test_what_is_there_is_not_made_again(generate, ended_after, count, tmp_path):
    calls = [count(name) for name in ("sample_stage1", "encode_video", "refine_latents")]

    def command(code):
        generate(PROMPT, "--seed", 3, "-o", tmp_path / "out.mp4", code=code)

    end_and_repeat(ended_after, command, 3)
    assert [len(each) for each in calls] == [1, 1, 1]
    assert sorted(contents(tmp_path)) == ["out.mp4", "out.preview.mp4", "out.preview.safetensors"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_refine_goes_on(run, ended_after, made, tmp_path, count):
    def command(code):
        source = made / "out.preview.safetensors"
        run("refine", source, "--models", TINY, *EVERYTHING, "-o", tmp_path / "out.mp4", code=code)

    end_and_repeat(ended_after, command, count)
    assert contents(tmp_path) == {name: data for name, data in contents(made).items() if "preview" not in name}


@pytest.mark.parametrize("kind", ["preview", "degraded"])
def test_refine_goes_on_from_refined_latents(run, ended_after, made, count, tmp_path, kind):
    calls = count("refine_latents")

    def command(code):
        run("refine", made / f"out.{kind}.safetensors", "--models", TINY, "-o", tmp_path / "out.mp4", code=code)

    end_and_repeat(ended_after, command, 1)
    assert len(calls) == 1
    assert contents(tmp_path) == {"out.mp4": (made / "out.mp4").read_bytes()}


@pytest.mark.parametrize("count", [3, 6])
def test_several_seeds_go_on(generate, ended_after, made, tmp_path, count):
    """The sixth file is the first seed's video: that seed is finished, the other is not."""

    def command(code):
        generate(PROMPT, "--seed", 2, "--num-previews", 2, "-o", tmp_path / "out.mp4", code=code)

    end_and_repeat(ended_after, command, count)
    endings = ["mp4", "preview.mp4", "preview.safetensors"]
    left = {f"{name}.{ending}" for name in ("out", "out.seed3") for ending in endings}
    assert set(contents(tmp_path)) == left
    for ending in endings:
        assert (tmp_path / f"out.seed3.{ending}").read_bytes() == (made / f"out.{ending}").read_bytes()


def test_a_preview_goes_on_to_its_video(generate, made, tmp_path):
    for options in (("--preview-only",), ()):
        generate(PROMPT, "--seed", 3, *options, "-o", tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == (made / "out.mp4").read_bytes()


def test_what_is_finished_is_kept(generate, no_work, made, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    for options in (EVERYTHING, (), ("--preview-only",)):
        said = generate(PROMPT, "--seed", 3, *options, "-o", tmp_path / "out.mp4", code=2)
        assert "exists already and is kept" in said.err
    assert contents(tmp_path) == contents(made)


@pytest.mark.parametrize(
    ("prompt", "options", "other"),
    [
        ("a blue ball rolls", (), "prompt"),
        (PROMPT, ("--preview-steps", 3), "stage1"),
        (PROMPT, ("--seed", 4), "stage1, stage2"),
        (PROMPT, ("--shift", 1), "stage2"),
        (PROMPT, ("--fps", 9), "fps"),
        (PROMPT, ("--dtype", "bf16"), "models"),
    ],
    ids=["prompt", "steps", "seed", "shift", "fps", "dtype"],
)
@pytest.mark.parametrize("left", ["preview.safetensors", "preview.mp4", "degraded.safetensors", "joint.mp4"])
def test_files_of_another_run_are_kept(generate, no_work, names, made, tmp_path, left, prompt, options, other):
    shutil.copy(made / f"out.{left}", tmp_path)
    said = generate(prompt, "--seed", 3, *EVERYTHING, *options, "-o", tmp_path / "out.mp4", code=2)
    assert f"out.{left} exists already and is kept (another run wrote it, with other {other})" in said.err
    assert names(tmp_path) == [f"out.{left}"]


def test_refined_latents_of_other_settings_are_kept(run, no_work, names, made, tmp_path):
    command = ("refine", made / "out.preview.safetensors", "--models", TINY, "-o", tmp_path / "out.mp4")
    shutil.copy(made / "out.refined.safetensors", tmp_path)
    for options in (("--steps", 3), ("--cfg", 2), ("--solver", "heun"), ("--vae-dtype", "bf16")):
        said = run(*command, *options, code=2)
        assert "is left from an earlier run: `flashvideo decode` makes a video of it" in said.err
    assert contents(tmp_path) == {"out.refined.safetensors": (made / "out.refined.safetensors").read_bytes()}


@pytest.mark.parametrize("part", ["latents", "stage2_embeds"])
def test_refined_latents_of_another_preview_are_kept(run, no_work, made, tmp_path, part):
    """What their records say is the same."""
    preview = load_record(made / "out.preview.safetensors")
    changed = replace(preview, **{part: getattr(preview, part) + 0.01}).save(tmp_path / "other.preview.safetensors")
    shutil.copy(made / "out.refined.safetensors", tmp_path)
    said = run("refine", changed, "--models", TINY, "-o", tmp_path / "out.mp4", code=2)
    assert "is left from an earlier run" in said.err


@pytest.mark.parametrize("command", ["generate", "refine"])
def test_ended_before_the_latents_of_a_video_were_removed(run, generate, ended_after, no_work, made, tmp_path, command):
    source = made / "out.preview.safetensors"

    def begin(code):
        if command == "generate":
            return generate(PROMPT, "--seed", 3, "-o", tmp_path / "out.mp4", code=code)
        return run("refine", source, "--models", TINY, "-o", tmp_path / "out.mp4", code=code)

    for name in ("preview.mp4", "preview.safetensors") if command == "generate" else ():
        shutil.copy(made / f"out.{name}", tmp_path)
    shutil.copy(made / "out.mp4", tmp_path)
    load_record(made / "out.refined.safetensors").save(tmp_path / "out.refined.safetensors", interim=True)
    before = set(contents(tmp_path))
    assert "out.mp4" in begin(0).out
    assert set(contents(tmp_path)) == before - {"out.refined.safetensors"}
    assert "exists already" in begin(2).err


def test_latents_that_were_asked_for_stay(generate, run, no_work, made, tmp_path):
    """As :func:`test_ended_before_the_latents_of_a_video_were_removed`, but somebody wanted them."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    assert "exists already" in generate(PROMPT, "--seed", 3, "-o", tmp_path / "out.mp4", code=2).err
    assert contents(tmp_path) == contents(made)


@pytest.mark.parametrize(
    "name", ["mp4", "joint.mp4", "preview.mp4", *(f"{kind}.safetensors" for kind in ("preview", "degraded", "refined"))]
)
@pytest.mark.parametrize("length", [0, -1])
def test_what_was_cut_short_is_made_again(generate, made, tmp_path, name, length):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    file = tmp_path / f"out.{name}"
    file.write_bytes(file.read_bytes()[:length])
    if name.startswith("preview"):  # it is looked at where something else has to be made
        (tmp_path / "out.mp4").unlink()
    generate(PROMPT, "--seed", 3, *EVERYTHING, "-o", tmp_path / "out.mp4")
    assert contents(tmp_path) == contents(made)


def test_another_process_is_writing_it(generate, run, no_work, names, made, tmp_path):
    preview, refined = (made / f"out.{kind}.safetensors" for kind in ("preview", "refined"))
    with claimed(tmp_path / "out.mp4"):
        for said in (
            generate(PROMPT, "-o", tmp_path / "out.mp4", code=2),
            run("refine", preview, "--models", TINY, "-o", tmp_path / "out.mp4", code=2),
            run("decode", refined, "--models", TINY, "-o", tmp_path / "out.mp4", code=2),
        ):
            assert "Another process is writing" in said.err
            assert "Wait until it ends, or choose another name" in said.err
    assert names(tmp_path) == []
