"""Configurations of training runs: read strictly, extended, refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest

import flashvideo
from flashvideo.method.pixel_degradation import (
    DegradationRound,
    PixelDegradation,
)
from flashvideo.training.config import from_table, read_toml, to_toml
from flashvideo.training.runs import open_run
from flashvideo.training.stages import StageConfig
from flashvideo.training.vae import VaeConfig
from tests.unit.training.small_runs import changed


def test_a_table_of_a_configuration_is_read() -> None:
    table = {"strong_share": 1, "weak_factor": [4, 6], "rounds": [{"blur_sigma": [1, 2]}], "jpeg_probability": 0.3}
    found = from_table(PixelDegradation, table, "degradation")
    assert found.rounds == (DegradationRound(blur_sigma=(1.0, 2.0)),)
    assert found.weak_factor == (4.0, 6.0)
    found.check()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind = "stage1"', 'kind = "stage3"', "expected 'stage1', 'stage2', 'stage2_student' or 'vae'"),
        ("ema = 0.9", "emma = 0.9", r"config\.run: unknown emma\. Known: .*ema"),
        ("ema = 0.9", 'ema = "much"', r"config\.run\.ema is 'much'; expected float"),
        ("ema = 0.9", "ema = 1.5", r"run\.ema is 1\.5"),
        ("steps = 4", "steps = 0", r"phases\[0\]\.steps is 0"),
        ("crop = [2, 4]", "crop = [3, 4]", r"phases\[1\]\.crop is \(3, 4\)"),
        ("crop = [2, 4]", "crop = [2]", "expected 2"),
        ("crop = [2, 4]", "noise_steps = [0, 1000]", r"noise_steps: \(0, 1000\), of which one is 1000; .* 0 to 999"),
        ("crop = [2, 4]", "noise_steps = [9, 8]", r"phases\[1\]\.noise_steps is \(9, 8\)"),
        ('kind = "stage1"', 'kind = "stage1"\ntime_shift = 0.0', r"time_shift is 0\.0; expected a number: more than 0"),
        ('kind = "stage1"', 'kind = "stage1"\ntime_shift = inf', r"time_shift is inf"),
        ("batch_size = 1\n", "batch_size = 1\ndatasets = {other = 1}\n", r"names the datasets \['other'\]"),
        ("[train_text]", "text_dropout = 0.1\n[train_text_]", "unknown train_text_"),
        ('source = "shapes"', 'source = "folder"', r"path is missing"),
        ("num_layers = 1\n", "num_layers = 1\nlearning_rate_scale = 0.0\n", r"train_text\.learning_rate_scale is 0"),
        ("learning_rate = 2e-3", "learning_rate = 0.0", "expected a positive number"),
        ("batch_size = 2", f"batch_size = {10**20}", r"phases\[0\]\.batch_size is 1000.*; expected at most 65536"),
        ("steps = 4", f"steps = {10**400}", r"phases\[0\]\.steps is 1000.*; expected at most 1000000000"),
        ("save_every = 3", f"save_every = {10**20}", r"run\.save_every is 1000.*; expected at most"),
        (
            "log_every = 1",
            f"gradient_accumulation = {10**20}",
            r"gradient_accumulation is 1000.*; expected at most",
        ),
        ("log_every = 1", f"keep = {10**20}", r"run\.keep is 1000.*; expected at most"),
        ("log_every = 1", f"warmup_steps = {10**20}", r"run\.warmup_steps is 1000.*; expected at most"),
        ("log_every = 1", "workers = 100000", r"run\.workers is 100000; expected at most 1024"),
        ("seed = 5", f"seed = {2**64}", r"run\.seed is 18446744073709551616; expected at most"),
    ],
)
def test_bad_configurations_are_refused_in_words_before_any_work(write, tmp_path, old, new, message):
    config = write()
    with pytest.raises(ValueError, match=message):
        open_run(changed(config, old, new), tmp_path / "out")
    assert not (tmp_path / "cache-run").exists()


def test_a_configuration_extends_another(tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "base.toml").write_text('kind = "vae"\n[run]\nseed = 3\nema = 0.5\n[[phases]]\nsteps = 7\n[[phases]]\n')
    path = tmp_path / "more/above.toml"
    path.write_text('extends = "../base.toml"\n[run]\nema = 0.9\nbetas = [0.5, 0.6]\n[[phases]]\nsteps = 2\n')
    expected = {"kind": "vae", "run": {"seed": 3, "ema": 0.9, "betas": [0.5, 0.6]}, "phases": [{"steps": 2}]}
    assert read_toml(path) == expected
    path.write_text(to_toml(expected))
    assert read_toml(path) == expected
    path.write_text('extends = "above.toml"\n')
    with pytest.raises(ValueError, match=r"extends itself: above.toml -> above.toml"):
        read_toml(path)


def test_a_configuration_nested_without_end_is_refused_in_words(tmp_path):
    (tmp_path / "deep.toml").write_text("kind = " + "[" * 100_000)
    with pytest.raises(ValueError, match=r"deep\.toml is not valid TOML"):
        read_toml(tmp_path / "deep.toml")


@pytest.mark.parametrize("path", sorted((Path(flashvideo.__file__).parent / "configs").rglob("*.toml")), ids=str)
def test_bundled_configurations_are_valid(path, tmp_path):
    table = read_toml(path)
    config = from_table({"vae": VaeConfig}.get(table["kind"], StageConfig), table, path.name)
    (tmp_path / "again.toml").write_text(to_toml(table))
    assert read_toml(tmp_path / "again.toml") == table
    config.check()


def test_what_is_no_file_of_settings(tmp_path):
    (tmp_path / "large.toml").write_text("a = 1\n" * 300_000)
    for path, said in ((tmp_path, r"cannot be read \(Is a directory\)"), (tmp_path / "large.toml", "at most 1048576")):
        with pytest.raises(ValueError, match=said):
            read_toml(path)
