"""FlashVideo: two-stage video generation. Importing this package loads neither diffusers nor peft."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# name -> module that defines it; resolved at first use, so that `import flashvideo` stays light.
_EXPORTS = {
    "load_stage1": "checkpoints.load",
    "load_stage2": "checkpoints.load",
    "load_vae": "checkpoints.load",
    "convert_checkpoint": "checkpoints.convert",
    "FlashVideoTransformer3DModel": "models.transformer",
    "FlashVideoPipeline": "pipeline",
    "zero_snr_table": "schedules",
    "flow_times": "schedules",
    "dynamic_guidance": "guidance",
    "sample_stage1": "stage1",
    "degrade_latents": "degradation",
    "refine_latents": "stage2",
    "match_colors": "color_match",
    "encode_video": "vae",
    "decode_latents": "vae",
    "decode_stream": "vae",
}

__all__ = ["__version__", *sorted(_EXPORTS)]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
