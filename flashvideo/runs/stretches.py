"""A video to refine: what is asked for, its stretches between cuts, and what is kept of it on disk."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..checkpoints.files import fingerprint
from ..checkpoints.outputs import check_room, make_folder, write_text
from ..method.checks import shortened
from ..tensors.sizes import latent_frames, video_frames
from ..video.cuts import find_cuts
from ..video.files import check_output, read_metadata
from ..video.frames import Shown
from ..video.joining import sounds
from ..video.whole import is_cut_short
from .chain import Progress, no_progress
from .keeping import endless_masks
from .memory import Load
from .settings import Stage2Settings
from .stream import DRAWS, padded_frames

log = logging.getLogger(__name__)

_PLAN = "plan.json"
_PIXELS_A_BYTE = 4  # of H.264 at this quality, rather too few
FORMAT = "1"


@dataclass(frozen=True)
class Stretch:
    """Frames between two cuts: ``first`` to ``last``, that one not included; ``latent`` numbers its draws."""

    number: int
    first: int
    last: int
    latent: int

    @property
    def latents(self) -> int:
        """How many it has."""
        return latent_frames(padded_frames(self.last - self.first))


def cuts_of(text: str) -> str | tuple[int, ...]:
    """Where scenes change as people tell it: ``auto``, or numbers of frames, ``off`` being none of them.

    Raises:
        ValueError: something else.
    """
    if text in ("auto", "off"):
        return "auto" if text == "auto" else ()
    parts = text.split(",")
    if not all(part.isdecimal() and len(part) < 10 for part in parts):
        raise ValueError(f"cuts are {shortened(text)}; expected auto, off, or numbers of frames such as 120,455.")
    return tuple(map(int, parts))


def stretches_between(cuts: Sequence[int], frames: int) -> tuple[Stretch, ...]:
    """The stretches of a video with cuts before these frames.

    Raises:
        ValueError: cuts that lie outside, or do not rise.
    """
    borders = [0, *cuts, frames]
    if any(left >= right for left, right in pairwise(borders)):
        raise ValueError(
            f"cuts before the frames {', '.join(map(str, cuts))}; expected rising numbers from 1 to {frames - 1}."
        )
    stretches, latent = list[Stretch](), 0
    for number, (first, last) in enumerate(pairwise(borders)):
        stretches.append(Stretch(number, first, last, latent))
        latent += stretches[-1].latents
    return tuple(stretches)


def stretch_words(stretches: Sequence[Stretch]) -> str:
    """How many there are, and where they begin."""
    begin = ", ".join(str(stretch.first) for stretch in stretches[1:])
    return f"{len(stretches)} stretches, with cuts before the frames {begin}"


def check_prompts(prompts: Sequence[str], stretches: Sequence[Stretch]) -> None:
    """Raise ValueError unless there is one prompt for all stretches, or one for each."""
    if len(prompts) not in (1, len(stretches)):
        raise ValueError(
            f"there are {len(prompts)} prompts for {len(stretches)} stretches, which begin at the frames "
            f"{', '.join(str(stretch.first) for stretch in stretches)}. Give one prompt for each, or one for all."
        )


@dataclass(frozen=True)
class VideoJob:
    """A video to refine.

    Attributes:
        source: the video.
        output: the file to write.
        settings: Stage II's.
        prompts: of the stretches, or one of all.
        cuts: "auto", or numbers of the frames that begin a stretch; none makes one stretch of all.
        models: what the models are, for the record.
    """

    source: Shown
    output: Path
    settings: Stage2Settings
    prompts: tuple[str, ...]
    cuts: str | tuple[int, ...]
    models: Mapping[str, str]

    @property
    def folder(self) -> Path:
        """Of what is kept until the output is there."""
        return self.output.with_name(f"{self.output.name}.parts")

    @property
    def load(self) -> Load:
        """What is in memory at a time: a window of frames, or all."""
        windows, frames = self.settings.windows_in_time, self.source.frames
        at_once = frames if windows is None else min(frames, video_frames(windows.length))
        size = self.settings.height, self.settings.width
        return Load(padded_frames(at_once), None, size, encodes=True).with_windows(self.settings)

    @cached_property
    def description(self) -> dict[str, Any]:
        """All that the result depends on, as it is embedded in it."""
        return {
            "format": FORMAT,
            "content": "refined video",
            "prompt": self.prompts[0] if len(self.prompts) == 1 else list(self.prompts),
            "fps": float(self.source.rate),
            "draws": DRAWS,
            "cuts": self.cuts if isinstance(self.cuts, str) else list(self.cuts),
            "source": {"name": self.source.path.name, "fingerprint": fingerprint([self.source.path])},
            "stage2": self.settings.to_dict(),
            "models": dict(sorted(self.models.items())),
        }

    @property
    def finished(self) -> bool:
        """Whether the output is there as a whole, and is this job's."""
        if not self.output.is_file() or is_cut_short(self.output):
            return False
        try:
            return bool(known(read_metadata(self.output).get("flashvideo", "")) == self.description)
        except ValueError:
            return False

    def check(self, *, overwrite: bool) -> None:
        """Find out before any work whether the job can be done, or gone on with.

        Raises:
            ValueError: an output that is there, or cannot be written; too little room; parts of another run.
        """
        check_output(self.output, overwrite or self.finished)
        size = self.source.frames * self.settings.height * self.settings.width // _PIXELS_A_BYTE
        check_room(self.output.parent, 2 * size, "the run")
        if not self._is_ours(self.folder):
            raise ValueError(
                f"{self.folder} would hold the parts of {self.output.name}, and has other files. Move it, or choose "
                "another name for the output."
            )
        if not overwrite and self.folder.exists() and (other := self._others()):
            raise ValueError(
                f"{self.folder} holds parts of another run ({other}). Give the settings of that run to go on with it, "
                "or --overwrite to begin anew."
            )
        if others := sounds(self.source.path, self.output.suffix.lower())[1]:
            log.warning(
                "%s: Its sound in %s does not go into %s as it is, and is left out. Write an .mkv, which takes all.",
                *(self.source.path, ", ".join(others), self.output.suffix.lower()),
            )

    @staticmethod
    def _is_ours(folder: Path) -> bool:
        """Whether a folder is not there, or was made by a run: it goes with all that is in it."""
        if not folder.is_dir():
            return not folder.exists()
        return (folder / _PLAN).exists() or all(path.name.startswith(".flashvideo-") for path in folder.iterdir())

    def _others(self) -> str:
        """How the kept parts differ from this job's, in words; "" if they do not."""
        kept = self.plan()
        if kept is None:
            return ""
        differing = [name for name, value in self.description.items() if kept["job"].get(name) != value]
        return f"other {', '.join(differing)}" if differing else ""

    def plan(self) -> dict[str, Any] | None:
        """What is kept of an earlier run's beginning; None if there is nothing that can be read."""
        try:
            plan = known((self.folder / _PLAN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        whole = isinstance(plan, dict) and isinstance(plan.get("job"), dict) and isinstance(plan.get("cuts"), list)
        return plan if whole else None


def known(text: str) -> Any:
    """What a text of JSON says; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def plan_stretches(job: VideoJob, progress: Progress = no_progress, *, overwrite: bool = False) -> tuple[Stretch, ...]:
    """Find a job's stretches, or what an earlier run found, and keep it.

    Raises:
        ValueError: a number of prompts that is not that of the stretches; a source that cannot be read.
    """
    if overwrite:
        shutil.rmtree(job.folder, ignore_errors=True)
    kept, frames = job.plan(), job.source.frames
    if kept is not None:
        cuts = [int(cut) for cut in kept["cuts"]]
    elif isinstance(job.cuts, str):
        cuts = find_cuts(job.source, lambda frame: progress("Look for cuts", min(frame + 1, frames), frames))
    else:
        cuts = list(job.cuts)
    stretches = stretches_between(cuts, frames)
    check_prompts(job.prompts, stretches)
    if len(stretches) > 1 and isinstance(endless_masks(job.settings), Iterator):
        raise ValueError(
            f"the mask {job.settings.keep.rpartition('#')[0]} moves, and the video has {len(stretches)} stretches, "
            "each of which begins anew. Give a picture as the mask, or --cuts off."
        )
    if kept is None:
        make_folder(job.folder)
        write_text(job.folder / _PLAN, json.dumps({"job": job.description, "cuts": cuts}))
    return stretches


@dataclass(frozen=True)
class Task:
    """A stretch of a video to refine, one of several.

    Attributes:
        number: of the stretch.
    """

    job: VideoJob
    stretches: tuple[Stretch, ...]
    number: int

    @property
    def stretch(self) -> Stretch:
        return self.stretches[self.number]

    @property
    def is_last(self) -> bool:
        return self.number == len(self.stretches) - 1

    @property
    def prompt(self) -> str:
        return self.job.prompts[min(self.number, len(self.job.prompts) - 1)]

    @property
    def steps(self) -> int:
        """Of Stage II, one for each latent and step of the flow: what progress counts."""
        return self.job.settings.num_steps * self.stretch.latents

    @property
    def steps_of_all(self) -> int:
        """Of all the video's stretches."""
        return self.job.settings.num_steps * sum(stretch.latents for stretch in self.stretches)


def discard(job: VideoJob) -> None:
    """Remove what is kept of a job."""
    shutil.rmtree(job.folder, ignore_errors=True)
