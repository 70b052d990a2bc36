"""Votes of the page's blind test, counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flashvideo.scores.page.votes import FORMAT, Pair, as_table, read_session, tally
from flashvideo.shapes.metrics import proportion_interval

NAMES = {"a": "Ours", "b": "Theirs", "c": "Lanczos"}


def votes(path: Path, session: str, *given: tuple[str, str, str], **changes: Any) -> Path:
    """A file as the page writes it."""
    listed = [{"left": left, "right": right, "choice": choice, "note": ""} for left, right, choice in given]
    table = {"format": FORMAT, "session": session, "started": "", "videos": NAMES, "votes": listed, **changes}
    path.write_text(json.dumps(table), encoding="utf-8")
    return path


def test_sides_do_not_matter(tmp_path: Path) -> None:
    files = [
        votes(tmp_path / "1.json", "1", ("a", "b", "left"), ("c", "a", "right"), ("b", "c", "same")),
        votes(tmp_path / "2.json", "2", ("b", "a", "right"), ("a", "c", "right"), ("b", "c", "left")),
    ]
    counted = tally(files, NAMES)
    assert (counted.sessions, counted.votes, counted.notes) == (2, 6, ())
    assert counted.pairs[:3] == (
        *(Pair("Ours", "Theirs", 2, 0, 0), Pair("Ours", "Lanczos", 1, 0, 1), Pair("Theirs", "Lanczos", 1, 1, 0)),
    )
    assert counted.pairs[3:] == (
        *(
            Pair("Ours", "any other", 3, 0, 1),
            Pair("Theirs", "any other", 1, 1, 2),
            Pair("Lanczos", "any other", 1, 1, 2),
        ),
    )
    assert str(counted.pairs[0]) == "Ours or Theirs: 2 to 0, 0 saw no difference; 100 % (34 to 100) for Ours"
    row = as_table(counted)["rows"][1]
    assert row["share"] == vars(proportion_interval(1, 2))


def test_a_pair_without_preferences_has_no_share(tmp_path: Path) -> None:
    counted = tally([votes(tmp_path / "1.json", "1", ("a", "b", "same"))], {"a": "Ours", "b": "Theirs"})
    assert counted.pairs == (Pair("Ours", "Theirs", 0, 1, 0),)
    assert as_table(counted)["rows"][0]["share"] is None
    assert counted.words == "1 vote of 1 session, with names hidden."


def test_a_session_counts_once_and_others_videos_not(tmp_path: Path) -> None:
    files = [
        votes(tmp_path / "early.json", "1", ("a", "b", "left")),
        votes(tmp_path / "late.json", "1", ("a", "b", "right"), ("a", "x", "left")),
    ]
    counted = tally(files, {"a": "Ours", "b": "Theirs"})
    assert counted.pairs == (Pair("Ours", "Theirs", 0, 0, 1),)
    assert counted.notes == (
        "late.json is of the same session as early.json: it counts.",
        "late.json: 1 vote on other videos left out.",
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "other"}, "holds no votes of this kind"),
        ({"votes": [{"left": "a"}]}, "lacks a part of its votes"),
        ({"votes": 3}, "lacks a part of its votes"),
        ({"votes": [[]]}, "lacks a part of its votes"),
        ({"videos": []}, "lacks a part of its votes"),
        (
            {"votes": [{"left": "a", "right": "b", "choice": "up"}]},
            "has the vote 'up'; expected one of left, same, right",
        ),
    ],
)
def test_files_that_were_changed_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_session(votes(tmp_path / "votes.json", "1", ("a", "b", "left"), **changes))


@pytest.mark.parametrize("text", ["", "[1, 2]", "\x00", "{" * 100_000, '{"format": NaN}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "votes.json").write_text(text)
    with pytest.raises(ValueError, match=r"votes\.json (cannot be read as votes|holds no votes)"):
        read_session(tmp_path / "votes.json")


def test_votes_on_other_videos_are_refused_with_their_names(tmp_path: Path) -> None:
    file = votes(tmp_path / "votes.json", "1", ("a", "b", "left"))
    with pytest.raises(ValueError, match="has no vote on two of these videos; it is about Ours, Theirs, Lanczos"):
        tally([file], {"x": "Other", "a": "Ours"})
