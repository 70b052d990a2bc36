"""FlashVideo: two-stage video generation. Importing this package loads neither diffusers nor peft."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# name -> module that defines it; resolved at first use, so that `import flashvideo` stays light.
_EXPORTS = {
    "load_stage1": "loading.load",
    "load_stage2": "loading.load",
    "load_vae": "loading.load",
    "convert_checkpoint": "loading.convert",
    "FlashVideoTransformer3DModel": "models.transformer",
    "FlashVideoPipeline": "runs.pipeline",
    "zero_snr_table": "method.schedules",
    "flow_times": "method.schedules",
    "dynamic_guidance": "method.guidance",
    "sample_stage1": "method.stage1",
    "degrade_latents": "method.degradation",
    "refine_latents": "method.stage2",
    "match_colors": "video.color_match",
    "encode_video": "vae.codec",
    "decode_latents": "vae.codec",
    "decode_stream": "vae.codec",
}

__all__ = ["__version__", *sorted(_EXPORTS)]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
