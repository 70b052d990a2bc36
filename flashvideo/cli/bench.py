"""``flashvideo bench``: what the networks cost, counted, measured here, and predicted for other devices."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..checkpoints.outputs import check_writable, write_text
from ..loading.convert import OUTPUT_DTYPES
from ..report.kernels.counter import Count
from ..report.kernels.machine import Machine, importable, measure, results_table
from ..report.kernels.networks import PUBLISHED, count
from ..report.kernels.page import cards_table, comparison, counts_table, parts_table, table
from ..report.kernels.rates import CARDS
from .options import pick_device
from .progress import Bars, say

_DTYPES = ("fp32", "bf16", "fp16")
_LIMIT, _QUICK = 5.0, 0.5  # seconds of a run


def add_bench(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measures what this machine reaches, runs the published networks with random weights as far as they fit "
        "(nothing is downloaded), and counts what a GPU would be asked to do at full size, with seconds predicted for "
        "this machine and for known cards."
    )
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:1, mps or cpu (default: auto)")
    parser.add_argument("--dtype", choices=_DTYPES, help="default: bf16, on a CPU fp32")
    parser.add_argument("--quick", action="store_true", help=f"runs of {_QUICK:g} seconds instead of {_LIMIT:g}")
    parser.add_argument("--no-peers", action="store_true", help="leave out diffusers' and ComfyUI's classes")
    parser.add_argument("--comfyui", metavar="FOLDER", help="of ComfyUI, to time its own CogVideoX too")
    parser.add_argument("--count-only", action="store_true", help="count at full size; measure nothing")
    parser.add_argument("--plain", action="store_true", help="count torch's operations alone, as without Triton")
    parser.add_argument("--parts", action="store_true", help="tell which parts of the networks move the bytes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to a new file")
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar=("BEFORE", "AFTER"), help="two such files; nothing is run"
    )
    parser.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    if options.compare:
        before, after = (_read(path) for path in options.compare)
        say("\n".join(comparison(before, after)))
        return 0
    if options.json is not None:
        check_writable(options.json, overwrite=False)
    counts, machine = {}, None
    with Bars() as bars:
        if not options.count_only:
            device = pick_device(options.device)
            dtype = OUTPUT_DTYPES[options.dtype or ("fp32" if device.type == "cpu" else "bf16")]
            limit = _QUICK if options.quick else _LIMIT
            with importable(options.comfyui):
                machine = measure(device, dtype, limit=limit, peers=not options.no_peers, progress=bars)
        for index, case in enumerate(PUBLISHED):
            bars("counting", index, len(PUBLISHED))
            counts[case.name] = count(case, fused=not options.plain)
        bars("counting", len(PUBLISHED), len(PUBLISHED))
    say("\n".join(_page(machine, counts, options.parts)))
    if options.json is not None:
        values: dict[str, Any] = {"counts": {name: one.to_dict() for name, one in counts.items()}}
        values["machine"] = None if machine is None else machine.to_dict()
        write_text(options.json, json.dumps(values, indent=1, allow_nan=False) + "\n")
    return 0


def _page(machine: Machine | None, counts: dict[str, Count], parts: bool) -> Iterator[str]:
    cards = dict(CARDS)
    if machine is not None:
        rates = machine.rates
        yield f"{machine.device}, {machine.dtype}, torch {machine.torch}, {machine.threads} threads"
        yield from (
            "",
            f"matrix products {rates.products / 1e12:.3g} TFLOP/s, convolutions {rates.convolutions / 1e12:.3g}, "
            f"attention {rates.attention / 1e12:.3g}; memory {rates.memory / 1e9:.4g} GB/s; "
            f"{rates.launch * 1e6:.2g} us a launch",
            "",
        )
        titles = ("", "launches", "seconds", "predicted", "share of limit", "peak, GiB", "others take")
        yield from table(titles, results_table(machine))
        yield ""
        cards = {machine.device: rates, **cards}
    yield from ("Published networks, bf16, one evaluation or one video, counted:", "")
    yield from counts_table(counts)
    yield from ("", "Seconds, predicted; in brackets what products, convolutions and attention take of them:", "")
    yield from cards_table(counts, cards)
    for name, one in counts.items() if parts else ():
        yield from ("", f"{name}, by part:", "")
        yield from parts_table(one)


def _read(path: Path) -> dict[str, Count]:
    """Counts of a file that ``--json`` wrote.

    Raises:
        ValueError: another file.
    """
    try:
        counts = json.loads(path.read_text(encoding="utf-8"))["counts"]
        return {str(name): Count.from_dict(values) for name, values in counts.items()}
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} holds no counts ({error}); expected a file of flashvideo bench --json.") from None
