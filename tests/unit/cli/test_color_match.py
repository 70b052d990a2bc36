"""Colours of the preview in the video, on the command line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flashvideo.runs.record import load_record
from flashvideo.video.files import read_video
from flashvideo.video.resize import resize_video
from tests.conftest import TINY


@pytest.fixture
def matched(generate, tmp_path):
    options = ("--seed", 3, "--keep-latents", "--keep-degraded", "--match-colors", 1)
    generate("a red ball rolls", *options, "-o", tmp_path / "out.mp4")
    return tmp_path


def test_a_run_keeps_the_previews_colours(matched, made):
    preview, _ = read_video(matched / "out.preview.mp4")
    with_, without = (read_video(folder / "out.mp4")[0] for folder in (matched, made))

    def off(video):
        return (resize_video(video, *preview.shape[3:]) - preview).abs().mean()

    assert off(with_) < 0.5 * off(without)


@pytest.mark.parametrize("kind", ["preview", "degraded"])
def test_refine_matches_as_generate_does(matched, run, tmp_path, kind):
    run("refine", matched / f"out.{kind}.safetensors", "--models", TINY, "-o", tmp_path / "again.mp4")
    assert (tmp_path / "again.mp4").read_bytes() == (matched / "out.mp4").read_bytes()


def test_decode_matches_as_generate_does(matched, run, tmp_path):
    run("decode", matched / "out.refined.safetensors", "--models", TINY, "-o", tmp_path / "again.mp4")
    assert (tmp_path / "again.mp4").read_bytes() == (matched / "out.mp4").read_bytes()


def test_latents_without_their_preview_are_refused(matched, run, no_work, tmp_path):
    for kind, command in (("refined", "decode"), ("degraded", "refine")):
        old = replace(load_record(matched / f"out.{kind}.safetensors"), preview_latents=None)
        old.save(tmp_path / "old.safetensors", overwrite=True)
        said = run(command, tmp_path / "old.safetensors", "--models", TINY, "-o", tmp_path / "new.mp4", code=2)
        assert "has no latents of the preview" in said.err
    assert not (tmp_path / "new.mp4").exists()
