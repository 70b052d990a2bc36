"""``flashvideo verify``: a certificate that every path of this machine gives what the plain one gives."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from ..checkpoints.outputs import check_writable, write_text
from ..checkpoints.paths import expanded
from ..loading.model_store import find_models
from ..runs.verifying import GROUPS, check_groups, verify_paths
from .options import add_device, add_paths, pick_device
from .progress import Bars, say

RANDOM = "random"
_PARTS = ("stage1", "stage2", "vae")


def add_verify(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Runs both stages, encode and decode on fixed inputs by every path that this machine offers, and compares each "
        "with plain fp32 on the CPU. Exit code 1 if a path is over its limit. Nothing is downloaded."
    )
    group = parser.add_argument_group("models")
    group.add_argument(
        "--models",
        default=os.environ.get("FLASHVIDEO_MODELS", RANDOM),
        help="folder of stage1, stage2 and the VAE, whichever there are; 'tiny' is bundled, 'random' are small random "
        "weights of the same architectures (default: $FLASHVIDEO_MODELS, else random)",
    )
    add_paths(group, *_PARTS)
    add_device(parser)
    named = "; ".join(f"{name}: {text}" for name, text in GROUPS.items())
    parser.add_argument("--only", metavar="A,B,...", help=f"of these paths (default: all): {named}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the certificate as JSON, too")
    parser.add_argument("--overwrite", action="store_true", help="replace that file")
    parser.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> int:
    groups = check_groups(GROUPS if options.only is None else options.only.split(","))
    file = None if options.json is None else expanded(options.json)
    if file is not None:
        check_writable(file, overwrite=options.overwrite)
    with Bars() as bars:
        certificate = verify_paths(_files(options), device=pick_device(options.device), groups=groups, progress=bars)
    for line in certificate.lines():
        say(line)
    if file is not None:
        write_text(file, json.dumps(certificate.to_dict(), indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    return int(not certificate.ok)


def _files(options: argparse.Namespace) -> dict[str, Path] | None:
    """The parts that are there; ``None`` for random ones.

    Raises:
        ValueError: a folder or file that is not there, or none of the parts.
    """
    given = {name: getattr(options, name) for name in _PARTS}
    random = options.models == RANDOM
    if random and not any(given.values()):
        return None
    paths = find_models(None if random else options.models, given, (), _PARTS)
    files = {name: path for name in _PARTS if (path := getattr(paths, name)) is not None}
    if not files:
        raise ValueError(f"{options.models} has none of {', '.join(_PARTS)}. Give another folder, or each by its path.")
    return files
