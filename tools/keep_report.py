"""Keeps reports in ``docs/report``, pictures as WebP: tables go into its README.md, three lines into the repository's.

python -m tools.keep_report runs/quality runs/ablations
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from flashvideo.report.markdown import table_lines
from flashvideo.report.record import Record, read_record
from flashvideo.report.results import SHARE, Result, Table
from flashvideo.report.run import SECTIONS

ROOT = Path(__file__).resolve().parents[1]
README, KEPT = ROOT / "README.md", ROOT / "docs" / "report"
PAGE = KEPT / "README.md"
MARKS = BEGIN, END = ("<!-- report: begin, written by tools/keep_report.py -->", "<!-- report: end -->")
_MAIN = ("fidelity", "refinement")
_LEFT_OUT = {"flicker error", "size", "missing shapes a clip"}


def block(record: Record) -> str:
    """The tables that the report's page shows, ablations folded away, and the hashes of the weights."""
    sections = {name: record.sections[name] for name in SECTIONS if name != "judge" and name in record.sections}
    lines: list[str] = []
    for name in (name for name in _MAIN if name in sections):
        lines += _table(sections[name].result.tables[0])
    rest = [table for name, section in sections.items() if name not in _MAIN for table in section.result.tables]
    if rest:
        lines += ['<details markdown="1"><summary>Ablations</summary>', ""]
        lines += [line for table in rest for line in _table(table)]
        lines += ["</details>", ""]
    hashes = {
        (part, weights.sha256)
        for section in sections.values()
        for part, weights in section.weights.items()
        if not part.startswith("extra ")
    }
    told = ", ".join(f"{part} `{digest[:12]}`" for part, digest in sorted(hashes))
    return "\n".join([*lines, f"SHA-256 of the weights: {told}."])


def summary(record: Record) -> str:
    """The three lines of the README."""
    fidelity, refinement, cost = (record.sections[name].result for name in ("fidelity", "refinement", "cost"))
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
    return "\n".join(f"* {line}" for line in lines)


def _number(result: Result, name: str, measure: str) -> str:
    """A mean, of the first row whose name is ``name`` or goes on with a remark in brackets."""
    rows = [row for table in result.tables for row in table.rows if row.measure == measure]
    row = next(row for row in rows if row.name == name or row.name.startswith(f"{name} ("))
    return f"{100 * row.mean:.1f} %" if row.unit == SHARE else f"{row.mean:.2f} {row.unit}"


def _table(table: Table) -> Iterator[str]:
    title, *lines = table_lines(Table(table.title, tuple(row for row in table.rows if row.measure not in _LEFT_OUT)))
    yield from (f"**{title.removeprefix('### ')}**", *lines)


def read_all(folders: Sequence[Path]) -> Record:
    """The sections of several folders."""
    return Record({name: section for folder in folders for name, section in read_record(folder).sections.items()})


def put(file: Path, new: str, marks: tuple[str, str] = MARKS) -> None:
    """Write ``new`` between a file's marks."""
    begin, end = marks
    before, _, rest = file.read_text(encoding="utf-8").partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        raise SystemExit(f"{file} has no {begin} ... {end}.")
    file.write_text(f"{before}{begin}\n\n{new}\n\n{end}{after}", encoding="utf-8")


def keep(folder: Path) -> None:
    """Copy a report's numbers, text and pictures to its own name in :data:`KEPT`."""
    target = KEPT / folder.name
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "report.json", target / "report.json")
    text = (folder / "report.md").read_text(encoding="utf-8")
    (target / "report.md").write_text(text.replace(".png)", ".webp)"), encoding="utf-8")
    for picture in folder.glob("*.png"):
        Image.open(picture).convert("RGB").save(target / f"{picture.stem}.webp", quality=92, method=6)


def kept_folders() -> list[Path]:
    return sorted((path.parent for path in KEPT.glob("*/report.json")), reverse=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    for run in sys.argv[1:]:
        keep(Path(run))
    kept = read_all(kept_folders())
    put(PAGE, block(kept))
    put(README, summary(kept))
