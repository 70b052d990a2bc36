"""A ``settings.json`` in the models' folder: the defaults of those models."""

from __future__ import annotations

import json

import pytest

from flashvideo.runs.record import load_record
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
