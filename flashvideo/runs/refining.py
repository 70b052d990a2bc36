"""A video file refined into another: read, refined and written beside each other, kept in parts, resumed.

The file is written in parts of :data:`PART_FRAMES` frames that are encoded each for itself, and joined at the end: so
it has the same bytes, however often a run was ended and begun again. What is kept lies in a folder beside it,
``OUTPUT.parts``, until the file is there.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Protocol

from torch import Tensor

from ..checkpoints.locks import claimed
from ..checkpoints.outputs import write_text
from ..loading.model_store import ModelStore
from ..method.student import check_student_guidance
from ..video.files import VideoWriter
from ..video.frames import read_frames
from ..video.joining import frames_in, join_parts, tags_of
from ..video.whole import is_cut_short
from .beside import Behind, read_ahead
from .chain import Progress, embed_for_both, no_progress
from .memory import Load, check_host_memory, check_memory
from .offloading import choose_offload
from .stream import go_on_refining
from .stretches import Stretch, Task, VideoJob, discard, known

PART_FRAMES = 96  # of a part; the first of a stretch has one more, so that all end with a chunk of the decoder
_AHEAD, _BEHIND = 16, 2  # frames read ahead; pieces of 8 or 9 frames that wait to be written
_BUDGETS = "budgets.json"
_PATIENCE = 60  # seconds in which a process that others gave up ends


class Refiner:
    """Refines stretches of videos with models that are loaded once.

    Args:
        models: the text encoder, Stage II and the VAE.
        choose: choose where they wait by what is free.
    """

    def __init__(self, models: ModelStore, *, choose: bool) -> None:
        self.models, self._choose = models, choose
        self._fits: Load | None = None
        self._embeds: dict[tuple[str, str], Tensor] = {}

    def fit(self, job: VideoJob) -> str:
        """Choose where the models wait; returns the choice in a line, "" if there is none.

        Raises:
            ValueError: a video that does not fit here; guidance on top of a student's own.
        """
        settings = job.settings
        check_student_guidance(self.models.student, settings.guidance_scale, settings.guide_student)
        check_host_memory(job.load)
        check_memory(self.models, job.load)
        line = choose_offload(self.models, job.load) if self._choose else ""
        self._fits = job.load
        return line

    def refine(self, task: Task, progress: Progress = no_progress) -> None:
        """Refine a stretch, or go on with it, into parts that are kept.

        Raises:
            ValueError: a video that does not fit here; frames that cannot be read.
            OSError: a full disk. What is finished is kept.
        """
        job = task.job
        if _Parts(job, task.stretch).finished:
            return
        if job.load != self._fits:
            self.fit(job)
        embeds = self._embedded(job, progress)[task.prompt]
        with _alone_with(task):
            parts = _Parts(job, task.stretch)  # others may have gone on with it meanwhile
            if not parts.finished:
                _refine_stretch(self.models, task, parts, embeds, progress)

    def _embedded(self, job: VideoJob, progress: Progress) -> dict[str, Tensor]:
        """``[1, 226, D]`` of each of a job's prompts with the motion prefix."""
        motion = job.settings.motion
        for prompt in job.prompts:
            if (prompt, motion) not in self._embeds:
                self._embeds[prompt, motion] = embed_for_both(self.models, [prompt], motion, progress)[1]
        if self.models.offload == "disk":
            self.models.offload = "cpu"  # Stage II and the VAE take turns for every window: loading each anew is no way
        return {prompt: self._embeds[prompt, motion] for prompt in job.prompts}


class Workers(Protocol):
    """Who refines stretches: this process, or a cluster.

    Attributes:
        models: what their models are, for the record.
    """

    models: dict[str, str]

    def fit(self, job: VideoJob) -> list[str]:
        """As :meth:`Refiner.fit`."""
        ...

    def refine(self, tasks: Iterable[Task], progress: Progress) -> Iterator[tuple[Task, ValueError | None]]:
        """Refine stretches; each comes when it is finished, with what is wrong with it, if something is."""
        ...


class Here:
    """This process as the only one of :class:`Workers`."""

    def __init__(self, refiner: Refiner) -> None:
        self._refiner = refiner
        self.models = refiner.models.describe()

    def fit(self, job: VideoJob) -> list[str]:
        return [line for line in (self._refiner.fit(job),) if line]

    def refine(self, tasks: Iterable[Task], progress: Progress) -> Iterator[tuple[Task, ValueError | None]]:
        for task in tasks:
            try:
                self._refiner.refine(task, progress)
            except ValueError as error:
                yield task, error
            else:
                yield task, None


@contextmanager
def _alone_with(task: Task) -> Iterator[None]:
    """Inside, no other process works at the stretch: one that was given up, say, and is still there.

    Raises:
        ValueError: one does, and does not end.
    """
    for _ in range(_PATIENCE):
        with claimed(task.job.folder / f"stretch-{task.number:05d}") as mine:
            if mine:
                yield
                return
        time.sleep(1)
    raise ValueError(f"Another process is at {task.job.output} at this moment. Wait until it ends, and try again.")


def join(job: VideoJob, stretches: Sequence[Stretch]) -> None:
    """Write a video of the parts of all its stretches, which are finished, and remove these."""
    files = [path for stretch in stretches for path in _Parts(job, stretch).files]
    metadata = {**tags_of(job.source.path), "comment": "\n".join(job.prompts)}
    metadata["flashvideo"] = json.dumps(job.description)
    join_parts(files, job.output, _written_rate(job), metadata, sound=job.source.path, start=job.source.start)
    discard(job)


def _written_rate(job: VideoJob) -> Fraction:
    return job.source.rate.limit_denominator(1001)


def _refine_stretch(models: ModelStore, task: Task, parts: _Parts, prompt_embeds: Tensor, progress: Progress) -> None:
    job, stretch, source = task.job, task.stretch, task.job.source
    length = None if task.is_last else stretch.last - stretch.first  # there may be more frames than a file tells

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
        _of_stretch(progress, task),
        total=stretch.last - stretch.first,
        first_latent=stretch.latent,
        swap=models.offload != "none",
        budgets=job.folder / _BUDGETS,
        longest=max(each.last - each.first for each in task.stretches),
    )
    with closing(stream), parts:
        with Behind(_BEHIND) as writing:
            for piece in stream:
                writing.do(partial(parts.write, piece))
        parts.end()
    shutil.rmtree(latents, ignore_errors=True)


def _of_stretch(progress: Progress, task: Task) -> Progress:
    number = f" {task.number + 1}/{len(task.stretches)}" if len(task.stretches) > 1 else ""
    return lambda what, done, total: progress(f"{what}{number}", done, total)


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
            end = known(self._mark.read_text(encoding="utf-8"))
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
