"""Write what a run takes, and which card runs what, into ``docs/low-memory.md`` and ``README.md``, between their marks.

Everything is computed on the meta device: weights are counted, the VAE's figures are its own forecast, and activations
are what the nodes tell ComfyUI. Run from the repository root: ``python -m tools.make_memory_tables``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flashvideo.models.estimate import evaluation_bytes
from flashvideo.report.planning import published_parts
from flashvideo.runs.settings import SIZES, Stage1Settings
from flashvideo.vae.codec import estimate_decode, estimate_encode
from flashvideo.vae.limits import Limits

from .keep_report import put

ROOT = Path(__file__).resolve().parents[1]
PAGE, README = ROOT / "docs" / "low-memory.md", ROOT / "README.md"
MARKS = ("<!-- memory: begin, written by tools/make_memory_tables.py -->", "<!-- memory: end -->")
GIB = 2**30
FRAMES = 49
RESERVED = 1.0  # GiB of a card that the desktop, CUDA and ComfyUI keep
CARDS = (8, 12, 16, 24, 48, 80)


@dataclass(frozen=True)
class Step:
    """GiB of a step of a run: its weights, and what it works in beside them."""

    weights: float
    work: float

    @property
    def total(self) -> float:
        return self.weights + self.work


def weights(name: str) -> float:
    """GiB of a published model in half precision."""
    return published_parts()[name].weights / GIB


def sampling(stage: str, size: tuple[int, int]) -> Step:
    """A stage in bf16 at a size (height, width), one branch of the guidance at a time."""
    shape = (1, 16, (FRAMES - 1) // 4 + 1, size[0] // 8, size[1] // 8)
    return Step(weights(stage), evaluation_bytes(published_parts()[stage].config, shape, 2) / GIB)


def vae_host(size: tuple[int, int], card: float) -> float:
    """GiB of host memory that decoding or encoding takes on a card, whichever is more."""
    budget = (card - RESERVED - weights("vae")) * GIB
    limits = Limits(memory_budget=budget, host_budget=1e15, device="cuda:0")
    forecasts = (
        estimate(published_parts()["vae"].module, FRAMES, *size, limits)
        for estimate in (estimate_decode, estimate_encode)
    )
    return max(forecast.host_bytes for forecast in forecasts) / GIB


def step_table() -> str:
    """The sizes of Stage II, and Stage I."""
    first = Stage1Settings()
    rows = [("Stage I, 480x256", sampling("stage1", (first.height, first.width)))]
    rows += [
        (f"Stage II, {name} ({width}x{height})", sampling("stage2", (height, width)))
        for name, (height, width) in SIZES.items()
        if name != "270p"
    ]
    lines = ["| 49 frames, bf16, GiB | weights | work | together |", "|---|---|---|---|"]
    text = f"{weights('text'):.1f}"
    lines.append(f"| text encoder, fp16 | {text} | | {text} |")
    lines += [f"| {name} | {step.weights:.1f} | {step.work:.1f} | {step.total:.1f} |" for name, step in rows]
    return "\n".join(lines)


def vae_table() -> str:
    """Host memory of the exact tiles, by card and size."""
    sizes = ("720p", "1080p", "2k", "4k")
    lines = [f"| host memory, GiB | {' | '.join(sizes)} |", "|---" * (len(sizes) + 1) + "|"]
    lines += [
        f"| {card} GB card | {' | '.join(f'{vae_host(SIZES[size], card):.0f}' for size in sizes)} |" for card in CARDS
    ]
    return "\n".join(lines)


def card_table() -> str:
    """Which card runs what: models wholly on the card, one at a time, as ComfyUI loads them."""
    lines = ["| card | Stage I, 480x256 | Stage II up to | host memory for the VAE at that size |", "|---|---|---|---|"]
    return "\n".join([*lines, *_cards()])


def _cards() -> Iterator[str]:
    first = Stage1Settings()
    stage1 = sampling("stage1", (first.height, first.width))
    for card in CARDS:
        room = card - RESERVED
        if stage1.total <= room:
            paints = "bf16"
        else:
            paints = "fp8" if stage1.weights / 2 + stage1.work <= room else "partly in host memory"
        largest = [name for name, size in SIZES.items() if sampling("stage2", size).total <= room][-1]
        height, width = SIZES[largest]
        yield f"| {card} GB | {paints} | {largest} ({width}x{height}) | {vae_host((height, width), card):.0f} GiB |"


def page_block() -> str:
    return f"{step_table()}\n\n{vae_table()}"


if __name__ == "__main__":
    put(PAGE, page_block(), MARKS)
    put(README, card_table(), MARKS)
