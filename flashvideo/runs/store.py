"""What a stream has finished, on disk: whoever begins it again goes on from there, to the same bytes.

A folder holds Stage II's start, what every evaluation settled (so that none is made twice), and the refined latents
that the decoder will need again. Every file appears whole, with checksums, and goes as soon as nothing needs it: what
lies there does not grow with the length of the video.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.files import open_weights
from ..checkpoints.locks import claimed
from ..checkpoints.outputs import make_folder, write_text
from ..checkpoints.writing import tensor_plan, write_safetensors
from ..method.windows import Settled

log = logging.getLogger(__name__)

_START, _REFINED, _SETTLED = "start", "refined", "settled"
_WINDOW = "flashvideo.window"
_LOOK = 0.1  # seconds between looks whether another process is done


def same_budgets(file: Path, *budgets: int) -> tuple[int, ...]:
    """The budgets that a file keeps, or these from now on: the VAE's tiles, and its rounding, are chosen by them.

    Of processes that come at once, all get those of the first.
    """
    make_folder(file.parent)
    while (known := _budgets_in(file, len(budgets))) is None:
        with claimed(file) as mine:
            if mine and _budgets_in(file, len(budgets)) is None:
                write_text(file, json.dumps(budgets))
        time.sleep(0 if mine else _LOOK)
    return known


def _budgets_in(file: Path, number: int) -> tuple[int, ...] | None:
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    whole = isinstance(known, list) and len(known) == number and all(type(one) is int and one > 0 for one in known)
    return tuple(known) if whole else None


@dataclass(frozen=True)
class _Piece:
    """A file of latents: the first one's number is in its name, behind its kind."""

    path: Path
    kind: str
    first: int

    @classmethod
    def of(cls, path: Path) -> _Piece:
        kind, _, first = path.stem.rpartition("-")
        return cls(path, kind, int(first))

    def read(self) -> dict[str, Tensor]:
        return {name: tensor.read().clone() for name, tensor in open_weights(self.path).tensors.items()}

    @property
    def end(self) -> int:
        """Number of the latent behind them."""
        return self.first + int(open_weights(self.path).tensors["latents"].shape[2])

    @property
    def window(self) -> int:
        return int(open_weights(self.path).metadata[_WINDOW])


