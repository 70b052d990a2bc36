"""Files of prompts, and what is made of them: names, numbers, seeds."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from flashvideo.runs.jobs import MAX_JOBS, Wanted, previews_folder, sample_jobs
from flashvideo.runs.prompts import SampledPrompt, read_prompts, read_sampled
from flashvideo.runs.settings import MAX_SEED, Stage1Settings, Stage2Settings

VBENCH = [  # the layout of VBench_full_info.json
    {"prompt_en": "In a still frame, a stop sign", "dimension": ["temporal_flickering"]},
    {
        "prompt_en": "a bird and a cat",
        "dimension": ["multiple_objects"],
        "auxiliary_info": {"multiple_objects": {"object": "bird and cat"}},
    },
    {"prompt_en": "A panda standing on a surfboard.", "dimension": ["overall_consistency", "aesthetic_quality"]},
]


@pytest.fixture
def written(tmp_path: Path):
    def write(content: object, name: str = "vbench.json") -> Path:
        file = tmp_path / name
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return file

    return write


def test_vbench_file(written) -> None:
    assert read_sampled(written(VBENCH)) == [
        SampledPrompt(0, "In a still frame, a stop sign", "In a still frame, a stop sign", 25),
        SampledPrompt(1, "a bird and a cat", "a bird and a cat", 5),
        SampledPrompt(2, "A panda standing on a surfboard.", "A panda standing on a surfboard.", 5),
    ]
    assert [prompt.samples for prompt in read_sampled(written(VBENCH), samples=2)] == [2, 2, 2]


@pytest.mark.parametrize(
    ("content", "name"), [(["a ball", " a cube "], "list.json"), ("# two\na ball\n\n a cube\n", "prompts.txt")]
)
def test_plain_lists(written, content, name) -> None:
    assert read_sampled(written(content, name)) == [
        SampledPrompt(0, "a ball", "a ball"),
        SampledPrompt(1, "a cube", "a cube"),
    ]


def test_a_prompt_of_several_entries_is_made_once_with_the_largest_number(written, caplog) -> None:
    flickering = {"prompt_en": "a", "dimension": ["temporal_flickering"]}
    prompts = read_sampled(written([{"prompt_en": "a", "dimension": "color"}, flickering, "b"]))
    assert prompts == [SampledPrompt(0, "a", "a", 25), SampledPrompt(2, "b", "b", 5)]  # seeds go by the file's entries
    assert not caplog.text


@pytest.mark.parametrize(("one_case", "made"), [(False, ["A bay", "a bay", "b"]), (True, ["A bay", "b"])])
def test_names_that_differ_in_case(written, caplog, monkeypatch, one_case, made) -> None:
    """As VBench's own file has them; where a disk keeps one file of both, one is made, and others keep their seeds."""
    monkeypatch.setattr("flashvideo.runs.prompts._ONE_CASE", one_case)
    prompts = read_sampled(written(["A bay", "a bay", "b"]))
    assert [prompt.name for prompt in prompts] == made
    assert prompts[-1].position == 2
    assert ("1 prompts of" in caplog.text and "'a bay'" in caplog.text) is one_case


def test_prompts_that_share_a_name_are_told(written, caplog) -> None:
    prompts = read_sampled(written("long one\nlong two\n", "longer.txt"), written(["a", "a"]))
    assert [prompt.text for prompt in prompts] == ["long one"]
    assert "have the file name of an earlier one" in caplog.text
    assert "'long two'" in caplog.text


def test_longer_prompts_are_named_by_the_originals(written) -> None:
    longer = written("In a long shot, a sign\nA bird perches, a cat sits\nA panda balances\n", "longer.txt")
    prompts = read_sampled(longer, written(VBENCH))
    assert [(prompt.text[:6], prompt.name, prompt.samples) for prompt in prompts] == [
        ("In a l", "In a still frame, a stop sign", 25),
        ("A bird", "a bird and a cat", 5),
        ("A pand", "A panda standing on a surfboard.", 5),
    ]
    with pytest.raises(ValueError, match=r"longer\.txt has 3 prompts and .*two\.txt names 2; expected as many"):
        read_sampled(longer, written("a\nb\n", "two.txt"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is no JSON"),
        ('[{"prompt_en": "a"', "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", r"holds \[\]; expected a list of prompts"),
        ('{"prompt_en": "a"}', "expected a list of prompts"),
        ("null", "expected a list of prompts"),
        ("[1]", "entry 1 of .* is 1; expected a prompt"),
        ('["a", {"prompt": "b"}]', 'entry 2 of .* as "prompt_en"'),
        ('[{"prompt_en": 3}]', 'an object with one as "prompt_en"'),
        ('["  "]', "expected a prompt"),
        ('[{"prompt_en": "a", "dimension": 3}]', '"dimension" 3; expected a list of names'),
        ('[{"prompt_en": "a", "dimension": ["color", null]}]', "expected a list of names"),
        ('["\\ud800"]', "entry 1"),
        ('["either/or"]', "'either/or' of .* cannot name a file: it has '/'"),
        ('["two\\nlines"]', "cannot name a file"),
        (json.dumps(["é" * 120]), "has 240 bytes; expected at most"),
    ],
)
def test_bad_files_are_refused_in_words(written, content, said) -> None:
    with pytest.raises(ValueError, match=said):
        read_sampled(written(content))


