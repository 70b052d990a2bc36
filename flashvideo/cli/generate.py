"""``flashvideo generate``, ``refine`` and ``decode``."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ..checkpoints.locks import claimed
from ..checkpoints.outputs import make_folder
from ..checkpoints.paths import expanded
from ..loading.model_store import ModelStore
from ..method.checks import check_text
from ..runs import chain
from ..runs.jobs import (
    Job,
    Outputs,
    Wanted,
    alone_with,
    check_count,
    check_jobs,
    previews_folder,
    prompt_jobs,
    sample_jobs,
    seed_jobs,
    this_process,
)
from ..runs.memory import Load, check_host_memory, check_memory
from ..runs.offloading import choose_offload
from ..runs.prompts import is_json, read_prompts, read_sampled
from ..runs.record import load_record
from ..runs.resuming import check_kept, check_same_run, is_begun
from ..runs.runner import Runner
from ..runs.settings import Stage1Settings, Stage2Settings
from ..tensors.sizes import SPATIAL_FACTOR, video_frames
from ..video.files import check_fps, check_output
from ..video.resize import resize_words, stretching
from . import refine
from .options import (
    Size,
    add_model_options,
    add_stage1_options,
    add_stage2_options,
    check_student,
    model_store,
    stage1_settings,
    stage2_settings,
)
from .progress import Bars, say

log = logging.getLogger(__name__)

_VISIBLE = 1.1  # stretching that everyone sees


def add_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="?", help="60 to 130 words work best")
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        type=Path,
        help="many prompts, one a line, or VBench's JSON; finished ones are skipped",
    )
    parser.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="videos of each prompt, named as VBench does: PROMPT-0.mp4 ... (default with JSON: 5, and 25 of "
        "temporal_flickering)",
    )
    parser.add_argument(
        "--names",
        metavar="FILE",
        type=Path,
        help="VBench's own prompts, which name the videos where --prompts has longer ones of the same order",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the video, or with --prompts a folder")
    parser.add_argument("--num-previews", type=int, default=1, metavar="K", help="previews of K seeds, from --seed on")
    parser.add_argument("--preview-only", action="store_true", help="stop after Stage I; `flashvideo refine` goes on")
    _add_output_options(parser)
    add_stage1_options(parser)
    add_stage2_options(parser, defaults=True)
    add_model_options(parser)
    parser.set_defaults(run=run_generate, folder_settings=parser)


def add_refine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="+",
        type=Path,
        help="a .preview.safetensors or a .degraded.safetensors; a video; several, or a folder of them",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the video; of several, their folder")
    refine.add_options(parser)
    parser.add_argument(
        "--allow-other-noise-step",
        action="store_true",
        help="refine degraded latents with another noise step than theirs",
    )
    _add_output_options(parser)
    add_stage2_options(parser, defaults=False)
    add_model_options(parser)
    parser.set_defaults(run=run_refine)


def add_decode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("latents", type=Path, help="a .preview, .degraded or .refined .safetensors")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the video")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    _add_draft_options(parser, "into the output")
    add_model_options(parser)
    parser.set_defaults(run=run_decode)


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    parser.add_argument("--joint", action="store_true", help="also write preview and final side by side")
    parser.add_argument(
        "--keep-degraded", action="store_true", help="keep Stage II's start, to try other settings faster"
    )
    parser.add_argument("--keep-latents", action="store_true", help="keep the refined latents")
    _add_draft_options(parser, "as OUTPUT.draft.mp4; refined latents are kept, and the same command without it goes on")


def _add_draft_options(parser: argparse.ArgumentParser, where: str) -> None:
    parser.add_argument("--draft", action="store_true", help=f"a quick look by a tiny decoder, {where}")
    parser.add_argument("--draft-decoder", metavar="PATH", help="its file, taecvx.safetensors (default: in --models)")


def _wanted(options: argparse.Namespace) -> Wanted:
    final = not getattr(options, "preview_only", False)
    for name in ("preview_only", "joint"):
        if options.draft and getattr(options, name, False):
            raise ValueError(
                f"--draft is a quick look at the refined video; --{name.replace('_', '-')} has no use for it."
            )
    return Wanted(
        final=final,
        joint=options.joint and final,
        degraded=options.keep_degraded and final,
        refined=(options.keep_latents or options.draft) and final,
        draft=options.draft,
    )


def run_generate(options: argparse.Namespace) -> None:
    stage1 = stage1_settings(options)
    preview = (stage1.height, stage1.width)
    stage2 = stage2_settings(options, Stage2Settings(), preview)
    check_count(options.num_previews, stage1.seed)
    check_fps(options.fps, "--fps")
    if (options.prompt is None) == (options.prompts is None):
        raise ValueError("Give a prompt, or a file of them with --prompts (one of the two).")
    if options.prompts is None and (options.samples is not None or options.names is not None):
        raise ValueError("--samples and --names go with --prompts. Without it, --num-previews takes several seeds.")
    wanted = _wanted(options)
    load = _load(stage1, stage2, wanted)
    check_host_memory(load)
    _tell_resize(preview, stage2)
    if options.prompts is not None:
        _generate_many(options, stage1, stage2, wanted)
        return
    check_text("the prompt", options.prompt)
    if not options.prompt.strip():
        raise ValueError("The prompt is empty. Describe the video in 60 to 130 words.")
    jobs = seed_jobs(options.prompt, stage1, stage2, expanded(options.output), options.num_previews)
    jobs = [job.drafted() for job in jobs] if wanted.draft else jobs
    check_jobs(jobs, wanted)
    with alone_with(_of_process(jobs[0].outputs.namesake)):
        _generate_one(options, jobs, wanted, load)


def _of_process(output: Path) -> Path:
    """The output, under another name for all processes of a launch but the first."""
    rank, _ = this_process()
    return output.with_name(f"{output.name}.rank{rank}") if rank else output


def _generate_one(options: argparse.Namespace, jobs: list[Job], wanted: Wanted, load: Load) -> None:
    rank, processes = this_process()
    begun = not options.overwrite and is_begun(jobs, wanted)
    store = _store_for(options, wanted)
    check_student(store, jobs[0].stage2)
    _make_fit(options, store, load)
    for job in jobs if begun else ():
        check_same_run(job, wanted, options.fps, store.describe())
    mine = [job for job in jobs[rank::processes] if not (begun and job.finished(wanted))]
    with Bars() as bars:
        _runner(options, store, wanted, bars, begun).run(mine, options.fps)


def _runner(options: argparse.Namespace, store: ModelStore, wanted: Wanted, bars: Bars, begun: bool) -> Runner:
    """``begun``: go on from what an earlier run of the same left, and replace what of it is made again."""
    replaced = options.overwrite or begun
    return Runner(store, wanted, overwrite=replaced, resume=begun, progress=bars, written=_say_written)


def _load(stage1: Stage1Settings, stage2: Stage2Settings, wanted: Wanted) -> Load:
    refined = (stage2.height, stage2.width) if wanted.final else None
    load = Load(stage1.num_frames, (stage1.height, stage1.width), refined, encodes=wanted.final)
    return load.with_windows(stage2)


def _store_for(options: argparse.Namespace, wanted: Wanted) -> ModelStore:
    """The models of a run. Stage II's is looked for even without need: the preview tells what it was made for."""
    parts = ("text", "stage1", "vae", *_draft(wanted))
    return model_store(options, (*parts, "stage2")) if wanted.final else model_store(options, parts, ("stage2",))


