"""``flashvideo report``: what a models folder can do, in numbers."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoints.files import DTYPE_NAMES
from ..checkpoints.metadata import STAGES
from ..checkpoints.paths import expanded
from ..loading.load import open_stage
from ..loading.model_store import ModelStore
from ..report import (
    Bench,
    LoadedModels,
    ReportSettings,
    Weights,
    check_floors,
    hash_weights,
    parse_sections,
    parts_of,
    run_report,
)
from ..report.extras import ExtraFile, check_text_width, parse_extra
from ..report.record import joint
from ..runs.settings import Stage1Settings, Stage2Settings
from .options import OptionGroup, add_model_options, model_store
from .progress import Bars, say

_DTYPE = "fp32"
_STAGE1 = OptionGroup(
    STAGES["stage1"],
    Stage1Settings,
    leave_out=("seed", "preview-guidance-every"),
    renamed={"preview-size": "low-size"},
)
_STAGE2 = OptionGroup(
    f"{STAGES['stage2']}, its size a multiple of {STAGES['stage1']}'s",
    Stage2Settings,
    leave_out=(
        *("solver", "rounding", "motion", "resize", "posterior-mean", "time-windows", "keep", "attention"),
        *("seed", "guidance-every", "guide-student"),
    ),
)


def add_report(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"Measures a model on drawn held-out clips, in {_DTYPE} unless --dtype says otherwise. Sections that are "
        "finished in the output folder are not measured again."
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="of tables and pictures")
    parser.add_argument("--sections", metavar="A,B,...", help="of the report (default: all)")
    parser.add_argument("--again", action="store_true", help="measure finished sections once more")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a floor is missed")
    parser.add_argument(
        "--extra",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="other weights of a stage to compare with, or a LoRA with ,base=PATH; ,noise_step=N refines with a noise "
        "step of their own (0: trained without latent degradation, 999: from noise); ,only=SECTION compares in that "
        "one alone; 'single' is a transformer of Stage I's kind for high resolution",
    )
    _add_settings(parser)
    add_model_options(parser)
    parser.set_defaults(run=_report)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    usual = ReportSettings()
    group = parser.add_argument_group("settings")

    def option(name: str, value: Any, text: str, kind: Callable[[str], Any]) -> None:
        group.add_argument(name, type=kind, default=value, help=f"{text} (default: {value})")

    option("--clips", usual.clips, "held-out clips of each group of captions", int)
    option("--ablation-clips", usual.ablation_clips, "the same in ablations, sizes and cost", int)
    option("--ablation-frames", usual.ablation_frames, "of the clips in ablations of Stage II and sizes", int)
    option("--seed", usual.seed, "of scenes and noise", int)
    for name, values in (("nfe", usual.nfe), ("cfg", usual.cfg), ("noise-step", usual.noise_steps)):
        option(f"--{name}-values", ",".join(f"{value:g}" for value in values), "that the ablation tries", str)
    option("--batch", usual.batch, "clips of Stage I at once", int)
    option("--large-batch", usual.large_batch, "clips at high resolution at once", int)
    _STAGE1.add_to(parser, usual.stage1)
    _STAGE2.add_to(parser, usual.stage2)


def _settings(options: argparse.Namespace) -> ReportSettings:
    usual = ReportSettings()
    stage1 = _STAGE1.settings(options, usual.stage1)
    settings = replace(
        usual,
        clips=options.clips,
        ablation_clips=options.ablation_clips,
        ablation_frames=options.ablation_frames,
        seed=options.seed,
        stage1=stage1,
        stage2=_STAGE2.settings(options, usual.stage2, (stage1.height, stage1.width)),
        nfe=_values("nfe", options.nfe_values, int),
        cfg=_values("cfg", options.cfg_values, float),
        noise_steps=_values("noise step", options.noise_step_values, int),
        batch=options.batch,
        large_batch=options.large_batch,
    )
    settings.check()
    return settings


def _values(name: str, text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ValueError(f"the values of {name} are {text!r}; expected numbers with commas between them.") from error


def _report(options: argparse.Namespace) -> int:
    logging.getLogger("flashvideo.report").setLevel(logging.INFO)
    settings, sections = _settings(options), parse_sections(options.sections)
    files = [parse_extra(text) for text in options.extra]
    options.dtype = options.dtype or _DTYPE
    store = model_store(options, parts_of(sections), ("stage1", "stage2", "vae", "text"))
    _check_prompts(store, files)
    folder = expanded(options.output)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; expected a folder to write to.")
    weights = _hashes(store)
    for file in files:
        weights.update(file.hashes())
    models = LoadedModels(store)
    extras = tuple(file.extra(models, store.dtype, store.device) for file in files)
    with Bars() as bars:
        bench = Bench(models, settings, folder, extras, bars)
        results = run_report(bench, weights, sections=sections, place=_place(store), again=options.again)
    missed = check_floors(results)
    for text in missed:
        say(f"floor missed: {text}")
    say(f"{folder / 'report.md'}: {len(results)} sections, {len(missed)} floors missed")
    return int(options.check and bool(missed))


def _check_prompts(store: ModelStore, files: list[ExtraFile]) -> None:
    stage = "stage2" if store.paths.stage2 is not None else "stage1"
    path = getattr(store.paths, stage)
    if path is None or not files:
        return
    config = open_stage(path, stage).config
    for file in files:
        check_text_width(file, config["text_embed_dim"], config.get("max_text_seq_length", 226))


def _hashes(store: ModelStore) -> dict[str, Weights]:
    """Of all parts that there are; a LoRA counts to Stage I, a tokenizer of its own to the text encoder."""
    paths = store.paths
    lora = None if store.lora is None else expanded(store.lora)
    files = {
        "stage1": (paths.stage1, lora),
        "stage2": (paths.stage2,),
        "vae": (paths.vae,),
        "text": (paths.text, paths.tokenizer),
    }
    return {name: joint(*map(hash_weights, filter(None, of_part))) for name, of_part in files.items() if of_part[0]}


def _place(store: ModelStore) -> dict[str, str]:
    dtypes = {"dtype": store.dtype, "vae dtype": store.vae_dtype}
    named = {name: DTYPE_NAMES[dtype] for name, dtype in dtypes.items() if dtype is not None}
    lora = {} if store.lora is None else {"LoRA scale": f"{store.lora_scale:g}"}
    return {"device": store.device.type, **named, **lora}
