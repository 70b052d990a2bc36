"""``flashvideo calibrate``: which noise step suits a video, by refining a few of its frames."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.metadata import STAGES
from ..checkpoints.outputs import check_room, check_writable, make_folder
from ..checkpoints.paths import expanded
from ..loading.model_store import ModelStore
from ..loading.text import stage2_prompt
from ..method.checks import check_text
from ..report.calibration import LOSS, Calibration, Tried, calibrate, check_calibration, strip
from ..runs import chain
from ..runs.memory import Load, check_host_memory, check_memory
from ..runs.offloading import choose_offload
from ..runs.record import load_record
from ..runs.settings import Stage2Settings
from ..scores.page import Entry, write_page
from ..tensors.sizes import TEMPORAL_FACTOR, latent_frames, video_frames
from ..video.files import open_video, write_image, write_video
from ..video.reading import Pictures, as_video
from .options import OptionGroup, add_model_options, check_student, model_store, settings_of_models
from .progress import Bars, say

NOISE_STEPS = (100, 200, 350, 500, 675)
STRIP, SOURCE = "strip.png", "source.mp4"
_ON_PAGE = 6  # videos
_PIXELS_A_BYTE = 2  # of H.264 at the authors' quality, and again in the page
_LEFT_OUT = ("noise-step", "rounding", "motion", "posterior-mean", "match-colors", "keep", "seed")
_STAGE2 = OptionGroup(STAGES["stage2"], Stage2Settings, leave_out=_LEFT_OUT)


def add_calibrate(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Refines a few frames with several noise steps and measures each against the source: how alike they stay at "
        "the source's own size, how sharp they become, how they flicker. Suggests the largest step whose likeness is "
        "near the best; docs/fidelity.md says what it was tried on."
    )
    parser.add_argument("input", type=Path, help="a .preview.safetensors, or a video")
    parser.add_argument("--prompt", metavar="TEXT", help="what a video shows; a preview holds its own")
    parser.add_argument(
        "--noise-steps",
        default=",".join(map(str, NOISE_STEPS)),
        metavar="STEP,...",
        help="to be tried, rising (default: %(default)s)",
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=17,
        metavar="N",
        help="of the stretch, 4n + 1 (default: 17)",
    )
    parser.add_argument("--start", type=float, default=0.0, metavar="SECONDS", help="of the stretch (default: 0)")
    parser.add_argument(
        "--loss",
        type=float,
        default=LOSS,
        metavar="DB",
        help="of likeness that the suggested step may lose against the best (default: %(default)s)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="of pictures: a strip, videos, a page of up to six",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace pictures that are there")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _STAGE2.add_to(parser, None, "as the preview was made for, else as in generate")
    add_model_options(parser)
    parser.set_defaults(run=_run)


@dataclass(frozen=True)
class _Stretch:
    """What is refined: ``[1, 3, F, h, w]``, its rate, its prompt's embeddings and Stage II's settings."""

    video: Tensor
    fps: float
    embeds: Tensor
    settings: Stage2Settings


def _run(options: argparse.Namespace) -> None:
    steps = _steps(options.noise_steps)
    check_calibration(steps, options.loss)
    latent_frames(options.frames)
    if not options.start >= 0:
        raise ValueError(f"--start is {options.start}; expected seconds, 0 or more.")
    folder = None if options.output is None else _Folder(expanded(options.output), options.overwrite)
    of_latents = options.input.suffix.lower() == ".safetensors"
    with Bars() as bars:
        stretch, store = (_of_preview if of_latents else _of_video)(options, bars)
        settings, (_, _, frames, *_) = stretch.settings, stretch.video.shape
        if folder is not None:
            folder.check(steps, frames * settings.height * settings.width)
        calibration = calibrate(
            store,
            stretch.video,
            stretch.embeds,
            settings,
            steps,
            fps=stretch.fps,
            loss=options.loss,
            progress=bars,
            refined=None if folder is None else lambda tried, video: folder.add(tried, video, stretch),
        )
        if folder is not None:
            folder.finish(stretch, bars)
    if options.json:
        size = {"width": settings.width, "height": settings.height, "frames": frames}
        say(json.dumps({**calibration.to_dict(), "video": size}, allow_nan=False))
    else:
        say("\n".join(_table(calibration, settings, frames)))
    if folder is not None and not options.json:
        say(f"pictures: {folder.path}")


def _steps(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and len(word) < 5 for word in words):
        raise ValueError(f"--noise-steps is {text!r:.80}; expected whole numbers with commas between: 100,200,350.")
    return [int(word) for word in words]


def _of_preview(options: argparse.Namespace, bars: Bars) -> tuple[_Stretch, ModelStore]:
    record = load_record(options.input)
    if record.content != "preview":
        raise ValueError(f"{options.input} holds {record.content} latents; give the .preview.safetensors beside it.")
    if options.prompt is not None:
        raise ValueError("--prompt goes with a video; a preview holds its own.")
    shape = record.stage1.height, record.stage1.width
    settings = _STAGE2.settings(options, record.stage2, shape)
    whole = video_frames(record.latents.shape[2])
    first = round(options.start * record.fps)
    frames = _fitting(options, whole - first)
    store = _store(options, settings, frames, shape, ("stage2", "vae"))
    store.check_text_width(record.stage2_embeds.shape[-1], str(options.input))
    video = chain.decode(store, record.latents, bars)[:, :, first : first + frames]
    return _Stretch(video, record.fps, record.stage2_embeds, settings), store


def _of_video(options: argparse.Namespace, bars: Bars) -> tuple[_Stretch, ModelStore]:
    if options.prompt is None or not options.prompt.strip():
        raise ValueError("Say with --prompt what the video shows: Stage II paints by it.")
    check_text("the prompt", options.prompt)
    video, fps = _read(options.input, options.start, options.frames)
    shape = video.shape[3], video.shape[4]
    settings = _STAGE2.settings(options, settings_of_models(options, Stage2Settings(), shape), shape)
    frames = _fitting(options, video.shape[2])
    store = _store(options, settings, frames, shape, ("text", "stage2", "vae"))
    embeds = chain.embed_prompts(store, [stage2_prompt(options.prompt, settings.motion)])
    return _Stretch(video[:, :, :frames], fps, embeds, settings), store


def _read(path: Path, start: float, frames: int) -> tuple[Tensor, float]:
    """At most so many frames from a time on, ``[1, 3, F, h, w]``, and their rate."""
    from av.error import FFmpegError

    read: list[Tensor] = []
    with open_video(path) as container:
        pictures = Pictures(container)
        try:
            for picture in pictures:
                if picture.time - pictures.first >= Fraction(start):
                    read.append(as_video(picture.pixels()))
                if len(read) == frames:
                    break
        except FFmpegError as error:
            raise ValueError(f"{path} is damaged ({error.strerror}). Copy or download it again.") from error
        rate = float(pictures.timing().average(pictures.rates)) if read else 0.0
    if not read:
        raise ValueError(f"{path} has no frames from {start:g} s on. Choose an earlier --start, or another video.")
    if len({frame.shape for frame in read}) > 1:
        raise ValueError(f"The frame size of {path} changes on the way. Re-encode it to one size.")
    return torch.stack(read, dim=1)[None], rate


def _fitting(options: argparse.Namespace, there: int) -> int:
    """How many frames are refined of so many that are there, 4n + 1."""
    if there < 1:
        raise ValueError(f"--start {options.start:g} lies behind the end of {options.input}. Choose an earlier one.")
    frames = min(options.frames, (there - 1) // TEMPORAL_FACTOR * TEMPORAL_FACTOR + 1)
    if frames < options.frames:
        _tell(options, f"{options.input} has {there} frames from there on: {frames} are refined.")
    return int(frames)


def _tell(options: argparse.Namespace, line: str) -> None:
    """Say it to people; what programs read is one object."""
    if not options.json:
        say(line)


def _store(
    options: argparse.Namespace, settings: Stage2Settings, frames: int, shape: tuple[int, int], parts: tuple[str, ...]
) -> ModelStore:
    load = Load(frames, shape, (settings.height, settings.width), encodes=True, time_windows=settings.windows_in_time)
    check_host_memory(load)
    store = model_store(options, parts)
    check_student(store, settings)
    check_memory(store, load)
    if options.offload == "auto" and (line := choose_offload(store, load)):
        _tell(options, line)
    return store


def _table(calibration: Calibration, settings: Stage2Settings, frames: int) -> Iterator[str]:
    yield f"{frames} frames at {settings.width}x{settings.height}, against the source:"
    yield "  noise step  likeness, dB  sharpness  flicker"
    best, suggested = max(one.likeness for one in calibration.tried), calibration.suggested
    for one in calibration.tried:
        told = one.to_dict()
        mark = "*" if one.noise_step == suggested else " "
        yield (
            f"{mark} {one.noise_step:>10}  {one.likeness:>12.2f}  {told['sharpness']:>9.3f}  {told['flicker']:>7.2f}"
        )
    yield (
        f"--noise-step {suggested}: the largest of these whose likeness is at most {calibration.loss:g} dB below the "
        f"best, {best:.2f} dB. {calibration.remark}".rstrip()
    )


class _Folder:
    """Where pictures go: a strip, the source's stretch, a video for each step, and the page."""

    def __init__(self, path: Path, overwrite: bool) -> None:
        self.path, self._overwrite = path, overwrite
        self._tried: dict[Path, Tried] = {}
        self._frames: list[Tensor] = []

    def check(self, steps: list[int], pixels: int) -> None:
        """Raise ValueError unless everything can be written."""
        make_folder(self.path)
        for name in (STRIP, SOURCE, "index.html", *(self._name(step) for step in steps)):
            check_writable(self.path / name, overwrite=self._overwrite)
        check_room(self.path, len(steps) * pixels // _PIXELS_A_BYTE, "the pictures")

    @staticmethod
    def _name(step: int) -> str:
        return f"noise-step-{step}.mp4"

    def add(self, tried: Tried, video: Tensor, stretch: _Stretch) -> None:
        path = write_video(self.path / self._name(tried.noise_step), video[0], stretch.fps, overwrite=self._overwrite)
        self._tried[path] = tried
        self._frames.append(video[0, :, video.shape[2] // 2])

    def finish(self, stretch: _Stretch, bars: Bars) -> None:
        source = stretch.video[0]
        middle = strip(source[:, source.shape[1] // 2], self._frames)
        write_image(self.path / STRIP, middle, overwrite=self._overwrite)
        path = write_video(self.path / SOURCE, source, stretch.fps, overwrite=self._overwrite)
        if len(self._tried) > _ON_PAGE:
            return  # the strip has all steps
        write_page(
            self.path,
            [Entry(each, f"noise step {tried.noise_step}") for each, tried in self._tried.items()],
            source=Entry(path),
            scores=lambda each: self._tried[each].scores.to_dict(),
            overwrite=self._overwrite,
            progress=bars,
        )
