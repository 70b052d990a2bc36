"""What the paper's tables say of its own videos (arXiv 2502.05179, version 4), in the measures that it used."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

COLUMNS = ("musiq", "maniqa", "clipiqa", "niqe", "dover_technical", "dover_aesthetic")
CAUTION = (
    "The paper's numbers are of its own videos, not of this one, and the paper itself says that such measures misrank: "
    "RealBasicVSR scores well and smooths too much. Look first."
)


@dataclass(frozen=True)
class Row:
    """Of a table: its number, what the row is of, and the numbers in the order of :data:`COLUMNS`."""

    table: int
    name: str
    numbers: tuple[float, ...]


ROWS = (
    Row(2, "Stage I 270p", (24.54, 0.226, 0.334, 11.77, 7.280, 96.15)),
    Row(2, "Stage II 1080p", (53.46, 0.302, 0.436, 5.380, 11.68, 97.87)),
    Row(3, "RealBasicVSR", (54.26, 0.272, 0.418, 5.281, 10.71, 99.42)),
    Row(3, "Upscale-A-Video", (23.67, 0.201, 0.285, 12.02, 7.690, 97.61)),
    Row(3, "VEnhancer", (51.69, 0.280, 0.385, 5.330, 11.63, 98.39)),
    Row(3, "FlashVideo, Stage II", (58.69, 0.296, 0.439, 4.501, 11.86, 98.92)),
    Row(5, "1080p", (58.69, 0.296, 0.439, 4.501, 11.86, 98.92)),
    Row(5, "2K (2560x1440)", (62.40, 0.354, 0.497, 4.463, 12.25, 99.20)),
    Row(8, "1 step", (48.60, 0.253, 0.307, 5.148, 8.643, 98.03)),
    Row(8, "2 steps", (55.10, 0.287, 0.390, 4.730, 10.57, 98.38)),
    Row(8, "3 steps", (57.59, 0.290, 0.418, 4.543, 11.39, 98.62)),
    Row(8, "4 steps", (58.69, 0.296, 0.439, 4.501, 11.86, 98.92)),
    Row(8, "5 steps", (59.24, 0.299, 0.441, 4.492, 12.15, 99.05)),
    Row(8, "6 steps", (59.17, 0.295, 0.440, 4.521, 12.48, 99.05)),
    Row(8, "7 steps", (59.48, 0.298, 0.445, 4.578, 12.20, 99.01)),
    Row(8, "8 steps", (59.64, 0.298, 0.451, 4.554, 12.05, 99.16)),
    Row(9, "CFG 1", (45.01, 0.253, 0.359, 5.395, 10.75, 98.98)),
    Row(9, "CFG 4", (50.92, 0.278, 0.397, 5.102, 11.71, 99.16)),
    Row(9, "CFG 7", (54.26, 0.287, 0.418, 4.905, 11.97, 99.10)),
    Row(9, "CFG 10", (57.37, 0.298, 0.441, 4.692, 12.15, 99.12)),
    Row(9, "CFG 13", (58.69, 0.296, 0.439, 4.501, 11.86, 98.92)),
    Row(9, "CFG 16", (58.42, 0.285, 0.416, 4.353, 11.54, 98.57)),
    Row(9, "CFG 19", (57.66, 0.277, 0.397, 4.143, 11.32, 97.84)),
    Row(9, "CFG 22", (57.48, 0.270, 0.379, 3.982, 10.94, 97.76)),
    Row(10, "trained on 600-900, noise step 600", (53.62, 0.269, 0.403, 4.911, 11.85, 99.03)),
    Row(10, "trained on 600-900, noise step 650", (53.98, 0.269, 0.399, 4.832, 11.77, 99.06)),
    Row(10, "trained on 600-900, noise step 700", (53.82, 0.274, 0.399, 4.763, 11.93, 99.02)),
    Row(10, "trained on 600-900, noise step 750", (54.06, 0.279, 0.400, 4.785, 11.96, 98.92)),
    Row(10, "trained on 600-900, noise step 800", (53.50, 0.276, 0.403, 4.663, 11.72, 98.91)),
    Row(10, "trained on 600-900, noise step 850", (51.39, 0.279, 0.391, 4.787, 11.26, 98.72)),
    Row(10, "trained on 650-750, noise step 650", (58.49, 0.294, 0.431, 4.583, 11.96, 98.84)),
    Row(10, "trained on 650-750, noise step 675", (58.69, 0.296, 0.439, 4.501, 11.86, 98.92)),
    Row(10, "trained on 650-750, noise step 700", (57.80, 0.290, 0.418, 4.531, 12.01, 98.78)),
    Row(10, "trained on 650-750, noise step 725", (57.97, 0.295, 0.426, 4.462, 11.98, 98.83)),
    Row(10, "trained on 650-750, noise step 750", (57.62, 0.294, 0.422, 4.437, 12.10, 98.72)),
)


def rows_for(measured: Collection[str]) -> list[dict[str, Any]]:
    """The rows with those of the numbers that were measured, by their ids; none if the paper has none of them."""
    shown = [(index, name) for index, name in enumerate(COLUMNS) if name in measured]
    if not shown:
        return []
    return [
        {"table": row.table, "row": row.name, **{name: row.numbers[index] for index, name in shown}} for row in ROWS
    ]
