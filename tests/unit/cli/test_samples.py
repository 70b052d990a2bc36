"""The command line with a benchmark's prompts: VBench's names and numbers, resuming, processes."""

from __future__ import annotations

import json

import pytest

from flashvideo.runs import chain
from flashvideo.video.files import read_metadata
from tests.unit.cli.test_many_prompts import videos_in
from tests.unit.conftest import stop

VBENCH = [
    {"prompt_en": "A red ball rolls.", "dimension": ["color", "overall_consistency"]},
    {"prompt_en": "rain falls, frozen in time", "dimension": ["temporal_flickering"]},
]
NAMES = [f"{entry['prompt_en']}-{index}.mp4" for entry in VBENCH for index in range(2)]


@pytest.fixture
def vbench(tmp_path):
    file = tmp_path / "vbench.json"
    file.write_text(json.dumps(VBENCH))
    return file


@pytest.fixture
def sample(generate, vbench, tmp_path):
    def command(*arguments, code=0):
        prompts = () if "--prompts" in arguments else ("--prompts", vbench)
        return generate(*prompts, "--samples", 2, "--seed", 3, *arguments, "-o", tmp_path / "videos", code=code)

    return command


def described(path):
    return json.loads(read_metadata(path)["flashvideo"])


def test_vbench_layout_and_seeds(sample, generate, names, tmp_path, count):
    said = sample()
    assert names(tmp_path / "videos") == sorted(NAMES)  # and nothing else: VBench takes all that lies there
    assert len(names(tmp_path / "videos-previews")) == 8
    seeds = [described(tmp_path / "videos" / name)["stage1"]["seed"] for name in NAMES]
    assert seeds == [3, 4, 103, 104]
    assert "[1/2] seed 3 to 4: A red ball rolls." in said.out
    generate("A red ball rolls.", "--seed", 4, "-o", tmp_path / "alone.mp4")
    assert (tmp_path / "alone.mp4").read_bytes() == (tmp_path / "videos" / NAMES[1]).read_bytes()

    before = {path: path.read_bytes() for path in videos_in(tmp_path / "videos")}
    (tmp_path / "videos" / NAMES[2]).unlink()
    stage1, stage2 = count("sample_stage1"), count("refine_latents")
    assert sample().out.count("finished already") == 1
    assert (len(stage1), len(stage2)) == (0, 1)
    assert {path: path.read_bytes() for path in videos_in(tmp_path / "videos")} == before


def test_more_samples_later(sample, tmp_path, count):
    sample("--samples", 1)
    stage1 = count("sample_stage1")
    sample()
    assert len(stage1) == 2
    assert len(videos_in(tmp_path / "videos")) == 4


def test_what_was_stopped_goes_on(sample, tmp_path, names, monkeypatch, count):
    """While a video is decoded, after the previews of all its prompt's samples."""
    with monkeypatch.context() as patch:
        patch.setattr(chain, "decode_stream", stop(KeyboardInterrupt()))
        sample(code=130)
    assert [name.partition(".-")[2] for name in names(tmp_path / "videos-previews")] == [
        "0.preview.mp4",
        "0.preview.safetensors",
        "0.refined.safetensors",
        "1.preview.mp4",
        "1.preview.safetensors",
    ]
    (tmp_path / "videos" / NAMES[1]).write_bytes(b"")  # and one cut short
    stage1, stage2 = count("sample_stage1"), count("refine_latents")
    sample()
    assert (len(stage1), len(stage2)) == (2, 3)
    assert names(tmp_path / "videos") == sorted(NAMES)
    assert len(names(tmp_path / "videos-previews")) == 8


def test_vbench_numbers(generate, vbench, tmp_path, names):
    generate("--prompts", vbench, "--preview-only", "--preview-steps", 1, "-o", tmp_path / "videos")
    assert not names(tmp_path / "videos")
    previews = [path.name for path in (tmp_path / "videos-previews").glob("*.mp4")]
    assert sum(name.startswith("A red ball rolls.-") for name in previews) == 5
    assert sum(name.startswith("rain falls, frozen in time-") for name in previews) == 25


def test_longer_prompts(sample, tmp_path, vbench, names):
    (tmp_path / "longer.txt").write_text("A shiny red ball rolls over a lawn.\nRain hangs over a lake.\n")
    sample("--prompts", tmp_path / "longer.txt", "--names", vbench, "--samples", 1)
    assert names(tmp_path / "videos") == [NAMES[0], NAMES[2]]
    assert described(tmp_path / "videos" / NAMES[0])["prompt"] == "A shiny red ball rolls over a lawn."


@pytest.mark.parametrize("change", [("--steps", 3), ("--seed", 9), ("--preview-only", "--preview-cfg", 3)])
def test_videos_of_another_run_are_kept(sample, tmp_path, change, count):
    sample("--samples", 1)
    stage1 = count("sample_stage1")
    before = {path: path.read_bytes() for path in tmp_path.glob("videos*/*")}
    assert "exists already and is kept (another run wrote it, with other stage" in sample(*change, code=2).err
    assert {path: path.read_bytes() for path in tmp_path.glob("videos*/*")} == before
    assert not stage1
    sample("--samples", 1, *change, "--overwrite")
    assert len(stage1) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a ball", "--samples", "2"], "--samples and --names go with --prompts"),
        (["a ball", "--names", "x.txt"], "--samples and --names go with --prompts"),
        (["--prompts", "{vbench}", "--num-previews", "2"], "--samples says how many videos"),
        (["--prompts", "{vbench}", "--samples", "0"], "--samples is 0"),
        (["--prompts", "{vbench}", "--names", "none.txt"], "The prompts of none.txt cannot be read"),
    ],
)
def test_options_that_do_not_go_together(generate, vbench, tmp_path, names, arguments, said):
    given = [argument.format(vbench=vbench) for argument in arguments]
    assert said in generate(*given, "-o", tmp_path / "videos", code=2).err
    assert names(tmp_path) == ["vbench.json"]


def test_processes_share_the_prompts(sample, tmp_path, names, monkeypatch):
    """Each makes all samples of its own; :func:`test_many_prompts.test_accelerate_launch` starts them."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        said = sample().out
        assert [number for number in ("[1/2]", "[2/2]") if said.count(number) == 1] == [f"[{rank + 1}/2]"]
        assert names(tmp_path / "videos") == sorted(NAMES[: 2 * rank + 2])
