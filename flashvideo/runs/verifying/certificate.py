"""The certificate of a machine: all its paths against the plain one."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path as FilePath

import torch

from ... import __version__
from ...checkpoints.metadata import STAGES
from .codecs import RUNS, VAE_GROUPS, vae_verdicts
from .files import file_verdicts, write_published
from .stages import STAGE_GROUPS, stage_verdicts
from .verdicts import GROUPS, Certificate, Verdict

Progress = Callable[[str, int, int], None]


def verify_paths(
    files: Mapping[str, FilePath] | None = None,
    *,
    device: torch.device | str = "cpu",
    groups: frozenset[str] = frozenset(GROUPS),
    progress: Progress | None = None,
) -> Certificate:
    """Compare every path that this machine offers with plain fp32 on the CPU, on fixed inputs.

    Args:
        files: of ``stage1``, ``stage2`` and ``vae``, some of them; ``None``: small random models, written to a
            temporary folder as the published files are.
        device: that is looked at.
        groups: of paths, names of :data:`~.verdicts.GROUPS`. Kinds of files are always looked at with random weights.
        progress: called with what begins, how much is done, and how much there is.

    Raises:
        ValueError: files that cannot be read.
    """
    device = torch.device(device)
    with tempfile.TemporaryDirectory(prefix="flashvideo-verify-") as name:
        folder = FilePath(name)
        parts = write_published(folder) if files is None else dict(files)
        verdicts = tuple(_verdicts(parts, folder, device, groups, progress or (lambda *_: None)))
    models = "small random weights" if files is None else ", ".join(str(path) for path in parts.values())
    return Certificate(verdicts, {"flashvideo": __version__, **place_of(device), "models": models})


def place_of(device: torch.device) -> dict[str, str]:
    """What a result may depend on beside the models."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"torch": torch.__version__, "device": f"{device} ({name})"}


def _verdicts(
    parts: Mapping[str, FilePath], folder: FilePath, device: torch.device, groups: frozenset[str], progress: Progress
) -> Iterator[Verdict]:
    sections: list[tuple[frozenset[str], Callable[[], Iterator[Verdict]]]] = [
        (frozenset(("files",)), partial(file_verdicts, folder))
    ]
    for kind, path in parts.items():
        if kind == "vae":
            sections += [(VAE_GROUPS[part], partial(vae_verdicts, part, path, device, groups)) for part in RUNS]
        else:
            sections.append((STAGE_GROUPS, partial(stage_verdicts, STAGES[kind], kind, path, device, groups)))
    chosen = [verdicts for of_section, verdicts in sections if of_section & groups]
    for done, verdicts in enumerate(chosen):
        progress("verifying", done, len(chosen))
        yield from verdicts()
    progress("verifying", len(chosen), len(chosen))
