"""What a run writes and where: one prompt, several seeds, or a file of prompts spread over processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..checkpoints.checksums import DamagedFileError
from ..checkpoints.files import open_weights
from ..checkpoints.locks import claimed
from ..checkpoints.outputs import check_room, check_writable
from ..method.checks import check_positive
from ..tensors.sizes import SPATIAL_FACTOR
from ..video.files import check_output
from ..video.whole import is_cut_short
from .prompts import MAX_SAMPLES, SampledPrompt
from .record import is_interim
from .settings import MAX_SEED, Stage1Settings, Stage2Settings

MAX_JOBS = 100_000  # videos of one run: each takes a look at the disk before work, and memory
_PIXELS_A_BYTE = 4  # of H.264 at the authors' quality, rather too few
_RANK_NAMES = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")  # torchrun, then MPI's kinds
_SIZE_NAMES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


@dataclass(frozen=True)
class Outputs:
    """Files of one video, all beside each other unless there is a folder for what is not the video.

    Attributes:
        video: the video.
        beside: folder of all others; None: the video's.
        stem: that the others' names begin with; "": the video's.
    """

    video: Path
    beside: Path | None = None
    stem: str = ""

    @property
    def namesake(self) -> Path:
        """What all of them are named after: whoever has claimed it writes them, a draft or the video."""
        return self.video.with_stem(self.stem) if self.stem else self.video

    def drafted(self) -> Outputs:
        """The same with a draft in the video's place, whose name says so."""
        stem = self.video.stem
        return replace(self, video=self.video.with_name(f"{stem}.draft{self.video.suffix}"), stem=stem)

    def _sibling(self, ending: str) -> Path:
        return (self.beside or self.video.parent) / ((self.stem or self.video.stem) + ending)

    @property
    def preview_video(self) -> Path:
        return self._sibling(".preview.mp4")

    @property
    def preview(self) -> Path:
        return self._sibling(".preview.safetensors")

    @property
    def degraded(self) -> Path:
        return self._sibling(".degraded.safetensors")

    @property
    def refined(self) -> Path:
        return self._sibling(".refined.safetensors")

    @property
    def joint(self) -> Path:
        return self._sibling(".joint.mp4")


@dataclass(frozen=True)
class Job:
    """One video of one prompt and seed."""

    prompt: str
    stage1: Stage1Settings
    stage2: Stage2Settings
    outputs: Outputs

    def drafted(self) -> Job:
        """The same with a draft in the video's place."""
        return replace(self, outputs=self.outputs.drafted())

    def finished(self, wanted: Wanted) -> bool:
        """Whether all files that are wanted are there as a whole, and none that goes at the end."""
        return wanted.whole(self.outputs) and not self.untidy(wanted)

    def untidy(self, wanted: Wanted) -> bool:
        """Whether an earlier run ended between its video and the removal of the latents that it was made of."""
        return wanted.final and not wanted.refined and is_interim(self.outputs.refined)

    def bytes_on_disk(self, wanted: Wanted) -> int:
        """About what the job's files take, refined latents included, which lie there until they are decoded."""
        stage1, stage2 = self.stage1, self.stage2
        latents = 4 * math.prod(stage1.latent_shape)
        pixels = stage1.num_frames * stage1.height * stage1.width
        if wanted.final:
            latents += (1 + wanted.degraded) * self.largest_file(wanted)
            pixels += (1 + wanted.joint) * stage1.num_frames * stage2.height * stage2.width
        return latents + pixels // _PIXELS_A_BYTE

    def largest_file(self, wanted: Wanted) -> int:
        """Bytes that the largest of the job's files takes at least: its latents."""
        channels, frames, height, width = self.stage1.latent_shape[1:]
        if wanted.final:
            height, width = self.stage2.height // SPATIAL_FACTOR, self.stage2.width // SPATIAL_FACTOR
        return 4 * channels * frames * height * width


@dataclass(frozen=True)
class Wanted:
    """Which files a run is to write; with ``draft`` the video is the draft decoder's."""

    final: bool = True
    joint: bool = False
    degraded: bool = False
    refined: bool = False
    draft: bool = False

    def files(self, outputs: Outputs, *, preview: bool = True) -> list[Path]:
        """All that is written, in this order; the refined latents always, since they lie there to be decoded."""
        files = [outputs.preview, outputs.preview_video] if preview else []
        files += [outputs.degraded] if self.degraded else []
        files += [outputs.refined] if self.final else []
        files += [outputs.joint] if self.joint else []
        return files + ([outputs.video] if self.final else [])

    def whole(self, outputs: Outputs) -> bool:
        """Whether all files that a run is for are there as a whole."""
        files = [outputs.video] if self.final else [outputs.preview, outputs.preview_video]
        files += [outputs.joint] if self.joint else []
        files += [outputs.degraded] if self.degraded else []
        files += [outputs.refined] if self.refined else []
        return all(map(is_whole, files))

    def damaged(self, outputs: Outputs) -> bool:
        """Whether one of the files is there, but cut short."""
        return any(path.exists() and not is_whole(path) for path in self.files(outputs))

    def check(self, outputs: Outputs, *, preview: bool = True) -> None:
        """Raise ValueError if one of the files cannot be written; one that exists can be replaced."""
        check_output(outputs.video, overwrite=True)
        for path in self.files(outputs, preview=preview):
            check_writable(path, overwrite=True)


def is_whole(path: Path) -> bool:
    """Whether a file is there, and not empty or cut short; anything that is no file of ours counts as whole."""
    if not path.is_file():
        return path.exists()
    if path.suffix != ".safetensors":
        return not is_cut_short(path)
    try:
        open_weights(path)
    except DamagedFileError:
        return False
    except ValueError:
        return True
    return True


