"""Options that several commands share, and how they become settings."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..loading.convert import OUTPUT_DTYPES
from ..loading.model_store import ModelStore, find_models, models_folder
from ..method.stage2 import SOLVERS
from ..runs.settings import DEFAULT_FPS, RESIZE_MODES, SIZES, Stage1Settings, Stage2Settings, parse_size

SETTINGS_FILE = "settings.json"  # in a models folder
_SETTINGS: dict[str, type] = {  # what may stand in it
    **dict.fromkeys(("preview-size", "guidance-curve", "motion", "size", "solver", "resize"), str),
    **dict.fromkeys(("frames", "preview-steps", "noise-step", "steps"), int),
    **dict.fromkeys(("preview-cfg", "fps", "cfg", "shift", "match-colors"), float),
}
_DTYPES = {name: dtype for name, dtype in OUTPUT_DTYPES.items() if dtype.itemsize > 1}


def add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("models")
    group.add_argument(
        "--models",
        default=os.environ.get("FLASHVIDEO_MODELS"),
        help="folder of stage1, stage2, the VAE and the text encoder; 'tiny' is bundled (default: $FLASHVIDEO_MODELS)",
    )
    for name in ("stage1", "stage2", "vae", "text-encoder", "tokenizer"):
        group.add_argument(f"--{name}", metavar="PATH", help=f"{name.replace('-', ' ')}: file or folder")
    group.add_argument("--lora", metavar="FILE", help="LoRA to merge into Stage I, of any naming")
    group.add_argument("--lora-scale", type=float, default=1.0, metavar="S")
    group.add_argument("--device", default="auto", help="auto, cuda, cuda:1, mps or cpu (default: auto)")
    group.add_argument(
        "--dtype",
        choices=_DTYPES,
        help="of transformers and text encoder (default: the files'; fp32 for fp16 files on a CPU)",
    )
    group.add_argument("--vae-dtype", choices=_DTYPES, help="of the VAE (default: bf16 on a GPU, else as --dtype)")
    group.add_argument(
        "--offload",
        choices=("none", "cpu", "disk"),
        nargs="?",
        const="cpu",
        default="none",
        help="take each model off the device after use: into host memory (cpu) or by loading it again (disk)",
    )


def parse_options(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line. For commands that set ``folder_settings`` to their parser, a ``settings.json`` in the
    models' folder gives the defaults of the stages' options.

    Raises:
        ValueError: a ``settings.json`` that cannot be read, or with other names or kinds of values.
    """
    options = parser.parse_args(argv)
    command = getattr(options, "folder_settings", None)
    file = None if command is None or options.models is None else models_folder(options.models) / SETTINGS_FILE
    if command is None or file is None or not file.is_file():
        return options
    command.set_defaults(**_read_settings(file))
    return parser.parse_args(argv)


def _read_settings(file: Path) -> dict[str, str]:
    """Defaults as argparse takes them: words, which it converts as if they had been typed."""
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({error}). Mend it or take it away.") from error
    if not isinstance(table, dict) or set(table) - set(_SETTINGS):
        wrong = sorted(set(table) - set(_SETTINGS)) if isinstance(table, dict) else table
        raise ValueError(f"{file} has {wrong}; expected a table of these: {', '.join(_SETTINGS)}.")
    for name, value in table.items():
        try:
            _SETTINGS[name](str(value))
        except ValueError:
            raise ValueError(
                f"{file} has {name!r} as {value!r}; expected {'a whole' if _SETTINGS[name] is int else 'a'} number."
            ) from None
    return {name.replace("-", "_"): str(value) for name, value in table.items()}


def add_stage2_options(parser: argparse.ArgumentParser, *, defaults: bool) -> None:
    """Stage II's options; without defaults they are ``None`` and a preview's own settings hold."""
    usual = Stage2Settings()
    group = parser.add_argument_group("Stage II")

    def option(name: str, value: Any, text: str, kind: Callable[[str], Any], **more: Any) -> None:
        shown = f"{text} (default: {value if defaults else 'as the preview was made for'})"
        group.add_argument(name, type=kind, default=value if defaults else None, help=shown, **more)

    option("--size", "1080p", f"{', '.join(SIZES)} or WIDTHxHEIGHT", str)
    option("--noise-step", usual.noise_step, "strength of the latent degradation, 650-750 as trained", int)
    option("--steps", usual.num_steps, "steps of the flow", int)
    option("--cfg", usual.guidance_scale, "guidance scale, 10-13; 1 halves the cost", float)
    option("--shift", usual.shift, "shift of the time grid, 2-3.5; 1 is the paper's", float)
    option("--solver", usual.solver, "of the flow", str, choices=SOLVERS)
    option("--resize", usual.resize, "how the preview takes the target's shape", str, choices=RESIZE_MODES)
    option(
        "--match-colors", usual.match_colors, "keep the preview's colours, in cells of N of its pixels; 0: off", float
    )
    group.add_argument("--rounding", choices=("bf16",), help="round times as the authors' production run did")
    group.add_argument("--posterior-mean", action="store_true", help="encode to the posterior's mean, not a sample")


