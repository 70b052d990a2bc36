"""Files that an earlier run left: if they are those of this one, the same command goes on from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.checksums import DamagedFileError
from ..checkpoints.outputs import check_writable
from ..video.files import read_metadata
from .jobs import Job, Wanted, is_whole
from .record import Record, load_record


def is_begun(jobs: Sequence[Job], wanted: Wanted, *, preview: bool = True) -> bool:
    """Whether an earlier run left files of these names, but did not end.

    Args:
        preview: whether the run writes the previews too.

    Raises:
        ValueError: nothing is left to be done, or a video is there without what is written before it.
    """
    unfinished = [job for job in jobs if not job.finished(wanted)]
    for job in unfinished or jobs:
        last = job.outputs.video if wanted.final else job.outputs.preview_video
        goes_on = job.untidy(wanted) or wanted.damaged(job.outputs)
        if not unfinished or (wanted.final and not goes_on):
            check_writable(last, overwrite=False)
    return any(path.exists() for job in jobs for path in wanted.files(job.outputs, preview=preview))


def check_same_run(
    job: Job, wanted: Wanted, fps: float, models: dict[str, str], *, start: Record | None = None
) -> None:
    """Raise ValueError for a file of the job's names that another run wrote. Damaged files are made again.

    Args:
        fps, models: what this run's records say.
        start: what the run begins with, if that is a file; else it makes a preview.
    """
    outputs, expected, made_again = job.outputs, _Expected(job, fps, models), False
    if start is None:
        if outputs.preview.exists():
            start = expected.record(outputs.preview, "preview")
            made_again = start is None
        if outputs.preview_video.exists():
            expected.video(outputs.preview_video, "preview")
    if wanted.degraded and outputs.degraded.exists():
        expected.record(outputs.degraded, "degraded")
    if wanted.joint and outputs.joint.exists():
        expected.video(outputs.joint, "refined")
    if wanted.final and outputs.video.exists():
        expected.video(outputs.video, "refined")
    if wanted.final and outputs.refined.exists() and not _goes_back_to(outputs.refined, expected, start, made_again):
        raise ValueError(
            f"{outputs.refined} is left from an earlier run: `flashvideo decode` makes a video of it. "
            "Decode it, remove it, or pass --overwrite."
        )


def check_kept(job: Job, wanted: Wanted, fps: float, models: dict[str, str]) -> None:
    """As :func:`check_same_run`; of a finished job only the video is looked at, so that thousands take seconds."""
    if not job.finished(wanted):
        check_same_run(job, wanted, fps, models)
    elif wanted.final:
        _Expected(job, fps, models).video(job.outputs.video, "refined")
    else:
        _Expected(job, fps, models).video(job.outputs.preview_video, "preview")


def _goes_back_to(refined: Path, expected: _Expected, start: Record | None, made_again: bool) -> bool:
    """Whether refined latents were made from ``start``, with the expected settings; a preview that is ``made_again``
    from the same settings and weights will be the same."""
    try:
        record = expected.record(refined, "refined")
    except ValueError:
        return False
    if record is None or made_again:  # a damaged file is made again, too
        return True
    if start is None or start.stage1_latents is None or record.stage1_latents is None:
        return False
    same = ((record.stage1_latents, start.stage1_latents), (record.stage2_embeds, start.stage2_embeds))
    return all(torch.equal(left, right) for left, right in same)


class _Expected:
    """What the files of a job say of themselves."""

    def __init__(self, job: Job, fps: float, models: dict[str, str]) -> None:
        self._job, self._fps, self._models = job, fps, models

    def record(self, path: Path, content: str) -> Record | None:
        """The record of a file, if it is the job's; None of a damaged one."""
        try:
            record = load_record(path)
        except DamagedFileError:
            return None
        except ValueError as error:
            raise _kept(path, str(error)) from error
        self._compare(path, record.description(), content)
        return record

    def video(self, path: Path, content: str) -> None:
        """Raise ValueError unless a video is the job's, or cut short."""
        if not is_whole(path):
            return
        try:
            described = json.loads(read_metadata(path).get("flashvideo", "{}"))
        except (ValueError, RecursionError) as error:
            raise _kept(path, "it cannot be read") from error
        self._compare(path, described, content)

    def _compare(self, path: Path, described: Any, content: str) -> None:
        job = self._job
        expected = {
            "content": content,
            "prompt": job.prompt,
            "fps": self._fps,
            "noise_step": job.stage2.noise_step if content == "degraded" else None,
            "stage1": job.stage1.to_dict(),
            "stage2": job.stage2.to_dict(),
            "models": self._models,
        }
        values = described if isinstance(described, dict) else {}
        other = [name for name, value in expected.items() if values.get(name) != value]
        if other:
            raise _kept(path, f"another run wrote it, with other {', '.join(other)}")


def _kept(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} exists already and is kept ({reason}). Choose another name, or allow it with --overwrite."
    )
