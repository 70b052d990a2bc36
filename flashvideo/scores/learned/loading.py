"""Which learned measures are asked for, which are there, and loading them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from .alone import left_alone
from .kinds import KINDS, Meter

_AUTO, _NONE = "auto", "none"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Learned:
    """Measures that were loaded.

    Attributes:
        meters: name -> what makes a video's meter, given the frames that are expected (0 if nobody knows).
        remarks: what is not measured and why.
    """

    meters: Mapping[str, Callable[[int], Meter]]
    remarks: tuple[str, ...] = ()


def load_learned(
    names: Iterable[str] | str,
    *,
    with_true: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Learned:
    """Load measures, all of them before any work.

    Args:
        names: of measures, also in one text with commas; ``"auto"`` for all that are on this machine; ``"none"``.
        with_true: there is a true video: some need it.
        device: on which they run.
        progress: called with (what, done, in all).

    Raises:
        ValueError: a measure that is asked for by name and not known, not installed, without weights or broken.
    """
    chosen = _chosen(names, with_true)
    faults = {name: KINDS[name].fault() for name in chosen}
    if names != _AUTO:
        for name, fault in faults.items():
            if fault:
                raise ValueError(f"{KINDS[name].label} cannot be measured: {fault}. {KINDS[name].remedy(name)}")
    meters: dict[str, Callable[[int], Meter]] = {}
    wanted = [name for name in chosen if not faults[name]]
    for done, name in enumerate(wanted):
        if progress is not None:
            progress("Load metrics", done, len(wanted))
        kind = KINDS[name]
        try:
            with left_alone():
                meters[name] = kind.load(name, kind.weights, torch.device(device))
        except Exception as error:
            faults[name] = f"{kind.package} could not load it ({told(error)})"
            if names != _AUTO:
                raise ValueError(f"{kind.label} cannot be measured: {faults[name]}.") from error
    if progress is not None and wanted:
        progress("Load metrics", len(wanted), len(wanted))
    return Learned(meters, _left_out(faults))


def told(error: Exception) -> str:
    """An error in one line; which class it is of says nothing of a wrong value."""
    words = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return " ".join(words.split()).rstrip(".")[:300]


def _chosen(names: Iterable[str] | str, with_true: bool) -> list[str]:
    if names == _AUTO:
        return [name for name, kind in KINDS.items() if with_true or not kind.against_true]
    if names == _NONE:
        return []
    words = names.split(",") if isinstance(names, str) else names
    chosen = list(dict.fromkeys(word.strip().lower().replace("-", "") for word in words))
    for name in chosen:
        if name not in KINDS:
            raise ValueError(f"There is no metric {name!r}; expected {_AUTO}, {_NONE}, or some of {', '.join(KINDS)}.")
        if KINDS[name].against_true and not with_true:
            raise ValueError(
                f"{KINDS[name].label} compares with a true video, and there is none. Give one (--true) or leave it out."
            )
    return chosen


def _left_out(faults: Mapping[str, str]) -> tuple[str, ...]:
    """One remark for all that is not there."""
    labels: dict[str, list[str]] = {}
    for name, fault in faults.items():
        if fault:
            labels.setdefault(fault, []).append(KINDS[name].label)
    if not labels:
        return ()
    reasons = "; ".join(f"{', '.join(those)} ({fault})" for fault, those in labels.items())
    return (f"Not measured: {reasons}. docs/scores.md says how to have them; --metrics none leaves them out.",)
