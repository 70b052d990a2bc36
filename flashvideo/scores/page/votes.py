"""Votes of the page's blind test, read back: how often which of two was better, with Wilson's intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from ...checkpoints.paths import expanded
from ...shapes.metrics import Interval, proportion_interval

FORMAT = "flashvideo-votes/1"
_CHOICES = ("left", "same", "right")
_MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Session:
    """The votes of one person's session.

    Attributes:
        path: of its file.
        id: of the session.
        names: of the videos by their ids, as they were called then.
        votes: (left, right) ids -> ``left``, ``same`` or ``right``.
    """

    path: Path
    id: str
    names: dict[str, str]
    votes: dict[tuple[str, str], str]


@dataclass(frozen=True)
class Pair:
    """How two videos were judged against each other.

    Attributes:
        first, second: their names; ``second`` is "any other" for all pairs of ``first``.
        wins, same, losses: votes for the first, for neither, for the second.
    """

    first: str
    second: str
    wins: int
    same: int
    losses: int

    @property
    def share(self) -> Interval | None:
        """Of the first among the votes that preferred one, 95 %; None without such votes."""
        decided = self.wins + self.losses
        return proportion_interval(self.wins, decided) if decided else None

    def __str__(self) -> str:
        share = self.share
        words = f"{self.first} or {self.second}: {self.wins} to {self.losses}, {self.same} saw no difference"
        if share is None:
            return words
        return f"{words}; {100 * share.mean:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f}) for {self.first}"


@dataclass(frozen=True)
class Tally:
    """All votes together.

    Attributes:
        sessions, votes: how many were counted.
        pairs: every pair that was judged, then each video against all others where there are more than two.
        notes: what was not counted, in sentences.
    """

    sessions: int
    votes: int
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]

    @property
    def words(self) -> str:
        return f"{_counted(self.votes, 'vote')} of {_counted(self.sessions, 'session')}, with names hidden."


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def read_session(path: str | Path) -> Session:
    """A file that the page's *Download votes* wrote.

    Raises:
        ValueError: a missing file, or one that is something else or was changed.
    """
    path = expanded(path)
    try:
        if (size := path.stat().st_size) > _MAX_BYTES:
            raise ValueError(f"it has {size} bytes, expected at most {_MAX_BYTES}")
        table = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as votes ({error}). Give a file that the page wrote.") from error
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        raise ValueError(f"{path} holds no votes of this kind ({FORMAT}). Give a file that the page wrote.")
    try:
        names = {str(key): str(name) for key, name in table["videos"].items()}
        votes = {(str(each["left"]), str(each["right"])): str(each["choice"]) for each in table["votes"]}
        session = str(table["session"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} lacks a part of its votes ({error}). Download them from the page again.") from error
    if wrong := set(votes.values()) - set(_CHOICES):
        raise ValueError(f"{path} has the vote {min(wrong)!r}; expected one of {', '.join(_CHOICES)}.")
    return Session(path, session, names, votes)


def tally(paths: Sequence[str | Path], names: dict[str, str]) -> Tally:
    """Count the votes of files.

    Args:
        paths: of files that :func:`read_session` reads.
        names: of the videos that are compared, by their ids.

    Raises:
        ValueError: a file that holds no votes, or none on these videos.
    """
    notes: list[str] = []
    sessions: dict[str, Session] = {}
    for session in map(read_session, paths):
        if not any(set(pair) <= set(names) for pair in session.votes):
            raise ValueError(
                f"{session.path} has no vote on two of these videos; it is about {_listed(session.names)}. "
                "Videos are known by their bytes: compare the same files, under any name."
            )
        if session.id in sessions:
            notes.append(f"{session.path.name} is of the same session as {sessions[session.id].path.name}: it counts.")
        others = sum(not set(pair) <= set(names) for pair in session.votes)
        if others:
            notes.append(f"{session.path.name}: {_counted(others, 'vote')} on other videos left out.")
        sessions[session.id] = session
    counts: dict[tuple[str, str], list[int]] = {pair: [0, 0, 0] for pair in combinations(names, 2)}
    for session in sessions.values():
        for (left, right), choice in session.votes.items():
            place = _CHOICES.index(choice)
            if (left, right) in counts:
                counts[left, right][place] += 1
            elif (right, left) in counts:
                counts[right, left][2 - place] += 1
    pairs = [Pair(names[first], names[second], *count) for (first, second), count in counts.items() if sum(count)]
    total = sum(pair.wins + pair.same + pair.losses for pair in pairs)
    everyone = [_against_all(name, pairs) for name in names.values()] if len(names) > 2 else []
    return Tally(len(sessions), total, (*pairs, *everyone), tuple(notes))


def _against_all(name: str, pairs: Sequence[Pair]) -> Pair:
    wins = sum(pair.wins for pair in pairs if pair.first == name) + sum(p.losses for p in pairs if p.second == name)
    losses = sum(pair.losses for pair in pairs if pair.first == name) + sum(p.wins for p in pairs if p.second == name)
    return Pair(name, "any other", wins, sum(pair.same for pair in pairs if name in (pair.first, pair.second)), losses)


def _listed(names: dict[str, str]) -> str:
    return ", ".join(names.values()) or "none"


def as_table(counted: Tally) -> dict[str, Any]:
    """For the page."""
    rows = [
        {
            **{name: getattr(pair, name) for name in ("first", "second", "wins", "same", "losses")},
            "share": None if pair.share is None else vars(pair.share),
        }
        for pair in counted.pairs
    ]
    return {"words": counted.words, "rows": rows, "notes": list(counted.notes)}
