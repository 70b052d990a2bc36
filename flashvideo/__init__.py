"""FlashVideo: two-stage video generation. Importing this package loads neither diffusers nor peft."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

# name -> module that defines it; resolved at first use, so that ``import flashvideo`` stays light.
_EXPORTS = {
    "load_stage1": "loading.load",
    "load_stage2": "loading.load",
    "load_vae": "loading.load",
    "convert_checkpoint": "loading.convert",
    "FlashVideoTransformer3DModel": "models.transformer",
    "AttentionWindows": "models.windows",
    "FlashVideoPipeline": "runs.pipeline",
    "zero_snr_table": "method.schedules",
    "flow_times": "method.schedules",
    "dynamic_guidance": "method.guidance",
    "sample_stage1": "method.stage1",
    "degrade_latents": "method.degradation",
    "refine_latents": "method.stage2",
    "refine_stream": "method.stream",
    "TimeWindows": "method.windows",
    "latent_mask": "method.keeping",
    "match_colors": "video.color_match",
    "encode_video": "vae.codec",
    "decode_latents": "vae.codec",
    "decode_stream": "vae.codec",
    "score_video": "scores.score",
    "Scores": "scores.score",
}

__all__ = ["__version__", *sorted(_EXPORTS)]


def _version() -> str:
    """The version, which stands in pyproject.toml alone.

    That file lies beside this folder in a checkout and in ComfyUI's ``custom_nodes``; an installed package has it as
    metadata.
    """
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    text = project.read_text(encoding="utf-8") if project.is_file() else ""
    if stated := re.search(r'^name = "flashvideo"\nversion = "(.+)"$', text, re.MULTILINE):
        return stated[1]
    import importlib.metadata

    return importlib.metadata.version("flashvideo")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name in _EXPORTS:
        return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
