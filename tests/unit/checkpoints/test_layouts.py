"""Layouts of transformer files: every row has one place."""

from __future__ import annotations

import pytest

from flashvideo.checkpoints.layouts import LAYOUTS, transformer_layout


@pytest.mark.parametrize("kind", LAYOUTS)
def test_layout_pieces_cover_every_row_once(kind):
    for native, pieces in transformer_layout(kind, 2).items():
        covered = [row for piece in pieces for start, stop in piece.row_ranges(144) for row in range(start, stop)]
        assert sorted(covered) == list(range(144)), native
