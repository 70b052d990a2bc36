"""``flashvideo convert`` and ``flashvideo inspect``."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

import torch

from ..checkpoints.files import name_list
from ..checkpoints.metadata import STAGES
from ..loading.convert import KINDS, OUTPUT_DTYPES, convert_checkpoint
from ..runs.inspect import Inspection, ScaleGroup, inspect_checkpoint
from .progress import say

_KIND_NAMES = {
    **{kind: f"{name} transformer" for kind, name in STAGES.items()},
    "vae": "3D VAE",
    "lora": "LoRA",
    "text": "T5 text encoder",
    "preview": "preview file (latents with prompt and settings)",
    "unknown": "nothing that FlashVideo knows",
}
_SHOWN = 10


def add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="stage1.pt, stage2.pt, 3d-vae.pt, a diffusers folder, a LoRA ...")
    parser.add_argument("output", type=Path, help="the .safetensors to write")
    parser.add_argument("--kind", choices=KINDS, help="what the source must be (default: what it is)")
    parser.add_argument("--dtype", choices=OUTPUT_DTYPES, help="of the weights (default: the source's)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.set_defaults(run=run_convert)


def add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "What is this checkpoint, does it fit, what is missing? The exit code is 0 for a sound file, 1 for one that "
        "would not load or holds damaged values, 2 for one that cannot be read at all."
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--quick", action="store_true", help="headers only; do not look for NaN in the values")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run_inspect)


def run_convert(options: argparse.Namespace) -> None:
    path = convert_checkpoint(
        options.source, options.output, kind=options.kind, dtype=options.dtype, overwrite=options.overwrite
    )
    inspection = inspect_checkpoint(path, values=False)
    say(f"{path}: {_KIND_NAMES[inspection.kind]}, {inspection.file_bytes / 1e9:.3f} GB")


def run_inspect(options: argparse.Namespace) -> int:
    inspection = inspect_checkpoint(options.file, values=not options.quick)
    if options.json:
        say(json.dumps({**asdict(inspection), "path": str(inspection.path), "sound": inspection.sound}, indent=2))
    else:
        for line in describe(inspection, values=not options.quick):
            say(line)
    return 0 if inspection.sound else 1


def describe(inspection: Inspection, *, values: bool) -> list[str]:
    """The findings in words."""
    lines = [
        f"{inspection.path}: {_KIND_NAMES[inspection.kind]}" + (f", {inspection.layout}" if inspection.layout else "")
    ]
    stored = ", ".join(f"{count:,} in {name}" for name, count in inspection.dtypes.items())
    where = f" under '{inspection.container}'" if inspection.container else ""
    lines.append(f"  size:         {inspection.file_bytes / 1e9:.3f} GB; {stored}{where}")
    if inspection.config:
        label = "settings:     " if inspection.kind == "preview" else "architecture: "
        lines.append(f"  {label}{', '.join(f'{key} {value}' for key, value in inspection.config.items())}")
    if inspection.lora_rank:
        lines.append(
            f"  LoRA:         rank {inspection.lora_rank}"
            + (", merged on loading" if inspection.kind == "stage1" else "")
        )
    lines += _scale_lines(inspection.lora_scales)
    if inspection.metadata.kind:
        source = inspection.metadata.source_sha256
        said = (inspection.metadata.dtype, f"from a file with SHA-256 {source}" if source else "")
        lines.append(f"  converted:    {', '.join(filter(None, said))}" if any(said) else "  made by FlashVideo")
    if inspection.student is not None:
        lines.append(f"  student:      {inspection.student}")
    lines += [f"  also holds:   {_KIND_NAMES[part]}" for part in inspection.also]
    lines += _numbered("note", inspection.notes)
    lines += _numbered("skipped", inspection.ballast)
    lines += _numbered("problem", inspection.problems)
    lines += _numbered("NaN or infinite values in", inspection.damaged)
    if inspection.kind in ("stage1", "stage2", "vae"):
        lines.append(f"  memory:       {inspection.bytes_bf16 / 1e9:.2f} GB in bf16; {_room(inspection.bytes_bf16)}")
    if inspection.sound:
        lines.append("  sound:        " + ("nothing missing, all values finite" if values else "nothing missing"))
    else:
        lines.append("  NOT SOUND:    it will not load as it is" if inspection.problems else "  NOT SOUND")
    return lines


def _scale_lines(groups: tuple[ScaleGroup, ...]) -> list[str]:
    """One line for all modules with one scale; where there are several, with their names."""
    lines = []
    for group in groups:
        names = f" ({name_list(group.modules)})" if len(groups) > 1 else ""
        count = f"{len(group.modules)} module{'s' if len(group.modules) > 1 else ''}"
        formula = "" if group.formula == "1" else f" = {group.formula}"
        lines.append(f"  scale:        {group.scale:.6g}{formula}, {group.source}: {count}{names}")
    return lines


def _numbered(label: str, names: tuple[str, ...]) -> list[str]:
    more = [f"  {label}: ... and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return [f"  {label}: {name}" for name in names[:_SHOWN]] + more


def _room(needed: int) -> str:
    """Does it fit? Free memory of the GPU, or of the machine."""
    if torch.cuda.is_available():
        free, place = torch.cuda.mem_get_info()[0], torch.cuda.get_device_name()
    elif hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        free, place = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "this machine"
    else:
        return "free memory unknown here"
    return f"{'fits into' if needed < free else 'does NOT fit into'} the {free / 1e9:.1f} GB free on {place}"