def _draft(wanted: Wanted) -> tuple[str, ...]:
    return ("draft",) if wanted.draft else ()


def _make_fit(options: argparse.Namespace, store: ModelStore, load: Load) -> None:
    """Refuse what cannot fit, before anything is loaded; choose where models wait, and say so."""
    check_memory(store, load)
    if options.offload == "auto" and (line := choose_offload(store, load)):
        say(line)


def _generate_many(options: argparse.Namespace, stage1: Stage1Settings, stage2: Stage2Settings, wanted: Wanted) -> None:
    file, folder = expanded(options.prompts), expanded(options.output)
    sampled = is_json(file) or options.samples is not None or options.names is not None
    if sampled and options.num_previews > 1:
        raise ValueError("--num-previews does not go with --samples, --names or JSON: --samples says how many videos.")
    groups: list[list[Job]] = []
    if sampled:
        names = None if options.names is None else expanded(options.names)
        groups = sample_jobs(read_sampled(file, names, options.samples), stage1, stage2, folder)
    else:
        prompts = read_prompts(file)
        check_count(options.num_previews, stage1.seed, len(prompts))
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; with --prompts the output is a folder.")
    if not folder.parent.is_dir():
        raise ValueError(f"The folder {folder.parent} does not exist. Make it first, or choose another place.")
    rank, processes = this_process()
    store = _store_for(options, wanted)
    check_student(store, stage2)
    _make_fit(options, store, _load(stage1, stage2, wanted))
    make_folder(folder)
    if sampled:
        make_folder(previews_folder(folder))
    else:
        count, identity = options.num_previews, {**store.describe(), "fps": f"{options.fps:g}"}
        every = prompt_jobs(prompts, stage1, stage2, folder, count, identity)
        groups = [every[start : start + count] for start in range(0, len(every), count)]
    groups = [[job.drafted() for job in jobs] for jobs in groups] if wanted.draft else groups
    check_jobs([job for jobs in groups for job in jobs], wanted)
    if sampled and not options.overwrite:  # names that do not tell the settings
        _check_kept(groups[rank::processes], wanted, options.fps, store)
    for position in range(rank, len(groups), processes):
        jobs = groups[position]
        output, number = jobs[0].outputs.namesake, f"[{position + 1}/{len(groups)}]"
        with claimed(output) as mine, Bars() as bars:
            if not mine:
                say(f"{number} another process is at it: {output.name}")
                continue
            todo = [job for job in jobs if options.overwrite or not job.finished(wanted)]
            if not todo:
                say(f"{number} finished already: {output.name}")
                continue
            seeds = f"seed {todo[0].stage1.seed}" + (f" to {todo[-1].stage1.seed}" if len(todo) > 1 else "")
            say(f"{number} {seeds}: {todo[0].prompt[:70]}")
            resume = not options.overwrite
            runner = Runner(store, wanted, overwrite=True, resume=resume, progress=bars, written=_say_written)
            runner.run(todo, options.fps)


