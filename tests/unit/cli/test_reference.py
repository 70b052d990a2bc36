"""The command reference in the repository is what the parser gives now."""

from __future__ import annotations

import pytest

from flashvideo.cli import build_parser
from tools.make_reference import PAGE, reference


def test_the_reference_is_of_this_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a machine with a models folder of its own."""
    monkeypatch.setenv("FLASHVIDEO_MODELS", "/somewhere/else")
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: python -m tools.make_reference"


def test_every_command_and_option_is_in_it() -> None:
    (commands,) = (action.choices for action in build_parser()._actions if isinstance(action.choices, dict))
    sections = dict(part.split("\n", 1) for part in PAGE.read_text(encoding="utf-8").split("\n## ")[1:])
    assert set(commands) <= set(sections)
    for name, command in commands.items():
        told = sections[name] + (sections["generate"] if "as under [generate: " in sections[name] else "")
        for option in command._option_string_actions.keys() - {"-h", "--help"}:
            assert f"`{option}" in told, f"{name} {option}"
