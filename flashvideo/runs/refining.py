"""A video file refined into another: read, refined and written beside each other, kept in parts, resumed.

The file is written in parts of :data:`PART_FRAMES` frames that are encoded each for itself, and joined at the end: so
it has the same bytes, however often a run was ended and begun again. What is kept lies in a folder beside it,
``OUTPUT.parts``, until the file is there.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from itertools import islice, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from ..checkpoints.files import fingerprint
from ..checkpoints.outputs import make_folder, write_text
from ..video.cuts import find_cuts
from ..video.files import VideoWriter, check_output, read_metadata
from ..video.frames import Shown, read_frames
from ..video.joining import frames_in, join_parts, sounds, tags_of
from ..video.whole import is_cut_short
from .beside import Behind, read_ahead
from .chain import Models, Progress, no_progress
from .keeping import endless_masks
from .settings import Stage2Settings
from .stream import DRAWS, go_on_refining, padded_frames

log = logging.getLogger(__name__)

PART_FRAMES = 96  # of a part; the first of a stretch has one more, so that all end with a chunk of the decoder
_AHEAD, _BEHIND = 16, 2  # frames read ahead; pieces of 8 or 9 frames that wait to be written
_PLAN = "plan.json"
FORMAT = "1"


@dataclass(frozen=True)
class Stretch:
    """Frames between two cuts: ``first`` to ``last``, that one not included; ``latent`` numbers its draws."""

    number: int
    first: int
    last: int
    latent: int


def stretches_between(cuts: Sequence[int], frames: int) -> list[Stretch]:
    """The stretches of a video with cuts before these frames.

    Raises:
        ValueError: cuts that lie outside, or do not rise.
    """
    borders = [0, *cuts, frames]
    if any(left >= right for left, right in pairwise(borders)):
        raise ValueError(
            f"cuts before the frames {', '.join(map(str, cuts))}; expected rising numbers from 1 to {frames - 1}."
        )
    stretches, latent = [], 0
    for number, (first, last) in enumerate(pairwise(borders)):
        stretches.append(Stretch(number, first, last, latent))
        latent += (padded_frames(last - first) - 1) // 4 + 1
    return stretches


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
            return bool(_known(read_metadata(self.output).get("flashvideo", "")) == self.description)
        except ValueError:
            return False

    def check(self, *, overwrite: bool) -> None:
        """Find out before any work whether the job can be done, or gone on with.

        Raises:
            ValueError: an output that is there, or cannot be written; parts of another run.
        """
        check_output(self.output, overwrite or self.finished)
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
            plan = _known((self.folder / _PLAN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        whole = isinstance(plan, dict) and isinstance(plan.get("job"), dict) and isinstance(plan.get("cuts"), list)
        return plan if whole else None


def _known(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def plan_stretches(job: VideoJob, progress: Progress = no_progress, *, overwrite: bool = False) -> list[Stretch]:
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
    if len(job.prompts) not in (1, len(stretches)):
        raise ValueError(
            f"there are {len(job.prompts)} prompts for {len(stretches)} stretches, which begin at the frames "
            f"{', '.join(str(stretch.first) for stretch in stretches)}. Give one prompt for each, or one for all."
        )
    if len(stretches) > 1 and isinstance(endless_masks(job.settings), Iterator):
        raise ValueError(
            f"the mask {job.settings.keep.rpartition('#')[0]} moves, and the video has {len(stretches)} stretches, "
            "each of which begins anew. Give a picture as the mask, or --cuts off."
        )
    if kept is None:
        make_folder(job.folder)
        write_text(job.folder / _PLAN, json.dumps({"job": job.description, "cuts": cuts}))
    return stretches


def refine_video(
    models: Models,
    job: VideoJob,
    stretches: Sequence[Stretch],
    embeds: Callable[[str], Tensor],
    progress: Progress = no_progress,
    *,
    swap: bool = False,
) -> Path:
    """Refine a video, or go on with it, and write it.

    Args:
        stretches: as :func:`plan_stretches` found them.
        embeds: gives ``[1, 226, D]`` of a prompt with the motion prefix.
        swap: have one model at a time on its device.

    Raises:
        ValueError: frames that cannot be read.
        OSError: a full disk. What is finished is kept.
    """
    for stretch in stretches:
        parts = _Parts(job, stretch)
        if parts.finished:
            continue
        prompt = job.prompts[min(stretch.number, len(job.prompts) - 1)]
        told = _of_stretch(progress, stretch, stretches)
        _refine_stretch(models, job, parts, embeds(prompt), told, is_last=stretch is stretches[-1], swap=swap)
    files = [path for stretch in stretches for path in _Parts(job, stretch).files]
    metadata = {**tags_of(job.source.path), "comment": "\n".join(job.prompts)}
    metadata["flashvideo"] = json.dumps(job.description)
    join_parts(files, job.output, _written_rate(job), metadata, sound=job.source.path, start=job.source.start)
    discard(job)
    return job.output


def discard(job: VideoJob) -> None:
    """Remove what is kept of a job."""
    shutil.rmtree(job.folder, ignore_errors=True)


def _written_rate(job: VideoJob) -> Fraction:
    return job.source.rate.limit_denominator(1001)


def _of_stretch(progress: Progress, stretch: Stretch, stretches: Sequence[Stretch]) -> Progress:
    if len(stretches) == 1:
        return progress
    return lambda what, done, total: progress(f"{what} {stretch.number + 1}/{len(stretches)}", done, total)


def _refine_stretch(
    models: Models,
    job: VideoJob,
    parts: _Parts,
    prompt_embeds: Tensor,
    progress: Progress,
    *,
    is_last: bool,
    swap: bool,
) -> None:
    stretch, source = parts.stretch, job.source
    length = None if is_last else stretch.last - stretch.first  # there may be more frames than a file tells

    def frames(start: int) -> Iterator[Tensor]:
        left = None if length is None else length - start
        return read_ahead(islice(read_frames(source, stretch.first + start), left), _AHEAD)

    parts.forget_others()
    latents = job.folder / f"latents-{stretch.number:05d}"
    stream = go_on_refining(
        models,
        frames,
        prompt_embeds,
        job.settings,
        latents,
        lambda: parts.safe,
        progress,
        total=stretch.last - stretch.first,
        first_latent=stretch.latent,
        swap=swap,
    )
    with closing(stream), parts:
        with Behind(_BEHIND) as writing:
            for piece in stream:
                writing.do(partial(parts.write, piece))
        parts.end()
    shutil.rmtree(latents, ignore_errors=True)


class _Parts:
    """The parts of a stretch, files of :data:`PART_FRAMES` frames; a context manager while they are written.

    Attributes:
        files: that are there as a whole, in order.
        safe: frames that are in them.
    """

    def __init__(self, job: VideoJob, stretch: Stretch) -> None:
        self.job, self.stretch = job, stretch
        self.files: list[Path] = []
        self.safe, self._in_part = 0, 0
        self._writer: VideoWriter | None = None
        end = self._end()
        for path in self._there():
            count = 0 if path != self._name(self.safe) or is_cut_short(path) else frames_in(path)
            if not count or (count != self._full and self.safe + count != end):
                break
            self.files.append(path)
            self.safe += count
        self.finished = self.safe == end

    @property
    def _prefix(self) -> str:
        return f"part-{self.stretch.number:05d}"

    def _name(self, first: int) -> Path:
        return self.job.folder / f"{self._prefix}-{first:09d}.mp4"

    def _there(self) -> list[Path]:
        return sorted(self.job.folder.glob(f"{self._prefix}-*.mp4"))

    @property
    def _mark(self) -> Path:
        return self.job.folder / f"{self._prefix}.json"

    def _end(self) -> int | None:
        """Frames of the whole stretch, once all are there."""
        try:
            end = _known(self._mark.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return end if isinstance(end, int) else None

    @property
    def _full(self) -> int:
        """Frames of the part that comes next."""
        return PART_FRAMES if self.safe else PART_FRAMES + 1

    def forget_others(self) -> None:
        """Remove parts that do not follow on those that are whole: they are made again."""
        self._mark.unlink(missing_ok=True)
        for path in self._there():
            if path not in self.files:
                path.unlink()

    def write(self, frames: Tensor) -> None:
        """Append frames, ``[1, 3, f, H, W]``."""
        while frames.shape[2]:
            if self._writer is None:
                self._writer = VideoWriter(self._name(self.safe), _written_rate(self.job), overwrite=True)
                self._writer.__enter__()
                self._in_part = 0
            fitting, frames = frames[:, :, : self._full - self._in_part], frames[:, :, self._full - self._in_part :]
            self._writer.write(fitting)
            self._in_part += fitting.shape[2]
            if self._in_part == self._full:
                self._close()

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.__exit__(None, None, None)
            self.files.append(writer.path)
            self.safe += self._in_part

    def end(self) -> None:
        """All frames were written."""
        self._close()
        write_text(self._mark, json.dumps(self.safe))
        self.finished = True

    def __enter__(self) -> _Parts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.__exit__(kind or StopIteration, error or StopIteration(), trace)