def _check_kept(groups: list[list[Job]], wanted: Wanted, fps: float, store: ModelStore) -> None:
    """Refuse files of the videos' names that another run wrote. Those that are being written now are others' care."""
    models = store.describe()
    for jobs in groups:
        with claimed(jobs[0].outputs.namesake) as mine:
            for job in jobs if mine else ():
                check_kept(job, wanted, fps, models)


def _say_written(what: str, path: Path) -> None:
    latents = f" (latents: {path.with_suffix('.safetensors').name})" if what == "preview" else ""
    say(f"{what}: {path}{latents}")


def run_refine(options: argparse.Namespace) -> None:
    if len(options.source) == 1 and refine.is_preview(options.source[0]):
        refine.check_no_video_options(options)
        _refine_preview(options, options.source[0])
    else:
        refine.run(options)


def _refine_preview(options: argparse.Namespace, preview: Path) -> None:
    record = load_record(preview)
    shape = (SPATIAL_FACTOR * record.latents.shape[3], SPATIAL_FACTOR * record.latents.shape[4])
    stage2 = stage2_settings(options, record.stage2, shape)
    if record.content == "refined":
        raise ValueError(f"{preview} is refined already: `flashvideo decode` makes a video of it.")
    if record.content == "degraded":
        if options.joint:
            raise ValueError("--joint needs the preview's video; this file holds degraded latents only.")
        if stage2.seed != record.stage2.seed:
            raise ValueError(
                f"--seed {stage2.seed} would draw other noise, and {preview} was degraded with that of seed "
                f"{record.stage2.seed}. Leave it out, or refine the preview."
            )
        chain.check_degraded(record, stage2, options.allow_other_noise_step)
        chain.check_colors(record, stage2, str(preview))
    outputs, wanted = Outputs(expanded(options.output)), _wanted(options)
    outputs = outputs.drafted() if wanted.draft else outputs
    job = Job(record.prompt, record.stage1, stage2, outputs)
    load = Load.of_refining(record, stage2)
    check_host_memory(load)
    check_jobs([job], wanted, preview=False)
    with alone_with(outputs.namesake), Bars() as bars:
        begun = not options.overwrite and is_begun([job], wanted, preview=False)
        store = model_store(options, ("stage2", "vae", *_draft(wanted)))
        check_student(store, stage2)
        store.check_text_width(record.stage2_embeds.shape[-1], str(preview))
        _make_fit(options, store, load)
        if record.content == "preview":
            _tell_resize(shape, stage2)
        if begun:
            check_same_run(job, wanted, record.fps, record.models_with_stage2(store.describe()), start=record)
        runner = _runner(options, store, wanted, bars, begun)
        runner.refine(record, stage2, outputs, allow_other_noise_step=options.allow_other_noise_step)


def run_decode(options: argparse.Namespace) -> None:
    record = load_record(options.latents)
    if record.content == "refined":
        chain.check_colors(record, record.stage2, str(options.latents))
    outputs = Outputs(expanded(options.output))
    check_output(outputs.video, options.overwrite)
    wanted = Wanted(draft=options.draft)
    store = model_store(options, ("vae", *_draft(wanted)))
    size = (SPATIAL_FACTOR * record.latents.shape[3], SPATIAL_FACTOR * record.latents.shape[4])
    _make_fit(options, store, Load(video_frames(record.latents.shape[2]), refined=size))
    with alone_with(outputs.video), Bars() as bars:
        Runner(store, wanted, overwrite=options.overwrite, progress=bars).decode(record, outputs)
    _say_written("draft" if options.draft else "video", outputs.video)


def _tell_resize(preview: Size, stage2: Stage2Settings) -> None:
    """Say what becomes of the preview's shape: a line, and a warning where it is stretched visibly."""
    change = resize_words(*preview, stage2.height, stage2.width, stage2.resize)
    if stage2.resize == "stretch" and stretching(*preview, stage2.height, stage2.width) > _VISIBLE:
        log.warning("%s Use --size x4, --preview-size of the same shape, or --resize crop.", change)
    elif preview[0] * stage2.width != preview[1] * stage2.height:
        say(change)