@contextlib.contextmanager
def alone_with(output: Path) -> Iterator[None]:
    """Inside, no other process makes the videos that are named after ``output``.

    Raises:
        ValueError: one does at this moment.
    """
    with claimed(output) as mine:
        if not mine:
            raise ValueError(
                f"Another process is writing {output} at this moment. Wait until it ends, or choose another name."
            )
        yield


def check_count(num_previews: int, first_seed: int, prompts: int = 1) -> None:
    """Raise ValueError for more videos than a run can hold in mind, or more seeds than there are.

    Args:
        num_previews: for each prompt, ``--num-previews``.
        first_seed: the others follow it.
        prompts: how many there are.
    """
    check_positive("--num-previews", num_previews)
    if num_previews * prompts > MAX_JOBS:
        of_prompts = f" of {prompts} prompts" if prompts > 1 else ""
        raise ValueError(
            f"--num-previews {num_previews}{of_prompts} asks for too many videos; expected at most {MAX_JOBS} in one "
            "run. Ask for fewer, and go on from another --seed."
        )
    if first_seed + num_previews - 1 > MAX_SEED:
        raise ValueError(
            f"--num-previews {num_previews} from seed {first_seed} on goes beyond the last seed, {MAX_SEED}. Begin "
            "with a smaller --seed."
        )


def check_jobs(jobs: list[Job], wanted: Wanted, *, preview: bool = True) -> None:
    """Raise ValueError unless all files of all jobs can be written or replaced, the disk's room included."""
    for job in jobs:
        wanted.check(job.outputs, preview=preview)
    first = jobs[0]
    latents = first.outputs.refined if wanted.final else first.outputs.preview
    check_writable(latents, overwrite=True, size=first.largest_file(wanted))
    check_room(latents.parent, sum(job.bytes_on_disk(wanted) for job in jobs), "the run")


def seed_jobs(prompt: str, stage1: Stage1Settings, stage2: Stage2Settings, output: Path, count: int) -> list[Job]:
    """Jobs for ``count`` seeds from ``stage1.seed`` on: the first is ``output``, the others name their seed."""
    jobs = []
    for seed in range(stage1.seed, stage1.seed + count):
        path = output if seed == stage1.seed else output.with_name(f"{output.stem}.seed{seed}{output.suffix}")
        jobs.append(Job(prompt, replace(stage1, seed=seed), stage2.with_seed(seed), Outputs(path)))
    return jobs


def prompt_jobs(
    prompts: list[str], stage1: Stage1Settings, stage2: Stage2Settings, folder: Path, count: int, models: dict[str, str]
) -> list[Job]:
    """Jobs of all prompts. A file's name says which line, prompt and settings it is of, so that a changed prompt or
    setting makes a new file and a finished one can be told from it.
    """
    jobs = []
    for index, prompt in enumerate(prompts):
        identity = json.dumps([prompt, stage1.to_dict(), stage2.to_dict(), models], sort_keys=True)
        digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
        slug = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].strip("-") or "prompt"
        jobs += seed_jobs(prompt, stage1, stage2, folder / f"{index:04d}-{slug}-{digest}.mp4", count)
    return jobs


def sample_jobs(
    prompts: Sequence[SampledPrompt], stage1: Stage1Settings, stage2: Stage2Settings, folder: Path
) -> list[list[Job]]:
    """Jobs of a benchmark's prompts, all samples of a prompt together: ``{name}-{index}.mp4`` and nothing else in the
    folder, since the benchmark takes all that lies there; previews are in another, beside it. Sample i of the prompt at
    position p of its file has the seed ``stage1.seed + 100 p + i``.

    Raises:
        ValueError: more videos than a run can hold in mind, or more seeds than there are.
    """
    if (count := sum(prompt.samples for prompt in prompts)) > MAX_JOBS:
        raise ValueError(f"The prompts ask for {count} videos; expected at most {MAX_JOBS}. Divide the file.")
    entries = max(prompt.position for prompt in prompts) + 1
    if stage1.seed + MAX_SAMPLES * entries - 1 > MAX_SEED:
        raise ValueError(
            f"{MAX_SAMPLES} seeds for each of {entries} prompts from {stage1.seed} on go beyond the last seed, "
            f"{MAX_SEED}. Begin with a smaller --seed."
        )
    beside = previews_folder(folder)
    return [
        [
            Job(prompt.text, replace(stage1, seed=seed), stage2.with_seed(seed), Outputs(folder / name, beside))
            for index in range(prompt.samples)
            for seed, name in [(stage1.seed + MAX_SAMPLES * prompt.position + index, f"{prompt.name}-{index}.mp4")]
        ]
        for prompt in prompts
    ]


def previews_folder(folder: Path) -> Path:
    """Where previews and latents are whose videos have a folder for themselves."""
    named = folder.resolve() if folder.name in ("", "..") else folder  # "." has no name to add to
    return named.with_name(f"{named.name}-previews")


def this_process() -> tuple[int, int]:
    """(rank, number) of the processes that ``accelerate launch``, ``torchrun`` or ``mpirun`` started; else (0, 1).

    Raises:
        ValueError: environment variables that make no sense.
    """
    rank, processes = (
        next((os.environ[name] for name in names if os.environ.get(name)), default)
        for names, default in ((_RANK_NAMES, "0"), (_SIZE_NAMES, "1"))
    )
    if not (rank.isdecimal() and processes.isdecimal() and int(rank) < int(processes)):
        raise ValueError(
            f"The environment says that this is process {rank} of {processes}; expected RANK from 0 to WORLD_SIZE - 1. "
            "Set both, or neither."
        )
    return int(rank), int(processes)