class LatentStore:
    """A stream's latents in a folder.

    Args:
        folder: theirs alone; made when something is kept.
        evaluations: of the transformer for each latent.

    Attributes:
        begin: number of the first latent that the flow has to be followed from.
        started: latents of Stage II's start that are there, from ``begin`` or earlier on, end before this number.
        refined: refined latents end before this number.
    """

    def __init__(self, folder: Path, evaluations: int) -> None:
        self.folder, self.evaluations = folder, evaluations
        self.begin = self.started = self.refined = 0
        try:
            self._look()
        except (ValueError, KeyError) as error:
            log.warning("%s What was finished there is made again.", error)
            self.clear()

    def _look(self) -> None:
        """Find out what is there.

        Raises:
            ValueError: files that are damaged, or do not follow on each other.
        """
        for path in self.folder.glob("*.safetensors"):
            _Piece.of(path).read()  # all of it, so that nothing turns out to be damaged on the way
        last = self._pieces(self._kind(self.evaluations - 1))[-1:]
        self.begin = last[0].window if last else 0
        self.started, self.refined = self._end(_START), self._end(_REFINED)
        for evaluation in range(self.evaluations):
            self._end(self._kind(evaluation))
        if not self.begin <= min(self.started, self.refined) or self.refined > self.started:
            raise ValueError(f"{self.folder} lacks latents.")

    def _end(self, kind: str) -> int:
        pieces, end = self._pieces(kind), 0
        for number, piece in enumerate(pieces):
            if number and piece.first != end:
                raise ValueError(f"{self.folder} lacks latents before {piece.path.name}.")
            end = piece.end
        if kind != _REFINED and pieces and pieces[0].first > self.begin:
            raise ValueError(f"{self.folder} lacks latents before {pieces[0].path.name}.")
        return end

    def _pieces(self, kind: str) -> list[_Piece]:
        """Files of a kind, in order."""
        return sorted(map(_Piece.of, self.folder.glob(f"{kind}-*.safetensors")), key=lambda piece: piece.first)

    def _kind(self, evaluation: int) -> str:
        return f"{_SETTLED}{evaluation}"

    def clear(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.begin = self.started = self.refined = 0

    def keep_start(self, first: int, latents: Tensor) -> None:
        """Keep latents of Stage II's start, ``[1, 16, t, h, w]``; ``first`` is the number of the first."""
        self._write(_START, first, {"latents": latents})

    def start(self) -> Iterator[Tensor]:
        """Stage II's start from ``begin`` on, as far as it is there: ``[1, 16, 1, h, w]`` each."""
        yield from self._latents(_START, self.begin, self.started)

    def keep_refined(self, number: int, latent: Tensor) -> None:
        """Keep a refined latent, ``[1, 16, 1, h, w]``."""
        self._write(_REFINED, number, {"latents": latent})

    def refined_from(self, number: int) -> Iterator[Tensor]:
        """Refined latents from a number on, as far as they are there; none if that one is not there any more."""
        yield from self._latents(_REFINED, number, self.refined)

    def first_refined(self) -> int:
        """Number of the first refined latent that is still there; of the next one if none is."""
        pieces = self._pieces(_REFINED)
        return pieces[0].first if pieces else self.refined

    def reaches(self, number: int) -> bool:
        """Whether refined latents from a number on are there, or will be made."""
        return self.begin <= number or self.first_refined() <= number

    def drop_refined(self, before: int) -> None:
        """Refined latents before a number are needed no more."""
        for piece in self._pieces(_REFINED) if before else ():
            if piece.first < before:
                piece.path.unlink(missing_ok=True)

    def keeper(self, evaluation: int) -> _EvaluationKeeper:
        """What keeps the predictions of an evaluation."""
        return _EvaluationKeeper(self, evaluation)

    def keep_settled(self, evaluation: int, settled: Settled) -> None:
        """Keep what an evaluation settled; after the last evaluation of a window, drop what is before it."""
        tensors = {"latents": settled.latents, "waiting": settled.waiting}
        self._write(self._kind(evaluation), settled.first, tensors, {_WINDOW: str(settled.window)})
        if evaluation == self.evaluations - 1:
            self._drop(settled.window)

    def settled(self, evaluation: int) -> Iterator[Settled]:
        """What an evaluation settled from ``begin`` on, and its last window in any case."""
        pieces = self._pieces(self._kind(evaluation))
        for number, piece in enumerate(pieces):
            if piece.end > self.begin or number == len(pieces) - 1:
                read = piece.read()
                yield Settled(piece.window, piece.first, read["latents"], read["waiting"])

    def _drop(self, before: int) -> None:
        """A flow that begins at a number needs nothing that ends before it."""
        for kind in (_START, *map(self._kind, range(self.evaluations))):
            for piece in self._pieces(kind)[:-1]:
                if piece.end > before:
                    break
                piece.path.unlink(missing_ok=True)

    def _latents(self, kind: str, start: int, stop: int) -> Iterator[Tensor]:
        for piece in self._pieces(kind):
            if piece.first >= stop:
                return
            for number, latent in enumerate(piece.read()["latents"].split(1, dim=2), piece.first):
                if number >= start:
                    yield latent

    def _write(self, kind: str, first: int, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
        make_folder(self.folder)
        plan = tensor_plan({name: tensor.to("cpu", torch.float32) for name, tensor in tensors.items()})
        path = self.folder / f"{kind}-{first:09d}.safetensors"
        write_safetensors(path, plan, {"format": "pt", **(metadata or {})}, overwrite=True)


class _EvaluationKeeper:
    """See :class:`~flashvideo.method.windows.Keeper`."""

    def __init__(self, store: LatentStore, evaluation: int) -> None:
        self.begin = store.begin
        self._store, self._evaluation = store, evaluation

    def kept(self) -> Iterator[Settled]:
        return self._store.settled(self._evaluation)

    def keep(self, settled: Settled) -> None:
        self._store.keep_settled(self._evaluation, settled)
