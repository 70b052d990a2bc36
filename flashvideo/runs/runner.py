"""Jobs to files: the preview, Stage II's start, the refined latents, the video; resuming from what is there."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..video.files import JOINT_CRF, VideoWriter, side_by_side
from . import chain
from .jobs import Job, Outputs, Wanted, is_whole
from .record import Record, is_interim, load_record
from .settings import Stage2Settings

log = logging.getLogger(__name__)


def no_telling(_what: str, _path: Path) -> None:
    pass


@dataclass(frozen=True)
class Runner:
    """Runs jobs and writes their files.

    Attributes:
        models: where the parts come from.
        wanted: which files to write.
        overwrite: replace files that exist.
        resume: go on from files that an earlier run of the same job left.
        progress: see :data:`flashvideo.runs.chain.Progress`.
        written: called with what a file is and where, once it is whole.
    """

    models: chain.Models
    wanted: Wanted
    overwrite: bool = False
    resume: bool = False
    progress: chain.Progress = chain.no_progress
    written: Callable[[str, Path], None] = no_telling

    def run(self, jobs: Sequence[Job], fps: float) -> None:
        """Jobs of one prompt. All previews first, then Stage II of each: the looking comes before the paying."""
        previews: list[tuple[Job, Record, Tensor | None]] = []
        embeds: tuple[Tensor, Tensor] | None = None
        for job in jobs:
            outputs, video = job.outputs, None
            if self.wanted.final and self._tidied(outputs):
                continue
            record = self._left(outputs.preview)
            if record is None:
                if embeds is None:
                    embeds = chain.embed_for_both(self.models, [job.prompt], job.stage2.motion, self.progress)
                record = chain.make_preview(self.models, job.prompt, embeds, job.stage1, job.stage2, fps, self.progress)
                record.save(outputs.preview, overwrite=self.overwrite)
            if not (self.resume and is_whole(outputs.preview_video)):
                video = self._write_preview(record, outputs)
            previews.append((job, record, video if len(jobs) == 1 else None))
        for job, record, video in previews if self.wanted.final else ():
            self.refine(record, job.stage2, job.outputs, video=video)

    def _left(self, path: Path) -> Record | None:
        """Latents that an earlier run left, as a whole."""
        if not (self.resume and path.exists()):
            return None
        try:
            return load_record(path)
        except ValueError as error:
            log.warning("%s It is made again now.", error)
            return None

    def _tidied(self, outputs: Outputs) -> bool:
        """Whether an earlier run ended just before its last act, to remove the latents of a video; it is done now."""
        if not (self.resume and self.wanted.whole(outputs)):
            return False
        outputs.refined.unlink(missing_ok=True)
        self.written("draft" if self.wanted.draft else "video", outputs.video)
        return True

    def _write_preview(self, record: Record, outputs: Outputs) -> Tensor:
        video = chain.decode(self.models, record.latents, self.progress)
        metadata = _embedded(record)
        with VideoWriter(outputs.preview_video, record.fps, metadata=metadata, overwrite=self.overwrite) as writer:
            writer.write(video)
        self.written("preview", outputs.preview_video)
        return video

    def refine(
        self,
        record: Record,
        stage2: Stage2Settings,
        outputs: Outputs,
        *,
        video: Tensor | None = None,
        allow_other_noise_step: bool = False,
    ) -> None:
        """Stage II, and the decoding straight into the file.

        Refined latents are on disk while they are decoded: should the decoding fail, `flashvideo decode` goes on from
        there, and so does ``resume``.

        Args:
            record: a preview, or degraded latents.
            video: the preview decoded, if it is at hand.
            allow_other_noise_step: refine degraded latents with another noise step than theirs.

        Raises:
            ValueError: see :func:`~flashvideo.runs.chain.refine_record`.
        """
        if self._tidied(outputs):
            return
        if self.wanted.joint and video is None and record.content == "preview":
            video = chain.decode(self.models, record.latents, self.progress)

        def keep(start: Record) -> None:
            if self.wanted.degraded and record.content == "preview":
                start.save(outputs.degraded, overwrite=self.overwrite)
                self.written("Stage II's start", outputs.degraded)

        begun = is_whole(outputs.degraded) or not self.wanted.degraded
        refined = self._left(outputs.refined) if begun else None
        if refined is None:
            refined = chain.refine_record(
                self.models,
                record,
                stage2,
                self.progress,
                video=video,
                allow_other_noise_step=allow_other_noise_step,
                on_degraded=keep,
            )
            refined.save(outputs.refined, overwrite=self.overwrite, interim=not self.wanted.refined)
        elif self.wanted.refined and is_interim(outputs.refined):
            refined.save(outputs.refined, overwrite=True)
        try:
            self.decode(refined, outputs, preview=video)
        except BaseException:
            log.warning(
                "The refined latents are kept: `flashvideo decode %s` makes the video of them.", outputs.refined
            )
            raise
        if not self.wanted.refined:
            outputs.refined.unlink(missing_ok=True)
        self.written("draft" if self.wanted.draft else "video", outputs.video)

    def decode(self, record: Record, outputs: Outputs, *, preview: Tensor | None = None) -> None:
        """Latents of any content straight into the video's file, and beside the preview into the joint one's.

        Args:
            preview: its video, if it is at hand.
        """
        metadata, overwrite = _embedded(record, draft=self.wanted.draft), self.overwrite
        with ExitStack() as stack:
            writer = stack.enter_context(VideoWriter(outputs.video, record.fps, metadata=metadata, overwrite=overwrite))
            beside = None
            if self.wanted.joint and preview is not None:
                beside = stack.enter_context(
                    VideoWriter(outputs.joint, record.fps, JOINT_CRF, metadata=metadata, overwrite=overwrite)
                )
            position = 0
            for frames in chain.record_frames(
                self.models, record, self.progress, preview=preview, draft=self.wanted.draft
            ):
                writer.write(frames)
                if beside is not None and preview is not None:
                    beside.write(side_by_side(preview[:, :, position : position + frames.shape[2]], frames))
                position += frames.shape[2]


def _embedded(record: Record, *, draft: bool = False) -> dict[str, str]:
    description = record.description() | ({"decoder": "draft"} if draft else {})
    return {"comment": record.prompt, "flashvideo": json.dumps(description)}
