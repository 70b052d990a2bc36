"""``flashvideo refine`` of video files: one, several, or a folder of them."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..checkpoints.file_kinds import WEIGHTS, file_kind
from ..checkpoints.locks import claimed
from ..checkpoints.outputs import check_folder, make_folder
from ..checkpoints.paths import expanded
from ..method.checks import check_text
from ..method.windows import TRAINED_WINDOWS
from ..runs.jobs import alone_with, this_process
from ..runs.prompts import read_prompts
from ..runs.refining import Here, Refiner, Workers, join
from ..runs.settings import Stage2Settings
from ..runs.stretches import Task, VideoJob, cuts_of, discard, plan_stretches, stretch_words
from ..video.color_match import cells_of_a_latent
from ..video.files import VIDEO_SUFFIXES, read_metadata
from ..video.frames import Shown, look_at
from ..video.resize import resize_words, stretching
from .options import model_store, settings_of_models, stage2_settings
from .progress import Bars, say

log = logging.getLogger(__name__)

TIME_WINDOWS = f"{TRAINED_WINDOWS.length},{TRAINED_WINDOWS.overlap}"
_SUFFIXES = (*VIDEO_SUFFIXES, ".avi", ".flv", ".gif", ".m4v", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv")
_OF_PREVIEWS = ("draft", "joint", "keep_degraded", "keep_latents", "allow_other_noise_step")
_VISIBLE = 1.1  # stretching that everyone sees


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("videos")
    group.add_argument(
        "--prompt", metavar="TEXT", help="what it shows (default: what the file says, if this program wrote it)"
    )
    group.add_argument(
        "--prompts", type=Path, metavar="FILE", help="one prompt a line for each stretch between cuts, instead"
    )
    group.add_argument(
        "--cuts",
        default="auto",
        metavar="auto|off|FRAME,...",
        help="where scenes change: each is refined for itself (default: auto, they are looked for)",
    )
    group.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="spread videos and scenes over a Ray cluster that shares the folder: auto, local, HOST:PORT or "
        "ray://HOST:PORT, as Ray has it",
    )


def is_preview(path: Path) -> bool:
    """Whether a file is one of latents, or of weights, by its name or its first bytes."""
    if path.suffix.lower() == ".safetensors":
        return True
    try:
        return path.is_file() and file_kind(path).name in WEIGHTS
    except OSError:  # whoever opens it says why
        return False


def check_no_video_options(options: argparse.Namespace) -> None:
    """Raise ValueError for options that a preview has no use for."""
    for name, usual in (("prompt", None), ("prompts", None), ("cuts", "auto"), ("ray", None)):
        if getattr(options, name) != usual:
            raise ValueError(f"--{name} goes with videos; a preview holds its prompt, and is one scene.")


def run(options: argparse.Namespace) -> None:
    """Refine the videos that are named."""
    for name in _OF_PREVIEWS:
        if getattr(options, name):
            raise ValueError(f"--{name.replace('_', '-')} goes with previews (.preview.safetensors), not with videos.")
    if options.prompt is not None:
        check_text("the prompt", options.prompt)
        if not options.prompt.strip() or options.prompts is not None:
            raise ValueError("Give a prompt that is not empty, or a file of them with --prompts (one of the two).")
    if options.ray is not None and this_process()[1] > 1:
        raise ValueError("--ray spreads the work itself. Leave out accelerate launch, torchrun or mpirun.")
    cuts = cuts_of(options.cuts)
    sources, output = [expanded(path) for path in options.source], expanded(options.output)
    many = len(sources) > 1 or sources[0].is_dir()
    if many and (options.prompts is not None or not isinstance(cuts, str | None) or cuts == ()):
        if options.prompts is not None:
            raise ValueError("--prompts goes with one video: its stretches get a prompt each. Use --prompt for many.")
        if cuts:
            raise ValueError("--cuts with frame numbers goes with one video. Use auto or off for many.")
    files = _files(sources) if many else sources
    if not many:
        shown = look_at(files[0])
        with _workers(options, files, output.parent) as workers:
            refining = _Refining(options, cuts, workers)
            job = refining.job(shown, output)
            with alone_with(output), Bars() as bars:
                refining.refine(job, bars)
        return
    outputs = _outputs(files, output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file; with several videos the output is a folder.")
    if not output.parent.is_dir():
        raise ValueError(f"The folder {output.parent} does not exist. Make it first, or choose another place.")
    make_folder(output)
    with _workers(options, files, output) as workers, Bars() as bars:
        _Many(_Refining(options, cuts, workers), files, outputs, bars).refine()


def _refiner(options: argparse.Namespace) -> Refiner:
    return Refiner(model_store(options, ("text", "stage2", "vae")), choose=options.offload == "auto")


@contextmanager
def _workers(options: argparse.Namespace, files: Sequence[Path], folder: Path) -> Iterator[Workers]:
    """This process, or those of the cluster that ``--ray`` names."""
    if options.ray is None:
        yield Here(_refiner(options))
        return
    from ..runs.cluster import open_cluster

    check_folder(folder)
    make = partial(_refiner, options)
    with open_cluster(options.ray, make, device=options.device, seen=files, folder=folder) as workers:
        yield workers


@dataclass
class _Refining:
    options: argparse.Namespace
    cuts: str | tuple[int, ...]
    workers: Workers

    def job(self, shown: Shown, output: Path) -> VideoJob:
        """What is to be done of a video.

        Raises:
            ValueError: settings that do not fit it, no prompt.
        """
        options, shape = self.options, (shown.height, shown.width)
        base = Stage2Settings(time_windows=TIME_WINDOWS)
        sized = stage2_settings(options, settings_of_models(options, base, shape), shape)
        base = replace(base, match_colors=cells_of_a_latent(shape, (sized.height, sized.width)))
        settings = stage2_settings(options, settings_of_models(options, base, shape), shape)
        prompts = (options.prompt,) if options.prompt is not None else _prompts(options.prompts, shown.path)
        return VideoJob(shown, output, settings, prompts, self.cuts, self.workers.models)

    def refine(self, job: VideoJob, bars: Bars) -> None:
        """Refine a video, unless it is there."""
        tasks = self.tasks(job, bars)
        for _task, error in self.workers.refine(tasks, bars):
            if error is not None:
                raise error
        if tasks:
            self.join(tasks[0])

    def tasks(self, job: VideoJob, bars: Bars) -> list[Task]:
        """The stretches of a video; none if it is there.

        Raises:
            ValueError: a video that cannot be refined, or that is being refined.
        """
        overwrite = self.options.overwrite
        if job.finished and job.folder.exists() and not overwrite:  # ended just before its last act
            discard(job)
            say(f"video: {job.output}")
            return []
        if job.output.exists() and not overwrite:
            raise ValueError(
                f"{job.output} exists already and is kept. Choose another name, or allow it with --overwrite."
            )
        job.check(overwrite=overwrite)
        for line in self.workers.fit(job):
            say(line)
        _tell_resize((job.source.height, job.source.width), job.settings)
        stretches = plan_stretches(job, bars, overwrite=overwrite)
        if len(stretches) > 1:
            say(f"{stretch_words(stretches)} (--cuts off refines them as one)")
        return [Task(job, stretches, stretch.number) for stretch in stretches]

    def join(self, task: Task) -> None:
        """Write the video whose stretches are finished, of which ``task`` is one."""
        join(task.job, task.stretches)
        say(f"video: {task.job.output}")


@dataclass
class _Begun:
    """A video in work: what messages call it, the claim of its output, how many stretches are left."""

    name: str
    claim: ExitStack
    left: int


class _Many:
    """Several videos; one that cannot be refined leaves the others alone."""

    def __init__(self, refining: _Refining, files: list[Path], outputs: list[Path], bars: Bars) -> None:
        self._refining, self._files, self._outputs, self._bars = refining, files, outputs, bars
        self._begun: dict[Path, _Begun] = {}
        self._failed: list[str] = []

    def refine(self) -> None:
        """Refine all that are not there.

        Raises:
            ValueError: some that cannot be refined, when the others are done.
        """
        try:
            for task, error in self._refining.workers.refine(self._tasks(), self._bars):
                self._ended(task, error)
        finally:
            for begun in self._begun.values():
                begun.claim.close()
        if failed := self._failed:
            names = ", ".join(failed)
            raise ValueError(f"{len(failed)} of {len(self._files)} videos were not refined: {names}. See above.")

    def _tasks(self) -> Iterator[Task]:
        rank, processes = this_process()
        for position in range(rank, len(self._files), processes):
            for task in self._begin(f"[{position + 1}/{len(self._files)}]", position):
                if task.job.output in self._begun:  # else one of its stretches failed
                    yield task

    def _begin(self, number: str, position: int) -> list[Task]:
        file, output = self._files[position], self._outputs[position]
        with ExitStack() as claim:
            if not claim.enter_context(claimed(output)):
                say(f"{number} another process is at it: {output.name}")
                return []
            try:
                job = self._refining.job(look_at(file), output)
                if job.finished and not self._refining.options.overwrite:
                    discard(job)
                    say(f"{number} finished already: {output.name}")
                    return []
                say(f"{number} {file.name}")
                tasks = self._refining.tasks(job, self._bars)
            except ValueError as error:
                self._fail(number, file.name, error)
                return []
            self._begun[output] = _Begun(number, claim.pop_all(), len(tasks))
        return tasks

    def _ended(self, task: Task, error: ValueError | None) -> None:
        output = task.job.output
        if (begun := self._begun.get(output)) is None:  # another stretch of it failed
            return
        begun.left -= 1
        if error is None and begun.left:
            return
        del self._begun[output]
        with begun.claim:
            try:
                if error is not None:
                    raise error
                self._refining.join(task)
            except ValueError as failure:
                self._fail(begun.name, task.job.source.path.name, failure)

    def _fail(self, number: str, name: str, error: ValueError) -> None:
        log.error("%s %s", number, error)
        self._failed.append(name)


def _prompts(file: Path | None, video: Path) -> tuple[str, ...]:
    if file is not None:
        return tuple(read_prompts(expanded(file)))
    try:
        described = json.loads(read_metadata(video).get("flashvideo", "{}"))
    except (ValueError, RecursionError):
        described = {}
    prompt = described.get("prompt") if isinstance(described, dict) else None
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"{video} does not say what it shows. Describe it with --prompt, in 60 to 130 words.")
    return (prompt,)


def _files(sources: list[Path]) -> list[Path]:
    """The videos that are named, and those in folders that are."""
    files: list[Path] = []
    for source in sources:
        if is_preview(source):
            raise ValueError(f"{source} is a preview; previews are refined one by one. Give videos, or it alone.")
        found = [source]
        if source.is_dir():
            found = sorted(path for path in source.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
            if not found:
                raise ValueError(f"The folder {source} has no videos ({', '.join(_SUFFIXES)}).")
        files += found
    return files


def _outputs(files: list[Path], folder: Path) -> list[Path]:
    """Where the videos go: names as they are; other containers become ``.mp4``.

    Raises:
        ValueError: two of one name, or a video that would be written over itself.
    """
    outputs = [folder / (file.name if file.suffix.lower() in VIDEO_SUFFIXES else f"{file.stem}.mp4") for file in files]
    for file, output in zip(files, outputs, strict=True):
        if outputs.count(output) > 1:
            raise ValueError(f"Two videos would be written as {output}. Rename one, or refine them into two folders.")
        if output.resolve() == file.resolve():
            raise ValueError(f"{file} would be written over itself. Choose another folder for the output.")
    return outputs


def _tell_resize(shape: tuple[int, int], settings: Stage2Settings) -> None:
    """Say what becomes of the video's shape: a line, and a warning where it is stretched visibly."""
    change = resize_words(*shape, settings.height, settings.width, settings.resize)
    if settings.resize == "stretch" and stretching(*shape, settings.height, settings.width) > _VISIBLE:
        log.warning("%s Use --size x4, or --resize crop.", change)
    else:
        say(change)
