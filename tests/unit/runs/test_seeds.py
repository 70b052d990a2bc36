"""The same seed gives the same bytes, whatever else differs between two runs."""

from __future__ import annotations

import pytest
import torch

from flashvideo.runs.record import load_record
from flashvideo.runs.seeds import generator_for
from tests.conftest import TINY

PROMPT = "a red ball rolls"


@pytest.mark.parametrize("offload", ["none", "cpu", "disk"])
def test_same_bytes_with_any_offloading(generate, tmp_path, made, offload):
    options = ["--joint", "--keep-degraded", "--keep-latents", "--offload", offload]
    generate(PROMPT, "--seed", 3, *options, "-o", tmp_path / "out.mp4")
    for file in made.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


def test_same_bytes_in_any_batch(generate, tmp_path, made):
    folders = []
    for index, prompts in enumerate(([PROMPT], [PROMPT, "rain"], [PROMPT, "snow falls", "rain"])):
        (tmp_path / "prompts.txt").write_text("\n".join(prompts))
        folders.append(tmp_path / str(index))
        generate("--prompts", tmp_path / "prompts.txt", "--seed", 3, "-o", folders[-1])
    for folder in folders:
        files = {
            path.suffixes[-2] + path.suffix if ".preview" in path.name else path.suffix: path
            for path in folder.glob("0000-*")
        }
        assert len(files) == 3
        for ending, path in files.items():
            assert path.read_bytes() == (made / f"out{ending}").read_bytes()


def test_same_bytes_after_other_draws(generate, tmp_path, made):
    torch.manual_seed(12345)
    torch.randn(7)
    generate(PROMPT, "--seed", 3, "-o", tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == (made / "out.mp4").read_bytes()


def test_other_seeds_differ_in_every_draw(generate, tmp_path, made):
    generate(PROMPT, "--seed", 4, "--keep-degraded", "--keep-latents", "-o", tmp_path / "out.mp4")
    for content in ("preview", "degraded", "refined"):
        ours, theirs = (load_record(folder / f"out.{content}.safetensors") for folder in (tmp_path, made))
        assert (ours.latents - theirs.latents).std() > 0.1
    assert (tmp_path / "out.mp4").read_bytes() != (made / "out.mp4").read_bytes()


def test_posterior_is_drawn_unless_its_mean_is_asked_for(run, tmp_path, made):
    command = ("refine", made / "out.preview.safetensors", "--models", TINY, "--posterior-mean", "--keep-degraded")
    run(*command, "-o", tmp_path / "out.mp4")
    ours, theirs = (load_record(folder / "out.degraded.safetensors").latents for folder in (tmp_path, made))
    assert not torch.equal(ours, theirs)


def test_seeds_are_those_of_comfyui(generate, tmp_path):
    generate(PROMPT, "--seed", 2**64 - 1, "--preview-only", "-o", tmp_path / "out.mp4")
    assert load_record(tmp_path / "out.preview.safetensors").stage1.seed == 2**64 - 1


def test_draws_of_a_seed_stay_what_they_were():
    drawn = {seed: generator_for(seed, "degradation").initial_seed() for seed in (0, 3, 2**63 - 1)}
    assert drawn == {0: 7717071070017799615, 3: 2936827953815564401, 2**63 - 1: 3375184636965647274}


def test_every_purpose_has_its_own_draws():
    purposes = ("stage1 start", "stage1 solver", "posterior", "degradation")
    draws = {
        (seed, p): torch.randn(8, generator=generator_for(seed, p))
        for seed in (0, 1, 2**63 - 1, 2**64 - 1)
        for p in purposes
    }
    values = [tuple(draw.tolist()) for draw in draws.values()]
    assert len(set(values)) == len(values)
    assert torch.equal(torch.randn(8, generator=generator_for(1, "posterior")), draws[1, "posterior"])
