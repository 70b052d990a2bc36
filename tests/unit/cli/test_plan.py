"""``flashvideo plan``: what it prints, and what it refuses."""

from __future__ import annotations

import json

import pytest

from flashvideo.cli import EXIT_FAILURE, EXIT_USAGE, main, plan

ON_CPU = ["plan", "--device=cpu", "--memory=64", "--host-memory=64", "--frames=5"]


def test_a_table_for_people_and_an_object_for_programs(capsys):
    assert main(ON_CPU) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("5 frames of 1920x1072 on cpu, bf16\n")
    assert "give it with --rates" in printed
    assert main([*ON_CPU, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["offload"], told["seconds"]) == ("none", None)
    assert [step["name"] for step in told["steps"]] == [
        *("the text encoder", "Stage I", "decoding the preview", "encoding", "Stage II", "decoding")
    ]


def test_what_does_not_fit_ends_with_1(monkeypatch, capsys):
    monkeypatch.setitem(plan.CARDS, "H100", None)  # without rates nothing is counted
    assert main(["plan", "--card=H100", "--memory=8", "--host-memory=64", "--frames=5"]) == EXIT_FAILURE
    assert "It does not fit: the text encoder needs 9.6 GB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--memory=0"], "--memory is 0; expected gigabytes above 0"),
        (["--host-memory=nan"], "--host-memory is nan; expected gigabytes above 0"),
        (["--rates={folder}/counts.json"], "counts.json holds no rates"),
        (["--rates={folder}/text.json"], "text.json holds no rates"),
        (["--size=100x100"], "multiple"),
    ],
)
def test_bad_input_is_told(words, said, tmp_path, capsys):
    (tmp_path / "counts.json").write_text(json.dumps({"counts": {}, "machine": None}))
    (tmp_path / "text.json").write_text("rates")
    assert main(["plan", *(word.format(folder=tmp_path) for word in words)]) == EXIT_USAGE
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A100-SXM4-80GB", "A100 80 GB"),
        ("NVIDIA A100-PCIE-40GB", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("cpu", None),
    ],
)
def test_cards_are_known_by_the_names_their_drivers_give(name, card):
    assert plan._known(name) == card
