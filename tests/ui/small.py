"""The API workflows, made small enough for a CPU: with random weights, or with those of FlashVideo-Tiny."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flashvideo.report.settings import TINY_STAGE1, TINY_STAGE2
from tools.workflow_specs import FULL, TINY

TINY_PROMPT = "a large striped red star moves left over the sea"
_API = Path(__file__).resolve().parents[2] / "workflows" / "api"


def workflows() -> list[str]:
    return sorted(path.stem for path in _API.glob("*.json"))


def made_small(
    name: str, width: int = 64, height: int = 48, target: tuple[int, int] = (96, 64), approve: str = "never"
) -> dict[str, Any]:
    """An API workflow with small sizes, few frames and few steps; everything else as in the file."""
    nodes: dict[str, Any] = json.loads((_API / f"{name}.json").read_text(encoding="utf-8"))
    changes = {
        "FlashVideoEmptyLatent": {"size": "custom", "width": width, "height": height, "length": 9},
        "FlashVideoUpscaleEncode": {"size": "custom", "width": target[0], "height": target[1]},
        "FlashVideoStage1Sampler": {"steps": 3},
        "FlashVideoStage1Sigmas": {"steps": 3},
        "FlashVideoPreviewGate": {"approve": approve},
    }
    for node in nodes.values():
        node["inputs"] |= changes.get(node["class_type"], {})
    return nodes


def made_tiny(name: str, prompt: str = TINY_PROMPT, approve: str = "always") -> dict[str, Any]:
    """An API workflow with FlashVideo-Tiny's weights, sizes and settings; it then shows what the prompt says."""
    nodes: dict[str, Any] = json.loads((_API / f"{name}.json").read_text(encoding="utf-8"))
    first, second = TINY_STAGE1, TINY_STAGE2
    guided = {"cfg": first.guidance_scale, "guidance_curve": first.guidance_curve}
    changes = {
        "FlashVideoTextEncode": {"prompt": prompt},
        "FlashVideoEmptyLatent": {"size": "custom", "width": first.width, "height": first.height, "length": 17},
        "FlashVideoStage1Sampler": {"steps": first.num_steps, **guided},
        "FlashVideoStage1Guider": guided,
        "FlashVideoStage1Sigmas": {"steps": first.num_steps},
        "FlashVideoPreviewGate": {"approve": approve},
        "FlashVideoUpscaleEncode": {"size": "custom", "width": second.width, "height": second.height},
        "FlashVideoDegrade": {"noise_step": second.noise_step},
        "FlashVideoStage2NoiseStep": {"noise_step": second.noise_step},
        "FlashVideoStage2Refiner": {"cfg": second.guidance_scale},
        "CFGGuider": {"cfg": second.guidance_scale},
        "FlashVideoParameterGrid": {"cfg": "1, 2", "noise_step": str(second.noise_step), "cell_width": second.width},
    }
    bundled = {FULL[part]: TINY[part] for part in TINY}
    for node in nodes.values():
        node["inputs"] |= changes.get(node["class_type"], {})
        for key, value in node["inputs"].items():
            if isinstance(value, str):
                node["inputs"][key] = bundled.get(value, value)
    return nodes
