"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .floors import floors_of
from .record import Mark, Report, Section
from .results import SHARE, Row, Table

FILE = "report.md"
WANTED_CLIPS = 200


OTHER_SETTINGS = "**Measured with other weights or settings than the rest; see the end.**"


def render(report: Report, marks: Mapping[str, Mark]) -> str:
    """The whole report.

    Args:
        report: all sections that there are.
        marks: of this run's weights, settings and code by section, in the order to show; others are marked.
    """
    lines = ["# FlashVideo: report", ""]
    lines += [
        "Every number is a mean over held-out clips with its 95 % interval in brackets and the number n of clips. "
        "Written by `flashvideo report`.",
        "",
    ]
    lines += _floors(report, marks)
    shown = {name: report.sections[name] for name in marks if name in report.sections}
    stale = report.stale(marks)
    for name, section in shown.items():
        other = section.fingerprint != marks[name].fingerprint
        lines += _section(section, OTHER_SETTINGS if other else stale_line(section) if name in stale else "")
    lines += _origin(shown)
    return "\n".join(lines)


def stale_line(section: Section) -> str:
    """What stands over numbers that were measured with other code."""
    version = section.versions.get("flashvideo", "unknown")
    return f"**Stale: measured with other code than today's (version {version}, code `{section.code[:12]}`).**"


def _floors(report: Report, marks: Mapping[str, Mark]) -> Iterator[str]:
    results, stale = report.results(marks), report.stale(marks)
    floors = floors_of(results)
    if not floors:
        return
    yield from ("## Floors", "", "| | floor |", "|---|---|")
    for floor in floors:
        verdict = "met" if floor.met else "**not met**"
        yield f"| {verdict}{' (stale)' if floor.section in stale else ''} | {floor.text} |"
    yield ""
    numbers = [row.n for name in {floor.section for floor in floors} for t in results[name].tables for row in t.rows]
    if min(numbers, default=WANTED_CLIPS) < WANTED_CLIPS:
        yield from (f"A small sample: some of these numbers come from {min(numbers)} clips, not {WANTED_CLIPS}.", "")


def _section(section: Section, warning: str) -> Iterator[str]:
    result = section.result
    yield from (f"## {result.section}", "")
    if warning:
        yield from (warning, "")
    for table in result.tables:
        yield from table_lines(table)
    for note in result.notes:
        yield from (note, "")
    for picture in result.pictures:
        yield from (f"![{result.section}]({picture.file})", "", picture.caption, "")


def table_lines(table: Table) -> Iterator[str]:
    """A line for each name, a column for each measure."""
    measures = list(dict.fromkeys(row.measure for row in table.rows))
    units = {row.measure: row.unit for row in table.rows}
    heads = [
        f"{measure}, %" if units[measure] == SHARE else _with_unit(measure, units[measure]) for measure in measures
    ]
    yield from (f"### {table.title}", "", f"| | {' | '.join(heads)} | n |", "|---" * (len(heads) + 2) + "|")
    for name in dict.fromkeys(row.name for row in table.rows):
        rows = [table.row(name, measure) for measure in measures]
        numbers = sorted({row.n for row in rows if row is not None})
        counted = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
        yield f"| {name} | {' | '.join(_cell(row) for row in rows)} | {counted} |"
    yield ""


def _with_unit(measure: str, unit: str) -> str:
    return f"{measure}, {unit}" if unit else measure


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    scale, digits = (100.0, 1) if row.unit == SHARE else (1.0, _digits(row.mean))
    mean, low, high = (f"{value * scale:.{digits}f}" for value in (row.mean, row.low, row.high))
    return mean if row.low == row.mean == row.high else f"{mean} [{low}, {high}]"


def _digits(value: float) -> int:
    """So that small numbers keep two significant digits."""
    return 1 if abs(value) >= 100 else 2 if abs(value) >= 0.1 else 4


def _origin(sections: Mapping[str, Section]) -> Iterator[str]:
    """Weights, settings and versions, each with the sections that they are of."""
    yield from ("## Weights", "", "| part | file | SHA-256 | sections |", "|---|---|---|---|")
    parts: dict[tuple[str, str, str], list[str]] = {}
    for name, section in sections.items():
        for part, weights in section.weights.items():
            parts.setdefault((part, weights.file, weights.sha256), []).append(name)
    for (part, file, digest), names in parts.items():
        yield f"| {part} | {file} | `{digest}` | {', '.join(names)} |"
    yield from ("", "## Settings and versions", "")
    kinds: dict[str, list[str]] = {}
    for name, section in sections.items():
        origin = {**section.place, **section.versions, **_flat(section.settings), "code": section.code[:12]}
        kinds.setdefault("; ".join(f"{key} {value}" for key, value in origin.items()), []).append(name)
    for text, names in kinds.items():
        seconds = sum(sections[name].result.seconds for name in names)
        yield from (f"{', '.join(names)} ({seconds:.0f} s): {text}.", "")


def _flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = " ".join(f"{v:g}" for v in value) if isinstance(value, (list, tuple)) else value
    return flat