def test_files_that_are_no_text_are_refused(tmp_path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe[\x00")
    for path in (tmp_path / "a.json", tmp_path / "none.json", tmp_path):
        with pytest.raises(ValueError, match="cannot be read"):
            read_sampled(path) if path.suffix else read_prompts(path)


def test_any_damage_is_refused_or_read(written) -> None:
    generator, whole = random.Random(0), json.dumps(VBENCH)
    for _ in range(300):
        at = generator.randrange(len(whole))
        damaged = whole[:at] + generator.choice(
            ["", chr(generator.randrange(0x300)), whole[generator.randrange(at + 1)]]
        )
        damaged += whole[at + generator.randrange(3) :]
        try:
            prompts = read_sampled(written(damaged))
        except ValueError as error:
            assert "vbench.json" in str(error)  # noqa: PT017
        else:
            assert all(prompt.text and prompt.samples in (5, 25) for prompt in prompts)


@pytest.mark.parametrize("samples", [0, -1, 101])
def test_numbers_of_samples(written, samples) -> None:
    with pytest.raises(ValueError, match="--samples"):
        read_sampled(written(VBENCH), samples=samples)


def test_what_windows_cannot_store_is_told(written, caplog, monkeypatch) -> None:
    file = written(["what is it?"])
    monkeypatch.setattr("flashvideo.runs.prompts._FORBIDDEN", "/")
    assert read_sampled(file)[0].name == "what is it?"
    assert "'what is it?'" in caplog.text
    monkeypatch.setattr("flashvideo.runs.prompts._FORBIDDEN", '/\\:*?"<>|')
    with pytest.raises(ValueError, match=r"cannot name a file: it has '\?'"):
        read_sampled(file)


def test_jobs_of_samples() -> None:
    """Videos alone in their folder; seeds that differ everywhere and stay when --samples grows."""
    stage1, stage2 = Stage1Settings(seed=7), Stage2Settings()

    def made(samples: int) -> list[tuple[str, int, int]]:
        prompts = [SampledPrompt(0, "long a", "a.", samples), SampledPrompt(2, "b", "b", 25)]
        jobs = [job for jobs in sample_jobs(prompts, stage1, stage2, Path("out")) for job in jobs]
        assert jobs[0].prompt == "long a"
        for job in jobs:
            everything = Wanted(joint=True, degraded=True, refined=True).files(job.outputs)
            assert {file.parent for file in everything} == {Path("out"), Path("out-previews")}
            assert [file for file in everything if file.parent == Path("out")] == [job.outputs.video]
        return [(job.outputs.video.name, job.stage1.seed, job.stage2.seed) for job in jobs]

    assert made(2)[:3] == [("a.-0.mp4", 7, 7), ("a.-1.mp4", 8, 8), ("b-0.mp4", 207, 207)]
    assert len({seed for _, seed, _ in made(100)}) == 125
    assert set(made(2)) < set(made(100))


@pytest.mark.parametrize("folder", [".", "sub/..", "sub/../", "../here"])
def test_previews_lie_beside_any_folder(folder, tmp_path, monkeypatch) -> None:
    (tmp_path / "here/sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert previews_folder(Path(folder)).resolve() == (tmp_path / "here-previews").resolve()


def test_more_samples_than_a_run_can_hold() -> None:
    prompts = [SampledPrompt(number, "a", str(number), 100) for number in range(MAX_JOBS // 100 + 1)]
    with pytest.raises(ValueError, match="ask for 100100 videos"):
        sample_jobs(prompts, Stage1Settings(), Stage2Settings(), Path("out"))
    with pytest.raises(ValueError, match="Begin with a smaller --seed"):
        sample_jobs(prompts[:1], Stage1Settings(seed=MAX_SEED), Stage2Settings(), Path("out"))
