"""FlashVideo: two-stage video generation. Importing this package loads neither diffusers nor peft."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names as below, for type checkers and editors
    from .loading.convert import convert_checkpoint as convert_checkpoint
    from .loading.load import load_stage1 as load_stage1
    from .loading.load import load_stage2 as load_stage2
    from .loading.load import load_vae as load_vae
    from .method.degradation import degrade_latents as degrade_latents
    from .method.guidance import dynamic_guidance as dynamic_guidance
    from .method.keeping import latent_mask as latent_mask
    from .method.schedules import flow_times as flow_times
    from .method.schedules import zero_snr_table as zero_snr_table
    from .method.stage1 import sample_stage1 as sample_stage1
    from .method.stage2 import refine_latents as refine_latents
    from .method.stream import refine_stream as refine_stream
    from .method.windows import TimeWindows as TimeWindows
    from .models.transformer import FlashVideoTransformer3DModel as FlashVideoTransformer3DModel
    from .models.windows import AttentionWindows as AttentionWindows
    from .runs.pipeline import FlashVideoPipeline as FlashVideoPipeline
    from .scores.score import Scores as Scores
    from .scores.score import score_video as score_video
    from .vae.codec import decode_latents as decode_latents
    from .vae.codec import decode_stream as decode_stream
    from .vae.codec import encode_video as encode_video
    from .video.color_match import match_colors as match_colors

    __version__: str

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


if not TYPE_CHECKING:  # who would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            return _version()
        if name in _EXPORTS:
            return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
