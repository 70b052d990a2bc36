"""Write ``docs/report/scores/``: every index against planted faults of rising size, as a picture and as tables.

Run from the repository root: ``python -m tools.make_score_plots [FOOTAGE ...]``; videos that are given are tried beside
the drawn ones and the example video. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from flashvideo import score_video
from flashvideo.video.files import VideoWriter, read_video
from flashvideo.video.resize import resize_video

from .planted_faults import FAULTS, cartoon, halved, moving_texture

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "docs" / "report" / "scores"
EXAMPLE = ROOT / "workflows" / "input" / "flashvideo_example.mp4"
FRAMES, HEIGHT, WIDTH, CRF = 32, 144, 192, 12
_COLUMNS = 5
_HEAD = """# Scores on planted faults

Every index against faults of rising size, planted into clean videos of {frames} frames, which were then encoded with
H.264 at crf {crf}. Solid with a source (the clean video at half the size), dashed without. An index should be at rest
at 0 and go one way from there. Written by `python -m tools.make_score_plots`; [what each means](../../scores.md).

![Each index against the size of each fault](faults.webp)
"""
Line = tuple[str, bool]  # clip, whether a source was given


def clips(footage: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
    """Name and video ``[3, F, H, W]``, with room above and below for what faults add."""
    drawn = {"texture": moving_texture(FRAMES, HEIGHT, WIDTH), "cartoon": cartoon(FRAMES, HEIGHT, WIDTH)}
    for name, video in drawn.items():
        yield name, video * 0.8 + 0.1
    for path in (EXAMPLE, *footage):
        video = read_video(path, max_frames=FRAMES)[0]
        width = round(video.shape[4] * HEIGHT / video.shape[3]) // 4 * 4
        yield path.stem, resize_video(video, HEIGHT, width)[0] * 0.8 + 0.1


def write(path: Path, video: Tensor) -> Path:
    with VideoWriter(path, 24, CRF, overwrite=True, preset="veryfast") as writer:
        writer.write(video.clamp(0, 1))
    return path


def all_values(footage: Sequence[Path]) -> dict[str, dict[Line, list[float]]]:
    """Fault -> line -> the index at each size."""
    values: dict[str, dict[Line, list[float]]] = {name: {} for name in FAULTS}
    with tempfile.TemporaryDirectory() as folder:
        planted, source = Path(folder) / "planted.mp4", Path(folder) / "source.mp4"
        for clip, video in clips(footage):
            write(source, halved(video))
            for name, fault in tqdm(FAULTS.items(), desc=clip):
                for size in fault.sizes:
                    write(planted, fault.plant(video, size))
                    for against in (source,) if fault.needs_source else (source, None):
                        value = score_video(planted, against=against).to_dict()[fault.index]
                        values[name].setdefault((clip, against is not None), []).append(float(value))
    return values


def tables(values: dict[str, dict[Line, list[float]]]) -> Iterator[str]:
    for name, lines in values.items():
        fault = FAULTS[name]
        yield f"\n**{name}**, {fault.unit}: `{fault.index}`\n"
        yield f"| | {' | '.join(f'{size:g}' for size in fault.sizes)} |"
        yield "|---|" + "---|" * len(fault.sizes)
        for (clip, has_source), numbers in lines.items():
            words = f"{clip}{'' if has_source else ', no source'}"
            yield f"| {words} | {' | '.join(f'{number:.3f}' for number in numbers)} |"


def plot(path: Path, values: dict[str, dict[Line, list[float]]]) -> None:
    from matplotlib import pyplot

    rows = -(-len(values) // _COLUMNS)
    figure, axes = pyplot.subplots(rows, _COLUMNS, figsize=(2.6 * _COLUMNS, 2.6 * rows))
    colours = {
        clip: f"C{number}" for number, clip in enumerate(dict.fromkeys(c for c, _ in next(iter(values.values()))))
    }
    axis: Any
    for axis, (name, lines) in zip(axes.flat, values.items(), strict=False):
        fault = FAULTS[name]
        for (clip, has_source), numbers in lines.items():
            axis.plot(fault.sizes, numbers, "o-" if has_source else "o--", ms=3, lw=1, color=colours[clip])
        axis.set(title=name, xlabel=fault.unit, ylabel=fault.index)
        axis.set_ylim(bottom=None if fault.index == "likeness" else 0)
    figure.legend(
        [pyplot.Line2D([], [], color=colour) for colour in colours.values()],
        colours,
        loc="lower center",
        ncol=len(colours),
    )
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("footage", type=Path, nargs="*", help="videos to try beside the drawn ones")
    values = all_values(parser.parse_args().footage)
    KEPT.mkdir(parents=True, exist_ok=True)
    plot(KEPT / "faults.webp", values)
    text = _HEAD.format(frames=FRAMES, crf=CRF) + "\n".join(tables(values)) + "\n"
    (KEPT / "README.md").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
