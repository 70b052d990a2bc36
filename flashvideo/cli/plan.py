"""``flashvideo plan``: what a run will take on this machine or on another, before anything is loaded."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import torch

from ..checkpoints.metadata import STAGES
from ..report.kernels.rates import CARDS, Rates
from ..report.planning import CARD_GB, Target, plan_run
from ..runs.settings import Stage1Settings, Stage2Settings
from ..vae.tiling import memory
from .options import OptionGroup, pick_device
from .progress import Bars, say

_STAGE1 = OptionGroup(STAGES["stage1"], Stage1Settings, leave_out=("guidance-curve", "seed"))
_STAGE2 = OptionGroup(
    STAGES["stage2"],
    Stage2Settings,
    leave_out=(
        *("noise-step", "shift", "rounding", "motion", "resize", "posterior-mean", "match-colors", "keep"),
        *("guide-student", "seed"),
    ),
)
_GB = 10**9


def add_plan(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Says what a run of the published models will take, step by step: seconds, memory of the device and of the "
        "host, tiles, and where models wait. Nothing is loaded. Seconds are predicted from rates: of a known card, or "
        "those that `flashvideo bench --json` measured."
    )
    group = parser.add_argument_group("machine")
    group.add_argument("--card", choices=CARDS, help="a card that need not be here (default: this machine's device)")
    group.add_argument("--device", default="auto", help="of this machine, if no card is given (default: auto)")
    group.add_argument("--rates", type=Path, metavar="FILE", help="of `flashvideo bench --json`, run on that machine")
    group.add_argument(
        "--memory", type=float, metavar="GB", help="of the device (default: the card's, or what is free now)"
    )
    group.add_argument("--host-memory", type=float, metavar="GB", help="of the host (default: what is free here)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _STAGE1.add_to(parser, Stage1Settings())
    _STAGE2.add_to(parser, Stage2Settings())
    parser.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> int:
    stage1 = _STAGE1.settings(options, Stage1Settings())
    stage2 = _STAGE2.settings(options, Stage2Settings(), (stage1.height, stage1.width))
    target = _target(options)
    with Bars() as bars:
        plan = plan_run(stage1, stage2, target, bars)
    if options.json:
        say(json.dumps(plan.to_dict(), allow_nan=False))
        return 1 if plan.shortage else 0
    say("\n".join(plan.lines()))
    if plan.seconds is None:
        say("\nSeconds: run `flashvideo bench --json rates.json` on that machine, and give it with --rates.")
    return 1 if plan.shortage else 0


def _target(options: argparse.Namespace) -> Target:
    for name in ("memory", "host_memory"):
        value = getattr(options, name)
        if value is not None and not 0 < value < 1e6:
            raise ValueError(f"--{name.replace('_', '-')} is {value:g}; expected gigabytes above 0, for example 24.")
    device = torch.device("cuda", 0) if options.card else pick_device(options.device)
    free = memory.free_on(device) if options.card is None else CARD_GB[options.card] * _GB - memory.MARGIN
    if options.memory is not None:
        free = int(options.memory * _GB) - memory.MARGIN
    host = memory.free_on_host() if options.host_memory is None else int(options.host_memory * _GB)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" and not options.card else str(device)
    card = options.card or _known(name)
    rates = CARDS[card] if card else None
    if options.rates is not None:
        rates = _read_rates(options.rates)
    return Target(options.card or name, device, max(1, free), host, rates)


def _known(name: str) -> str | None:
    """A known card of the name that its driver gives it, as in "NVIDIA H100 80GB HBM3"."""
    words = re.sub(r"-[A-Z0-9]+-", " ", name).replace("GB", " GB")
    return next((card for card in CARDS if f" {card} " in f" {words} " and "Laptop" not in words), None)


def _read_rates(path: Path) -> Rates:
    """Rates of a file that ``flashvideo bench --json`` wrote.

    Raises:
        ValueError: another file, or one of a bench that only counted.
    """
    try:
        machine = json.loads(path.read_text(encoding="utf-8"))["machine"]
        return Rates.from_dict(machine["rates"])
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} holds no rates ({error!r:.120}); expected a file of flashvideo bench --json, without --count-only."
        ) from None
