"""``flashvideo generate``, ``refine`` and ``decode``."""

from __future__ import annotations

import argparse
import json
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints.outputs import check_writable
from ..loading.model_store import ModelStore
from ..method.checks import check_positive
from ..runs import chain
from ..runs.jobs import Job, Outputs, Wanted, prompt_jobs, read_prompts, seed_jobs, this_process
from ..runs.record import Preview, load_preview
from ..runs.settings import Stage1Settings, Stage2Settings, check_seed
from ..video.files import JOINT_CRF, VideoWriter, check_fps, check_output, side_by_side
from .options import (
    add_model_options,
    add_stage1_options,
    add_stage2_options,
    model_store,
    stage1_settings,
    stage2_settings,
)
from .progress import Bars, say

log = logging.getLogger(__name__)

_ASPECT_TOLERANCE = 1.1


def add_commands(commands: Any) -> None:
    parser = commands.add_parser("generate", help="a prompt, or a file of prompts, to video")
    parser.add_argument("prompt", nargs="?", help="60 to 130 words work best")
    parser.add_argument(
        "--prompts", metavar="FILE", type=Path, help="many prompts, one a line; finished ones are skipped"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the video, or with --prompts a folder")
    parser.add_argument("--num-previews", type=int, default=1, metavar="K", help="previews of K seeds, from --seed on")
    parser.add_argument("--preview-only", action="store_true", help="stop after Stage I; `flashvideo refine` goes on")
    _add_output_options(parser)
    add_stage1_options(parser)
    add_stage2_options(parser, defaults=True)
    add_model_options(parser)
    parser.set_defaults(run=run_generate, folder_settings=parser)

    parser = commands.add_parser("refine", help="Stage II of a saved preview")
    parser.add_argument("preview", type=Path, help="a .preview.safetensors, or a .degraded.safetensors")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the video")
    parser.add_argument(
        "--allow-other-noise-step",
        action="store_true",
        help="refine degraded latents with another noise step than theirs",
    )
    _add_output_options(parser)
    add_stage2_options(parser, defaults=False)
    add_model_options(parser)
    parser.set_defaults(run=run_refine)

    parser = commands.add_parser("decode", help="latents of any file that this program wrote to video")
    parser.add_argument("latents", type=Path, help="a .preview, .degraded or .refined .safetensors")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the video")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    add_model_options(parser)
    parser.set_defaults(run=run_decode)


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    parser.add_argument("--joint", action="store_true", help="also write preview and final side by side")
    parser.add_argument(
        "--keep-degraded", action="store_true", help="keep Stage II's start, to try other settings faster"
    )
    parser.add_argument("--keep-latents", action="store_true", help="keep the refined latents")


def _wanted(options: argparse.Namespace) -> Wanted:
    final = not getattr(options, "preview_only", False)
    return Wanted(
        final=final,
        joint=options.joint and final,
        degraded=options.keep_degraded and final,
        refined=options.keep_latents and final,
    )


def run_generate(options: argparse.Namespace) -> None:
    stage1 = stage1_settings(options)
    stage2 = stage2_settings(options, Stage2Settings()).with_seed(stage1.seed)
    check_positive("--num-previews", options.num_previews)
    check_seed(stage1.seed + options.num_previews - 1)
    check_fps(options.fps, "--fps")
    if (options.prompt is None) == (options.prompts is None):
        raise ValueError("Give a prompt, or a file of them with --prompts (one of the two).")
    _warn_of_stretching(stage1, stage2)
    wanted = _wanted(options)
    if options.prompts is not None:
        _generate_many(options, stage1, stage2, wanted)
        return
    if not options.prompt.strip():
        raise ValueError("The prompt is empty. Describe the video in 60 to 130 words.")
    rank, processes = this_process()
    jobs = seed_jobs(options.prompt, stage1, stage2, options.output.expanduser(), options.num_previews)
    _check_outputs(jobs, wanted, options.overwrite)
    store = _store_for(options, wanted)
    _run_jobs(store, jobs[rank::processes], wanted, options.fps, options.overwrite)


def _check_outputs(jobs: list[Job], wanted: Wanted, overwrite: bool) -> None:
    """Raise ValueError unless all files of all jobs can be written, the disk's room included."""
    for job in jobs:
        wanted.check(job.outputs, overwrite=overwrite)
        check_output(job.outputs.video, overwrite=True)
    check_writable(jobs[0].outputs.video, overwrite=True, size=sum(job.bytes_on_disk(wanted) for job in jobs))


def _store_for(options: argparse.Namespace, wanted: Wanted) -> ModelStore:
    """The models of a run. Stage II's is looked for even without need: the preview tells what it was made for."""
    parts = ("text", "stage1", "vae")
    return model_store(options, (*parts, "stage2")) if wanted.final else model_store(options, parts, ("stage2",))


def _generate_many(options: argparse.Namespace, stage1: Stage1Settings, stage2: Stage2Settings, wanted: Wanted) -> None:
    prompts = read_prompts(options.prompts.expanduser())
    folder = options.output.expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; with --prompts the output is a folder.")
    if not folder.parent.is_dir():
        raise ValueError(f"The folder {folder.parent} does not exist. Make it first, or choose another place.")
    rank, processes = this_process()
    store = _store_for(options, wanted)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ValueError(f"The folder {folder} cannot be made ({error.strerror}). Choose another place.") from error
    identity = {**store.describe(), "fps": f"{options.fps:g}"}
    every = prompt_jobs(prompts, stage1, stage2, folder, options.num_previews, identity)
    _check_outputs(every, wanted, overwrite=True)
    for position in range(rank, len(prompts), processes):
        jobs = every[position * options.num_previews : (position + 1) * options.num_previews]
        todo = [job for job in jobs if options.overwrite or not _finished(job, wanted)]
        if not todo:
            say(f"[{position + 1}/{len(prompts)}] finished already: {jobs[0].outputs.video.name}")
            continue
        say(f"[{position + 1}/{len(prompts)}] {todo[0].prompt[:70]}")
        _run_jobs(store, todo, wanted, options.fps, overwrite=True, resume=not options.overwrite)


def _finished(job: Job, wanted: Wanted) -> bool:
    outputs = job.outputs
    files = [outputs.video] if wanted.final else [outputs.preview, outputs.preview_video]
    files += [outputs.joint] if wanted.joint else []
    files += [outputs.degraded] if wanted.degraded else []
    files += [outputs.refined] if wanted.refined else []
    return all(path.exists() for path in files)


def _run_jobs(
    store: ModelStore, jobs: list[Job], wanted: Wanted, fps: float, overwrite: bool, resume: bool = False
) -> None:
    """All previews first, then Stage II of each: the looking comes before the paying."""
    made: list[tuple[Job, Preview, Tensor | None]] = []
    embeds: tuple[Tensor, Tensor] | None = None
    with Bars() as progress:
        for job in jobs:
            video = None
            if resume and job.outputs.preview.exists():
                preview = load_preview(job.outputs.preview)
            else:
                if embeds is None:
                    embeds = chain.encode_prompt(store, job.prompt, job.stage2.motion, progress)
                preview = chain.make_preview(store, job.prompt, embeds, job.stage1, job.stage2, fps, progress)
                preview.save(job.outputs.preview, overwrite=overwrite)
            if not (resume and job.outputs.preview_video.exists()):
                video = _write_preview(store, preview, job.outputs, overwrite, progress)
                say(f"preview: {job.outputs.preview_video} (latents: {job.outputs.preview.name})")
            made.append((job, preview, video if len(jobs) == 1 else None))
        for job, preview, video in made if wanted.final else ():
            refine_to_file(
                store, preview, job.stage2, job.outputs, wanted, overwrite, progress, video=video, resume=resume
            )


def _write_preview(
    store: ModelStore, preview: Preview, outputs: Outputs, overwrite: bool, progress: chain.Progress
) -> Tensor:
    video = chain.decode_preview(store, preview, progress)
    with VideoWriter(outputs.preview_video, preview.fps, metadata=_embedded(preview), overwrite=overwrite) as writer:
        writer.write(video)
    return video


def refine_to_file(
    store: ModelStore,
    preview: Preview,
    stage2: Stage2Settings,
    outputs: Outputs,
    wanted: Wanted,
    overwrite: bool,
    progress: chain.Progress,
    *,
    video: Tensor | None = None,
    allow_other_noise_step: bool = False,
    resume: bool = False,
) -> None:
    """Stage II, and the decoding straight into the file.

    Refined latents are on disk while they are decoded: should the decoding fail, `flashvideo decode` goes on from
    there, and so does ``resume``.
    """
    if wanted.joint and video is None and preview.content == "preview":
        video = chain.decode_preview(store, preview, progress)

    def keep(start: Preview) -> None:
        if wanted.degraded and preview.content == "preview":
            start.save(outputs.degraded, overwrite=overwrite)
            say(f"Stage II's start: {outputs.degraded}")

    if resume and outputs.refined.exists() and (outputs.degraded.exists() or not wanted.degraded):
        refined = load_preview(outputs.refined)
    else:
        refined = chain.refine_preview(
            store,
            preview,
            stage2,
            progress,
            video=video,
            allow_other_noise_step=allow_other_noise_step,
            on_degraded=keep,
        )
        refined.save(outputs.refined, overwrite=overwrite)
    try:
        _decode_to_file(store, refined, outputs, wanted.joint, video, overwrite, progress)
    except BaseException:
        log.warning("The refined latents are kept: `flashvideo decode %s` makes the video of them.", outputs.refined)
        raise
    if not wanted.refined:
        outputs.refined.unlink()
    say(f"video: {outputs.video}")


def _decode_to_file(
    store: ModelStore,
    refined: Preview,
    outputs: Outputs,
    joint: bool,
    small: Tensor | None,
    overwrite: bool,
    progress: chain.Progress,
) -> None:
    metadata = _embedded(refined)
    with ExitStack() as stack:
        writer = stack.enter_context(VideoWriter(outputs.video, refined.fps, metadata=metadata, overwrite=overwrite))
        beside = None
        if joint and small is not None:
            beside = stack.enter_context(
                VideoWriter(outputs.joint, refined.fps, JOINT_CRF, metadata=metadata, overwrite=overwrite)
            )
        position = 0
        for frames in chain.decode_frames(store, refined, progress, small=small):
            writer.write(frames)
            if beside is not None and small is not None:
                beside.write(side_by_side(small[:, :, position : position + frames.shape[2]], frames))
            position += frames.shape[2]


def _embedded(preview: Preview) -> dict[str, str]:
    return {"comment": preview.prompt, "flashvideo": json.dumps(preview.description())}


def run_refine(options: argparse.Namespace) -> None:
    preview = load_preview(options.preview)
    stage2 = stage2_settings(options, preview.stage2)
    if preview.content == "refined":
        raise ValueError(f"{options.preview} is refined already: `flashvideo decode` makes a video of it.")
    if preview.content == "degraded":
        if options.joint:
            raise ValueError("--joint needs the preview's video; this file holds degraded latents only.")
        chain.check_degraded(preview, stage2, options.allow_other_noise_step)
        chain.check_small(preview, stage2, str(options.preview))
    outputs, wanted = Outputs(options.output.expanduser()), _wanted(options)
    wanted.check(outputs, overwrite=options.overwrite, preview=False)
    job = Job(preview.prompt, preview.stage1, stage2, outputs)
    check_writable(outputs.video, overwrite=True, size=job.bytes_on_disk(wanted))
    store = model_store(options, ("stage2", "vae"))
    store.check_text_width(preview.stage2_embeds.shape[-1], str(options.preview))
    with Bars() as progress:
        refine_to_file(
            store,
            preview,
            stage2,
            outputs,
            wanted,
            options.overwrite,
            progress,
            allow_other_noise_step=options.allow_other_noise_step,
        )


def run_decode(options: argparse.Namespace) -> None:
    preview = load_preview(options.latents)
    if preview.content == "refined":
        chain.check_small(preview, preview.stage2, str(options.latents))
    outputs = Outputs(options.output.expanduser())
    check_output(outputs.video, options.overwrite)
    store = model_store(options, ("vae",))
    with Bars() as progress:
        _decode_to_file(store, preview, outputs, False, None, options.overwrite, progress)
    say(f"video: {outputs.video}")


def _warn_of_stretching(stage1: Stage1Settings, stage2: Stage2Settings) -> None:
    ratio = (stage1.width / stage1.height) / (stage2.width / stage2.height)
    if stage2.resize == "stretch" and max(ratio, 1 / ratio) > _ASPECT_TOLERANCE:
        log.warning(
            "The preview (%dx%d) has another shape than the video (%dx%d) and will be stretched by %.0f %%. "
            "Use --preview-size of the same shape, or --resize crop.",
            *(stage1.width, stage1.height, stage2.width, stage2.height),
            100 * (max(ratio, 1 / ratio) - 1),
        )
