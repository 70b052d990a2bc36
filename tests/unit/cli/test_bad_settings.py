"""Bad settings of the command line: a clear error before any long work, and nothing half-written."""

from __future__ import annotations

import pytest

from flashvideo.cli.options import pick_device


@pytest.mark.parametrize("name", ["meta", "abacus", "cuda:99", "cpu:x"])
def test_unknown_device(name):
    with pytest.raises(ValueError, match=f"device '{name}' cannot be used"):
        pick_device(name)


SETTINGS = [
    ("--frames", "48", "48 frames: the VAE takes 1, 5, 9"),
    ("--frames", "0", "0 frames"),
    ("--frames", "-3", "-3 frames"),
    ("--frames", "5.0", "invalid int"),
    ("--size", "1000x1000", "height 1000: sizes are multiples of 16 pixels. Use 992 or 1008"),
    ("--size", "huge", "expected 270p"),
    ("--preview-size", "40x32", "width 40"),
    ("--noise-step", "1000", "noise step 1000: expected a whole number from 0"),
    ("--noise-step", "-1", "noise step -1"),
    ("--noise-step", "675.5", "invalid int"),
    ("--steps", "0", "steps of Stage II is 0"),
    ("--preview-steps", "0", "steps of Stage I is 0"),
    ("--preview-steps", "1001", "the schedule has 1000"),
    ("--seed", "-1", "seed -1"),
    ("--seed", str(2**64), "seed"),
    ("--solver", "magic", "invalid choice"),
    ("--shift", "0", "shift is 0"),
    ("--shift", "-2", "shift is -2"),
    ("--shift", "nan", "shift is nan"),
    ("--shift", "inf", "shift is inf"),
    ("--cfg", "nan", "nan"),
    ("--cfg", "-1", "-1"),
    ("--preview-cfg", "inf", "inf"),
    ("--num-previews", "0", "--num-previews is 0"),
    ("--num-previews", "1000000000", "too many videos; expected at most 100000"),
    ("--seed", "9" * 400, "seed 999"),
    ("--steps", "9" * 400, "steps of Stage II is 999"),
    ("--fps", "0", "--fps is 0"),
    ("--fps", "nan", "--fps is nan"),
    ("--resize", "melt", "invalid choice"),
    ("--dtype", "fp8_e4m3", "invalid choice"),
    ("--device", "abacus", "device 'abacus'"),
    ("--tokenizer", "nowhere", "given for the tokenizer"),
]


@pytest.mark.parametrize(("option", "value", "message"), SETTINGS)
def test_bad_setting(generate, no_work, names, tmp_path, option, value, message):
    said = generate("a ball", f"{option}={value}", "-o", tmp_path / "out.mp4", code=2)
    assert message in said.err
    assert names(tmp_path) == []


def test_seeds_end_somewhere(generate, no_work, names, tmp_path):
    said = generate("a ball", "--seed", 2**64 - 2, "--num-previews", 3, "-o", tmp_path / "out.mp4", code=2)
    assert "--num-previews 3 from seed 18446744073709551614 on goes beyond the last seed" in said.err
    assert names(tmp_path) == []


def test_too_many_prompts(generate, no_work, names, tmp_path):
    (tmp_path / "p.txt").write_text("a ball\na lake")
    said = generate("--prompts", tmp_path / "p.txt", "--num-previews", 60_000, "-o", tmp_path / "out", code=2)
    assert "--num-previews 60000 of 2 prompts asks for too many videos" in said.err
    assert names(tmp_path) == ["p.txt"]


NO_TEXT = {
    "a \udce9 ball": "half of a surrogate pair, or a byte that is not UTF-8, at character 3",
    "a \0 ball": "a NUL at character 3",
    "ball," * 5000: "has 25000 characters; expected at most 20000",
}


@pytest.mark.parametrize(("prompt", "message"), NO_TEXT.items(), ids=["surrogate", "nul", "long"])
def test_a_prompt_that_is_no_text(generate, no_work, names, tmp_path, prompt, message):
    assert message.removeprefix("has ") in generate(prompt, "-o", tmp_path / "out.mp4", code=2).err
    options = ("a ball", "--motion", prompt, "-o", tmp_path / "out.mp4")
    assert message.removeprefix("has ") in generate(*options, code=2).err
    if "\udce9" not in prompt:  # a file in UTF-8 has none
        (tmp_path / "p.txt").write_text("a lake\n" + prompt)
        said = generate("--prompts", tmp_path / "p.txt", "-o", tmp_path / "out", code=2)
        assert "prompt 2 of" in said.err
        assert message in said.err
        (tmp_path / "p.txt").unlink()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"steps": ' + "[" * 100_000 + "]" * 100_000 + "}", "cannot be read"),
        ('{"cfg": "' + "9" * 11_000_000 + '"}', "bytes, expected at most 1048576"),
        ('{"steps": ' + "[" * 600 + "]" * 600 + "}", "expected a whole number: 1 or more"),
        ("[" * 600 + "]" * 600, "expected a table of these"),
        ('{"shift": "1e999"}', "expected a number: more than 0"),
    ],
    ids=["deep", "long", "nested", "list", "infinite"],
)
def test_settings_of_a_models_folder_that_cannot_be(generate, no_work, tmp_path, text, message):
    (tmp_path / "settings.json").write_text(text)
    said = generate("a ball", "--models", tmp_path, "-o", tmp_path / "out.mp4", code=2)
    assert message in said.err
    assert len(said.err) < 2000


@pytest.mark.parametrize("prompt", ["", " \n\t "])
def test_empty_prompt(generate, no_work, names, tmp_path, prompt):
    assert "The prompt is empty" in generate(prompt, "-o", tmp_path / "out.mp4", code=2).err
    assert names(tmp_path) == []


def test_prompt_or_prompts(generate, no_work, names, tmp_path):
    assert "one of the two" in generate("-o", tmp_path / "out.mp4", code=2).err
    assert "one of the two" in generate("a ball", "--prompts", "x.txt", "-o", tmp_path / "out", code=2).err
    for content, message in ((b"\n# no\n", "no prompts in it"), (b"\xff\xfe\xff", "cannot be read")):
        (tmp_path / "p.txt").write_bytes(content)
        assert message in generate("--prompts", tmp_path / "p.txt", "-o", tmp_path / "out", code=2).err
    assert "cannot be read" in generate("--prompts", tmp_path / "q.txt", "-o", tmp_path / "out", code=2).err
    assert names(tmp_path) == ["p.txt"]
