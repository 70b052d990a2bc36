"""Small random models in every kind of file: what is read is what was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor

from ...checkpoints.metadata import STAGES
from ...checkpoints.writing import tensor_plan, write_safetensors
from ...loading.convert import convert_checkpoint
from ...loading.load import load_vae, meta_vae
from ...loading.random_models import (
    GGUF_FORMAT,
    LAYERS,
    RandomStage,
    random_stage,
    random_vae,
    vae_config,
    write_cogvideox_stage,
    write_gguf_stage,
    write_native_stage,
    write_published_stage,
    write_published_vae,
)
from .codecs import RUNS, resnets
from .stages import LOADERS, plain
from .verdicts import EXACT, Limit, NotHereError, Path, Verdict, judge, reordered, stored, unit

Writer = Callable[[], FilePath]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8_e4m3": torch.float8_e4m3fn}
_Q8_STEP = 2.0**-7  # of a block's largest number


def write_published(folder: FilePath) -> dict[str, FilePath]:
    """Stages and VAE of random weights, as the published files are; paths by ``stage1``, ``stage2``, ``vae``."""
    stages = {kind: write_published_stage(random_stage(kind), folder / f"{kind}.pt") for kind in STAGES}
    return {**stages, "vae": write_published_vae(random_vae(), folder / "3d-vae.pt")}


def file_verdicts(folder: FilePath) -> Iterator[Verdict]:
    """Every kind of file, written into a folder and read in fp32."""
    for kind, part in STAGES.items():
        stage = random_stage(kind)
        expected = plain(stage.network())
        for name, (write, limit) in _stage_files(stage, folder).items():
            yield judge(part, Path("files", name, partial(_evaluated, kind, write), limit), expected)
    yield from _vae_verdicts(folder)


def _stage_files(stage: RandomStage, folder: FilePath) -> dict[str, tuple[Writer, Limit]]:
    def native(dtype: str) -> Writer:
        return partial(write_native_stage, stage, folder / f"{stage.kind}-{dtype}.safetensors", dtype, folder)

    published = partial(write_published_stage, stage, folder / f"{stage.kind}-published.pt")
    files: dict[str, tuple[Writer, Limit]] = {
        "published .pt, LoRA unmerged" if stage.lora else "published .pt": (
            published,
            reordered(LAYERS) if stage.lora else EXACT,
        ),
        "safetensors, fp32": (native("fp32"), EXACT),
        **{f"safetensors, {n}": (native(n), stored(n, unit(dtype), LAYERS)) for n, dtype in _DTYPES.items()},
        f"GGUF, {GGUF_FORMAT}": (
            partial(write_gguf_stage, stage, folder / f"{stage.kind}.gguf"),
            stored(GGUF_FORMAT, _Q8_STEP, LAYERS),
        ),
    }
    if stage.kind == "stage1":
        for whose in ("diffusers", "comfyui"):
            write = partial(write_cogvideox_stage, stage, folder / f"{whose}.safetensors", whose)
            files[f"CogVideoX safetensors, {whose}"] = write, EXACT
    return files


def _evaluated(kind: str, write: Writer) -> Tensor:
    return plain(LOADERS[kind](_written(write), dtype=torch.float32))


def _written(write: Writer) -> FilePath:
    try:
        return write()
    except ImportError as error:
        raise NotHereError(f"{error}; pip install gguf") from error


def _vae_verdicts(folder: FilePath) -> Iterator[Verdict]:
    state = random_vae()
    vae = meta_vae(vae_config())
    vae.load_state_dict(state, assign=True)
    vae.eval()
    plain_file = partial(write_safetensors, folder / "vae.safetensors", tensor_plan(state), {}, overwrite=True)

    def bf16() -> FilePath:
        return convert_checkpoint(
            plain_file(), folder / "vae-bf16.safetensors", kind="vae", dtype="bf16", overwrite=True
        )

    for part, (run, _, half) in RUNS.items():
        files: dict[str, tuple[Writer, Limit]] = {
            "published .pt": (partial(write_published_vae, state, folder / "3d-vae-published.pt"), EXACT),
            "safetensors, fp32": (plain_file, EXACT),
            "safetensors, bf16": (bf16, stored("bf16", unit(torch.bfloat16), resnets(getattr(vae, half)))),
        }
        for name, (write, limit) in files.items():
            path = Path("files", name, partial(_read_and_run, write, run), limit)
            yield judge(part, path, run(vae))


def _read_and_run(write: Writer, run: Callable[[Any], Tensor]) -> Tensor:
    return run(load_vae(write(), dtype=torch.float32))
