"""Where the published files come from: the first page says what the program says."""

from __future__ import annotations

import re
from pathlib import Path

from flashvideo.loading.published import PUBLISHED

README = Path(__file__).resolve().parents[3] / "README.md"


def test_the_first_page_names_them_with_source_and_folder() -> None:
    text = README.read_text(encoding="utf-8")
    rows = [row for row in text.splitlines() if re.match(r"\| `\S+` \| [\d.]+ GB \|", row)]
    assert len(rows) == len(PUBLISHED)
    for row, file in zip(rows, PUBLISHED.values(), strict=True):
        assert file.name in row
        assert row.endswith(f"| `models/{file.folder}` |")
        assert f"({file.page})" in row or "| the same |" in row