def stage2_settings(options: argparse.Namespace, base: Stage2Settings) -> Stage2Settings:
    """``base`` with the options that were given."""
    given: dict[str, Any] = {
        "noise_step": options.noise_step,
        "num_steps": options.steps,
        "guidance_scale": options.cfg,
        "shift": options.shift,
        "solver": options.solver,
        "resize": options.resize,
        "match_colors": options.match_colors,
        "rounding": options.rounding,
        "motion": getattr(options, "motion", None),
        "sample_posterior": False if options.posterior_mean else None,
    }
    if options.size is not None:
        given["height"], given["width"] = parse_size(options.size)
    settings = replace(base, **{key: value for key, value in given.items() if value is not None})
    settings.check()
    return settings


def add_stage1_options(parser: argparse.ArgumentParser) -> None:
    usual = Stage1Settings()
    group = parser.add_argument_group("Stage I")
    group.add_argument("--preview-size", default="270p", help="of the preview (default: 270p, 480x256, as trained)")
    group.add_argument("--frames", type=int, default=usual.num_frames, help="4n + 1 (default: 49, as trained)")
    group.add_argument("--seed", type=int, default=usual.seed)
    group.add_argument("--preview-steps", type=int, default=usual.num_steps, help="evaluations (default: 51)")
    group.add_argument(
        "--preview-cfg", type=float, default=usual.guidance_scale, help="guidance scale, 6-8 (default: 8)"
    )
    group.add_argument(
        "--guidance-curve",
        choices=("authors", "smooth", "constant"),
        default=usual.guidance_curve,
        help="authors: what the model was sampled with (default)",
    )
    group.add_argument(
        "--motion", default=Stage2Settings().motion, help="put before Stage II's prompt (default: '%(default)s')"
    )
    group.add_argument("--fps", type=float, default=DEFAULT_FPS, help="of the video (default: 8, as trained)")


def stage1_settings(options: argparse.Namespace) -> Stage1Settings:
    height, width = parse_size(options.preview_size)
    settings = Stage1Settings(
        height=height,
        width=width,
        num_frames=options.frames,
        num_steps=options.preview_steps,
        guidance_scale=options.preview_cfg,
        guidance_curve=options.guidance_curve,
        seed=options.seed,
    )
    settings.check()
    return settings


def pick_device(name: str) -> torch.device:
    """``auto`` is this process's GPU, else MPS, else the CPU.

    Raises:
        ValueError: a device that is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device {name!r} cannot be used ({str(error).splitlines()[0]:.120}). Use auto or cpu."
        ) from error
    return device


def model_store(options: argparse.Namespace, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> ModelStore:
    """The models that a command needs, found and checked by their headers.

    Raises:
        ValueError: missing, wrong or damaged files, or a device that is not there.
    """
    given = {
        "stage1": options.stage1,
        "stage2": options.stage2,
        "vae": options.vae,
        "text": options.text_encoder,
        "tokenizer": options.tokenizer,
    }
    device = pick_device(options.device)
    if options.lora is not None and not Path(options.lora).expanduser().exists():
        raise ValueError(f"There is no LoRA file {options.lora}.")
    vae_dtype = _DTYPES[options.vae_dtype] if options.vae_dtype else None
    store = ModelStore(
        find_models(options.models, given, needed, optional),
        device=device,
        dtype=_DTYPES[options.dtype] if options.dtype else None,
        vae_dtype=vae_dtype or (torch.bfloat16 if device.type != "cpu" and options.dtype is None else None),
        lora=options.lora,
        lora_scale=options.lora_scale,
        offload=options.offload,
    )
    store.check()
    return store
