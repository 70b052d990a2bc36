"""Keeps reports in ``docs/report``, pictures as WebP: tables go into its README.md, three lines into the repository's.

Numbers that were measured with other code than today's are marked as stale; without a folder, that is all that is done.

python -m tools.keep_report [runs/quality runs/ablations ...]
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from PIL import Image

from flashvideo.report.markdown import OTHER_SETTINGS, render, stale_line, table_lines
from flashvideo.report.record import Mark, Report, read_report
from flashvideo.report.results import SHARE, Result, Table
from flashvideo.report.run import SECTIONS, code_of_sections

ROOT = Path(__file__).resolve().parents[1]
README, KEPT = ROOT / "README.md", ROOT / "docs" / "report"
PAGE = KEPT / "README.md"
MARKS = BEGIN, END = ("<!-- report: begin, written by tools/keep_report.py -->", "<!-- report: end -->")
_MAIN = ("fidelity", "refinement")
_SUMMED_UP = ("fidelity", "refinement", "cost")
_LEFT_OUT = {"flicker error", "size", "missing shapes a clip"}


def block(report: Report) -> str:
    """The tables that the report's page shows, ablations folded away, and the hashes of the weights."""
    sections = {name: report.sections[name] for name in SECTIONS if name != "judge" and name in report.sections}
    warnings = {name: stale_line(report.sections[name]) for name in stale_sections(report)}
    lines: list[str] = []
    for name in (name for name in _MAIN if name in sections):
        lines += _table(sections[name].result.tables[0], warnings.get(name))
    rest = [(name, table) for name in sections if name not in _MAIN for table in sections[name].result.tables]
    if rest:
        lines += ['<details markdown="1"><summary>Ablations</summary>', ""]
        lines += [line for name, table in rest for line in _table(table, warnings.get(name))]
        lines += ["</details>", ""]
    hashes = {
        (part, weights.sha256)
        for section in sections.values()
        for part, weights in section.weights.items()
        if not part.startswith("extra ")
    }
    shown = ", ".join(f"{part} `{digest[:12]}`" for part, digest in sorted(hashes))
    return "\n".join([*lines, f"SHA-256 of the weights: {shown}."])


@cache
def _codes() -> dict[str, str]:
    return code_of_sections()


def marks_of(report: Report) -> dict[str, Mark]:
    """The weights and settings that each section has, and today's code."""
    codes = _codes()
    return {name: Mark(report.sections[name].fingerprint, codes[name]) for name in SECTIONS if name in report.sections}


def stale_sections(report: Report) -> tuple[str, ...]:
    """Sections that were measured with other code than today's."""
    return report.stale(marks_of(report))


def summary(report: Report) -> str:
    """The three lines of the README, and one more if some of their numbers are stale."""
    fidelity, refinement, cost = (report.sections[name].result for name in _SUMMED_UP)
    right, two_stages = (
        "colour, form, background, motion",
        ("two stages", "one stage, equal FLOPs", "one stage, equal time"),
    )
    one, more, *_ = (
        f"{_number(fidelity, f'{shapes}, Stage I', right)} and {_number(fidelity, f'{shapes}, Stage II', 'texture')}"
        for shapes in ("one shape", "two or three shapes")
    )
    refined, enlarged = (
        [_number(refinement, name, measure) for measure in ("texture", "spectrum error", "PSNR")]
        for name in ("refined", "Lanczos")
    )
    shares = [_number(cost, name, right) for name in two_stages]
    lines = [
        f"Attributes right after Stage I, textures after Stage II: {one} with one shape, {more} with two or three.",
        f"Refined, and enlarged by Lanczos: textures {refined[0]} and {enlarged[0]}, spectrum error {refined[1]} and "
        f"{enlarged[1]}, PSNR {refined[2]} and {enlarged[2]}.",
        f"Two stages get {shares[0]} of the attributes right, one stage with the same FLOPs {shares[1]}, in the same "
        f"time {shares[2]}.",
    ]
    if stale := [name for name in stale_sections(report) if name in _SUMMED_UP]:
        lines.append(f"**Stale: measured with other code than today's, as the tables say: {', '.join(stale)}.**")
    return "\n".join(f"* {line}" for line in lines)


def _number(result: Result, name: str, measure: str) -> str:
    """A mean, of the first row whose name is ``name`` or goes on with a remark in brackets."""
    rows = [row for table in result.tables for row in table.rows if row.measure == measure]
    row = next(row for row in rows if row.name == name or row.name.startswith(f"{name} ("))
    return f"{100 * row.mean:.1f} %" if row.unit == SHARE else f"{row.mean:.2f} {row.unit}"


def _table(table: Table, warning: str | None) -> Iterator[str]:
    title, *lines = table_lines(Table(table.title, tuple(row for row in table.rows if row.measure not in _LEFT_OUT)))
    yield f"**{title.removeprefix('### ')}**"
    if warning is not None:
        yield from ("", warning)
    yield from lines


def read_all(folders: Sequence[Path]) -> Report:
    """The sections of several folders."""
    return Report({name: section for folder in folders for name, section in read_report(folder).sections.items()})


def put(file: Path, new: str, marks: tuple[str, str] = MARKS) -> None:
    """Write ``new`` between a file's marks."""
    begin, end = marks
    before, _, rest = file.read_text(encoding="utf-8").partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        raise SystemExit(f"{file} has no {begin} ... {end}.")
    file.write_text(f"{before}{begin}\n\n{new}\n\n{end}{after}", encoding="utf-8")


def keep(folder: Path) -> None:
    """Copy a report's numbers and pictures to its own name in :data:`KEPT`; it may be there already."""
    if OTHER_SETTINGS in (folder / "report.md").read_text(encoding="utf-8"):
        raise SystemExit(f"Sections of {folder} have other weights or settings than the rest: measure them anew first.")
    target = KEPT / folder.name
    target.mkdir(parents=True, exist_ok=True)
    in_place = target.resolve() == folder.resolve()
    if not in_place:
        shutil.copyfile(folder / "report.json", target / "report.json")
    for picture in folder.glob("*.png"):
        Image.open(picture).convert("RGB").save(target / f"{picture.stem}.webp", quality=92, method=6)
        if in_place:
            picture.unlink()


def text_of(folder: Path) -> str:
    """The text of a kept report, stale sections marked."""
    report = read_report(folder)
    return render(report, marks_of(report)).replace(".png)", ".webp)")


def kept_folders() -> list[Path]:
    return sorted((path.parent for path in KEPT.glob("*/report.json")), reverse=True)


if __name__ == "__main__":
    for run in sys.argv[1:]:
        keep(Path(run))
    for kept in kept_folders():
        (kept / "report.md").write_text(text_of(kept), encoding="utf-8")
    whole = read_all(kept_folders())
    put(PAGE, block(whole))
    put(README, summary(whole))
