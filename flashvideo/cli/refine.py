"""``flashvideo refine`` of video files: one, several, or a folder of them."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..checkpoints.file_kinds import WEIGHTS, file_kind
from ..checkpoints.locks import claimed
from ..checkpoints.outputs import check_room, make_folder
from ..checkpoints.paths import expanded
from ..loading.model_store import ModelStore
from ..method.checks import check_text
from ..method.windows import TRAINED_WINDOWS
from ..runs import chain
from ..runs.jobs import alone_with, this_process
from ..runs.memory import Load, check_host_memory, check_memory
from ..runs.offloading import choose_offload
from ..runs.prompts import read_prompts
from ..runs.refining import VideoJob, discard, plan_stretches, refine_video
from ..runs.settings import Stage2Settings
from ..runs.stream import padded_frames
from ..tensors.sizes import video_frames
from ..video.color_match import cells_of_a_latent
from ..video.files import VIDEO_SUFFIXES, read_metadata
from ..video.frames import Shown, look_at
from ..video.resize import resize_words, stretching
from .options import check_student, model_store, settings_of_models, stage2_settings
from .progress import Bars, say

log = logging.getLogger(__name__)

TIME_WINDOWS = f"{TRAINED_WINDOWS.length},{TRAINED_WINDOWS.overlap}"
_SUFFIXES = (*VIDEO_SUFFIXES, ".avi", ".flv", ".gif", ".m4v", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv")
_OF_PREVIEWS = ("draft", "joint", "keep_degraded", "keep_latents", "allow_other_noise_step")
_PIXELS_A_BYTE = 4  # of H.264 at this quality, rather too few
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
    for name, usual in (("prompt", None), ("prompts", None), ("cuts", "auto")):
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
    cuts = _cuts(options.cuts)
    sources, output = [expanded(path) for path in options.source], expanded(options.output)
    many = len(sources) > 1 or sources[0].is_dir()
    if many and (options.prompts is not None or not isinstance(cuts, str | None) or cuts == ()):
        if options.prompts is not None:
            raise ValueError("--prompts goes with one video: its stretches get a prompt each. Use --prompt for many.")
        if cuts:
            raise ValueError("--cuts with frame numbers goes with one video. Use auto or off for many.")
    files = _files(sources) if many else sources
    outputs = _outputs(files, output) if many else [output]
    looked = [look_at(file) for file in files] if not many else []
    store = model_store(options, ("text", "stage2", "vae"))
    refining = _Refining(options, cuts, store)
    if not many:
        job = refining.job(looked[0], outputs[0])
        with alone_with(outputs[0]):
            refining.refine(job)
        return
    _refine_many(refining, files, outputs, output, options.overwrite)


def _refine_many(refining: _Refining, files: list[Path], outputs: list[Path], folder: Path, overwrite: bool) -> None:
    rank, processes = this_process()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; with several videos the output is a folder.")
    if not folder.parent.is_dir():
        raise ValueError(f"The folder {folder.parent} does not exist. Make it first, or choose another place.")
    make_folder(folder)
    failed = []
    for position in range(rank, len(files), processes):
        number = f"[{position + 1}/{len(files)}]"
        try:
            with claimed(outputs[position]) as mine:
                if not mine:
                    say(f"{number} another process is at it: {outputs[position].name}")
                    continue
                job = refining.job(look_at(files[position]), outputs[position])
                if job.finished and not overwrite:
                    discard(job)
                    say(f"{number} finished already: {outputs[position].name}")
                    continue
                say(f"{number} {files[position].name}")
                refining.refine(job)
        except ValueError as error:  # the others can be refined all the same
            log.error("%s %s", number, error)
            failed.append(files[position].name)
    if failed:
        raise ValueError(f"{len(failed)} of {len(files)} videos were not refined: {', '.join(failed)}. See above.")


@dataclass
class _Refining:
    options: argparse.Namespace
    cuts: str | tuple[int, ...]
    store: ModelStore

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
        check_student(self.store, settings)
        prompts = (options.prompt,) if options.prompt is not None else _prompts(options.prompts, shown.path)
        return VideoJob(shown, output, settings, prompts, self.cuts, self.store.describe())

    def refine(self, job: VideoJob) -> None:
        options, settings, source = self.options, job.settings, job.source
        if job.finished and job.folder.exists() and not options.overwrite:  # ended just before its last act
            discard(job)
            say(f"video: {job.output}")
            return
        if job.output.exists() and not options.overwrite:
            raise ValueError(
                f"{job.output} exists already and is kept. Choose another name, or allow it with --overwrite."
            )
        job.check(overwrite=options.overwrite)
        windows = settings.windows_in_time
        at_once = source.frames if windows is None else min(source.frames, video_frames(windows.length))
        load = Load(padded_frames(at_once), None, (settings.height, settings.width), encodes=True)
        load = load.with_windows(settings)
        check_host_memory(load)
        size = source.frames * settings.height * settings.width // _PIXELS_A_BYTE
        check_room(job.output.parent, 2 * size, "the run")
        check_memory(self.store, load)
        if options.offload == "auto" and (line := choose_offload(self.store, load)):
            say(line)
        _tell_resize((source.height, source.width), settings)
        with Bars() as bars:
            stretches = plan_stretches(job, bars, overwrite=options.overwrite)
            if len(stretches) > 1:
                begin = ", ".join(str(stretch.first) for stretch in stretches[1:])
                say(f"{len(stretches)} stretches, with cuts before the frames {begin} (--cuts off refines them as one)")
            embeds = self._embeds(job, bars)
            swap = self.store.offload != "none"
            refine_video(self.store, job, stretches, embeds, bars, swap=swap)
        say(f"video: {job.output}")

    def _embeds(self, job: VideoJob, bars: Bars) -> Callable[[str], Tensor]:
        motion = job.settings.motion
        known = {prompt: chain.embed_for_both(self.store, [prompt], motion, bars)[1] for prompt in set(job.prompts)}
        if self.store.offload == "disk":
            self.store.offload = (
                "cpu"  # Stage II and the VAE take turns for every window: loading them each time is no way
            )
        return known.__getitem__


def _cuts(text: str) -> str | tuple[int, ...]:
    """What ``--cuts`` asks for.

    Raises:
        ValueError: something else.
    """
    if text in ("auto", "off"):
        return "auto" if text == "auto" else ()
    parts = text.split(",")
    if not all(part.isdecimal() and len(part) < 10 for part in parts):
        raise ValueError(f"--cuts is {text[:60]!r}; expected auto, off, or numbers of frames such as 120,455.")
    return tuple(map(int, parts))


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
