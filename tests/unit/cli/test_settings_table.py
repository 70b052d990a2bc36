"""The table of options in the documentation is the one that the settings' fields make."""

from __future__ import annotations

from pathlib import Path

from flashvideo.cli.options import settings_table

ROOT = Path(__file__).parents[3]
BEGIN, END = "<!-- settings: begin", "<!-- settings: end -->"


def test_the_documentation_has_it():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    (text,) = [text for page in pages if BEGIN in (text := page.read_text(encoding="utf-8"))]
    (table,) = [part.partition(END)[0].partition("-->")[2].strip() for part in text.split(BEGIN)[1:]]
    assert table == settings_table(), f"put this between the marks:\n\n{settings_table()}\n"
