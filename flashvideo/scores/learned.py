"""Measures that others trained or fitted, by their own package: used where it and its weights are on this machine.

Nothing is downloaded, whatever the package would do: files are looked for where it looks for them, and while it works,
it finds no network.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import io
import math
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .frames import Frame
from .measures import BY_ID
from .sampling import Evenly

FRAMES = 16  # of a video, at most
AUTO, NONE = "auto", "none"
_PACKAGE = "pyiqa"
_INSTALL = 'pip install "flashvideo[metrics]"'
_CHUNK = 1 << 20  # bytes that are read at once for a checksum
_ALONE = threading.RLock()  # one thread at a time changes what all see

Net = Callable[..., Any]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Weights:
    """A file without which a measure would be downloaded: in a folder of PyTorch's hub, or of a repository in Hugging
    Face's cache; ``sha256`` where another file would be downloaded over it.
    """

    folder: str
    name: str
    repository: str = ""
    sha256: str = ""

    def fault(self) -> str:
        """What is wrong with it, in words; "" if nothing is."""
        if self.repository:
            from huggingface_hub import constants, try_to_load_from_cache

            found = try_to_load_from_cache(self.repository, self.name, cache_dir=constants.HF_HUB_CACHE)
            where = f"{self.repository} is not in {constants.HF_HUB_CACHE}"
            return "" if isinstance(found, str) else f"{self.name} of {where}"
        path = Path(torch.hub.get_dir(), self.folder, self.name)
        if not path.is_file():
            return f"{path.name} is not in {path.parent}"
        if self.sha256 and _sha256(path) != self.sha256:
            return f"{path} is damaged: its SHA-256 is not {self.sha256}"
        return ""


@dataclass(frozen=True)
class _Kind:
    weights: tuple[Weights, ...]
    against_true: bool = False


_CLIP_RN50 = "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"
_VIT = "timm/vit_base_patch8_224.augreg2_in21k_ft_in1k"
KINDS = {  # as pyiqa 0.1.16 and what it is built on look for them
    "niqe": _Kind((Weights("pyiqa", "niqe_modelparameters.mat"),)),
    "musiq": _Kind((Weights("pyiqa", "musiq_koniq_ckpt-e95806b9.pth"),)),
    "maniqa": _Kind((Weights("pyiqa", "ckpt_koniq10k.pt"), Weights("", "model.safetensors", _VIT))),
    "clipiqa": _Kind((Weights("clip", "RN50.pt", sha256=_CLIP_RN50),)),
    "lpips": _Kind(
        (Weights("pyiqa", "LPIPS_v0.1_alex-df73285e.pth"), Weights("checkpoints", "alexnet-owt-7be5be79.pth")), True
    ),
    "dists": _Kind(
        (Weights("pyiqa", "DISTS_weights-f5e65c96.pth"), Weights("checkpoints", "vgg16-397923af.pth")), True
    ),
}


@dataclass(frozen=True)
class Learned:
    """Measures that were loaded.

    Attributes:
        nets: id -> what gives a number of a picture ``[1, 3, H, W]`` in 0..1, or of it and the true one.
        remarks: what is not measured and why.
    """

    nets: Mapping[str, Net]
    remarks: tuple[str, ...] = ()


def load_learned(
    names: Iterable[str] | str,
    *,
    with_true: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Learned:
    """Load measures, all of them before any work.

    Args:
        names: ids of measures, also in one text with commas; ``"auto"`` for all that are on this machine; ``"none"``.
        with_true: there is a true video: some need it.
        device: on which they run.
        progress: called with (what, done, in all).

    Raises:
        ValueError: a measure that is asked for by name and not known, not installed, without weights or broken.
    """
    chosen = _chosen(names, with_true)
    faults = {name: _fault(name) for name in chosen}
    if names != AUTO:
        for name, fault in faults.items():
            if fault:
                raise ValueError(f"{BY_ID[name].label} cannot be measured: {fault}. {_remedy(name)}")
    nets: dict[str, Net] = {}
    wanted = [name for name in chosen if not faults[name]]
    for done, name in enumerate(wanted):
        if progress is not None:
            progress("Load metrics", done, len(wanted))
        try:
            with _left_alone():
                nets[name] = importlib.import_module(_PACKAGE).create_metric(name, device=torch.device(device))
        except Exception as error:
            faults[name] = f"{_PACKAGE} could not load it ({_told(error)})"
            if names != AUTO:
                raise ValueError(f"{BY_ID[name].label} cannot be measured: {faults[name]}.") from error
    if progress is not None and wanted:
        progress("Load metrics", len(wanted), len(wanted))
    return Learned(nets, _left_out(faults))


class LearnedMeasure:
    """Of evenly spaced frames (:class:`~flashvideo.scores.sampling.Evenly`). What fails is left out from then on.

    Attributes:
        remarks: what was left out and why, in sentences.
    """

    def __init__(self, learned: Learned, expected: int = 0) -> None:
        self._nets = dict(learned.nets)
        self._values = {name: Evenly(FRAMES, expected) for name in self._nets}
        self.remarks = list(learned.remarks)

    def add(self, frame: Frame) -> None:
        wanted = [name for name in self._nets if self._values[name].wants(frame.index)]
        if not wanted:
            return
        video = _picture(frame.video)
        true = None if frame.true is None else _picture(frame.true)
        for name in wanted:
            pictures = (video, true) if KINDS[name].against_true else (video,)
            try:
                with _left_alone(), torch.inference_mode():
                    value = float(torch.as_tensor(self._nets[name](*pictures)).float().mean())
            except Exception as error:
                del self._nets[name]
                self.remarks.append(f"{BY_ID[name].label} failed at frame {frame.index}: {_told(error)}.")
                continue
            self._values[name].add(value if math.isfinite(value) else None)

    def result(self) -> dict[str, float | None]:
        """Means by id; None of what failed or gave no number."""
        return {name: values.mean() if name in self._nets else None for name, values in self._values.items()}


def _chosen(names: Iterable[str] | str, with_true: bool) -> list[str]:
    if names == AUTO:
        return [name for name, kind in KINDS.items() if with_true or not kind.against_true]
    if names == NONE:
        return []
    words = names.split(",") if isinstance(names, str) else names
    chosen = list(dict.fromkeys(word.strip().lower().replace("-", "") for word in words))
    for name in chosen:
        if name not in KINDS:
            raise ValueError(f"There is no metric {name!r}; expected {AUTO}, {NONE}, or some of {', '.join(KINDS)}.")
        if KINDS[name].against_true and not with_true:
            raise ValueError(
                f"{BY_ID[name].label} compares with a true video, and there is none. Give one (--true) or leave it out."
            )
    return chosen


def _fault(name: str) -> str:
    """Why it cannot be loaded, in words; "" if nothing is known against it."""
    if importlib.util.find_spec(_PACKAGE) is None:
        return f"{_PACKAGE} is not installed"
    return next(filter(None, (weights.fault() for weights in KINDS[name].weights)), "")


def _remedy(name: str) -> str:
    if importlib.util.find_spec(_PACKAGE) is None:
        return f"Install it: {_INSTALL}."
    pictures = "a.png -r b.png" if KINDS[name].against_true else "a.png"
    return (
        f"`{_PACKAGE} {name} -t {pictures}`, run once with a network, fetches it; FlashVideo downloads nothing. "
        "Or leave it out."
    )


def _left_out(faults: Mapping[str, str]) -> tuple[str, ...]:
    """One remark for all that is not there."""
    names: dict[str, list[str]] = {}
    for name, fault in faults.items():
        if fault:
            names.setdefault(fault, []).append(BY_ID[name].label)
    if not names:
        return ()
    reasons = "; ".join(f"{', '.join(labels)} ({fault})" for fault, labels in names.items())
    return (f"Not measured: {reasons}. docs/scores.md says how to have them; --metrics none leaves them out.",)


def _picture(pixels: Tensor) -> Tensor:
    return pixels[None].float().div_(255)


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")[:300]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _left_alone() -> Iterator[None]:
    """Around another package's work: what it prints is dropped (standard output may be one JSON object), and in this
    thread no name of the network is found, as on a machine without one.
    """
    thread = threading.get_ident()

    def unknown(*arguments: Any, **more: Any) -> Any:
        if threading.get_ident() == thread:
            raise socket.gaierror(socket.EAI_NONAME, "FlashVideo downloads nothing")
        return known(*arguments, **more)

    with _ALONE, contextlib.redirect_stdout(io.StringIO()):
        known = socket.getaddrinfo
        socket.getaddrinfo = unknown
        try:
            yield
        finally:
            socket.getaddrinfo = known
