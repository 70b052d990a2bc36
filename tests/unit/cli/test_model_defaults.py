"""A ``settings.json`` in the models' folder: the defaults of those models."""

from __future__ import annotations

import json

import pytest

from flashvideo import load_stage2
from flashvideo.method.student import Student
from flashvideo.runs.record import load_record
from flashvideo.training.models import save_transformer
from tests.conftest import TINY

SETTINGS = {"preview-size": "32x32", "frames": 5, "preview-steps": 2, "size": "64x64", "noise-step": 600, "cfg": 2.5}


@pytest.fixture
def folder(tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    for file in TINY.iterdir():
        (models / file.name).symlink_to(file)
    (models / "settings.json").write_text(json.dumps(SETTINGS))
    return models


def test_it_gives_the_defaults_and_the_command_line_goes_first(run, folder, tmp_path):
    run("generate", "a boat", "--models", folder, "--noise-step=700", "--preview-only", "-o", tmp_path / "a.mp4")
    preview = load_record(tmp_path / "a.preview.safetensors")
    stage1, stage2 = preview.stage1, preview.stage2
    assert (stage1.height, stage1.num_frames, stage1.num_steps) == (32, 5, 2)
    assert (stage2.width, stage2.noise_step, stage2.guidance_scale) == (64, 700, 2.5)
    assert stage2.num_steps == 4, "what it does not name stays as it is"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("[1]", "expected a table of these: preview-size"),
        ('{"cgf": 2}', "has cgf"),
        ('{"cfg": "much"}', "has 'cfg' as 'much'; expected a number"),
        ('{"frames": 17.5}', "has 'frames' as 17.5; expected a whole number"),
        ('{"noise-step": 1000}', "has 'noise-step' as 1000; expected a whole number: 0 to 999"),
        ('{"solver": "magic"}', "has 'solver' as 'magic'; expected one of euler, midpoint, heun, rk4"),
        ('{"size": "huge"}', "has 'size' as 'huge'; expected 270p, 540p"),
        ('{"motion": null}', "has 'motion' as None; expected words"),
        ('{"seed": 1}', "has seed; expected a table of these: preview-size"),
    ],
)
def test_a_wrong_one_is_refused(run, no_work, folder, tmp_path, content, said):
    (folder / "settings.json").write_text(content)
    assert said in run("generate", "a boat", "--models", folder, "-o", tmp_path / "a.mp4", code=2).err
    assert not list(tmp_path.glob("a*"))


@pytest.fixture
def student(tmp_path):
    """Stage II that says that it was distilled."""
    model = load_stage2(TINY / "stage2.pt")
    model.register_to_config(student=Student(2, 1.5, 7.0).to_table())
    return save_transformer(model, tmp_path / "student.safetensors", "stage2")


def test_a_student_gives_the_defaults_that_it_was_made_for(run, folder, student, tmp_path):
    output = tmp_path / "a.mp4"
    run("generate", "a boat", "--models", folder, "--stage2", student, "--preview-only", "-o", output)
    preview = load_record(tmp_path / "a.preview.safetensors")
    stage2 = preview.stage2
    assert (stage2.num_steps, stage2.shift, stage2.guidance_scale, stage2.width) == (2, 1.5, 1.0, 64)
    assert preview.models["student"].startswith("a student, made for 2 evaluations and guidance 1, with guidance 7 ")
    assert "student:      a student, made for 2" in run("inspect", student).out


def test_guiding_a_student_is_refused_unless_asked_for(run, folder, student, tmp_path):
    command = ("generate", "a boat", "--models", folder, "--stage2", student, "--cfg=13", "--steps=1")
    refused = run(*command, "-o", tmp_path / "a.mp4", code=2).err
    assert "guidance 13 would guide it a second time. Take 1 (--cfg 1;" in refused
    assert not list(tmp_path.glob("a*"))
    run(*command, "--guide-student", "-o", tmp_path / "b.mp4")
    assert (tmp_path / "b.mp4").exists()
