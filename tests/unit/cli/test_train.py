"""The command line trains."""

from __future__ import annotations


def test_the_command_line_trains_and_does_not_overwrite(run, write, tmp_path):
    config = write()
    said = run("train", config, "-o", tmp_path / "out", "--stop-after", 1)
    assert "1 of 6 steps are done" in said.out
    assert "--resume" in run("train", config, "-o", tmp_path / "out", code=2).err
    assert "6 of 6 steps" in run("train", config, "-o", tmp_path / "out", "--resume").out
    assert "There is no configuration" in run("train", tmp_path / "nothing.toml", "-o", tmp_path / "x", code=2).err
