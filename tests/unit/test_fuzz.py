"""The fuzzing notices what it has to notice; a small part of it runs here."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from tests.fuzz import kinds, mutations, sandbox

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def refused() -> int:
    return 2


def raises() -> int:
    raise TypeError("'int' object is not subscriptable")


def hangs() -> int:
    while True:
        pass


def grows() -> int:
    return len(bytes(range(256)) * (1 << 20)) * 0


def executes() -> int:
    subprocess.run([sys.executable, "--version"], check=True, capture_output=True)
    return 0


@pytest.mark.parametrize(
    ("case", "outcome"),
    [
        (lambda: 0, sandbox.ACCEPTED),
        (refused, sandbox.REFUSED),
        (raises, sandbox.TRACED),
        (lambda: 1, sandbox.TRACED),
        (hangs, sandbox.HUNG),
        (grows, sandbox.GROWN),
        (executes, sandbox.EXECUTED),
    ],
)
def test_outcomes(tmp_path, case, outcome):
    idle = sandbox.run(lambda: 0, tmp_path / "notes", sandbox.Limits()).peak
    assert sandbox.run(case, tmp_path / "notes", sandbox.Limits(1, 128 << 20), idle).outcome == outcome


def test_damage_is_drawn_from_the_seed():
    data = bytes(range(256)) * 4
    several = [mutations.bytes_mutated(random.Random(seed), data) for seed in (1, 1, 2, 3)]
    assert several[0] == several[1]
    assert len({*several, data}) == 4


@pytest.mark.parametrize("kind", [kinds.Settings, kinds.Prompts, kinds.Videos])
def test_a_few_damaged_inputs(tmp_path, kind):
    inputs = kind()
    inputs.prepare(tmp_path)
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        title, case = inputs.draw(random.Random(number), folder, sound=number == 0)
        ending = sandbox.run(case, tmp_path / "notes", sandbox.Limits())
        assert ending.outcome in (sandbox.ACCEPTED, sandbox.REFUSED), f"{title}: {ending.words}"
        assert number or "error:" not in ending.words
