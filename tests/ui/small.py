"""The API workflows, made small enough for a CPU: with random weights, or with those of FlashVideo-Tiny."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flashvideo.report.settings import TINY_STAGE1, TINY_STAGE2
from tools.workflow_specs import FULL, TINY, WORKFLOWS

TINY_PROMPT = "a large striped red star moves left over the sea"
TINY_WINDOW = 5  # latent frames, of the 17 frames that FlashVideo-Tiny was trained on
FOLDER = Path(__file__).resolve().parents[2] / "workflows"
_TITLES = {workflow.name: workflow.title for workflow in WORKFLOWS}


def workflows() -> list[str]:
    return sorted(_TITLES)


def editor_file(name: str, suffix: str = ".json") -> Path:
    """The editor's twin of an API workflow, or its picture."""
    return FOLDER / f"{_TITLES[name]}{suffix}"


def api_workflow(name: str) -> dict[str, Any]:
    """An API workflow as it is."""
    return dict(json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8")))


def made_small(
    name: str, width: int = 64, height: int = 48, target: tuple[int, int] = (96, 64), approve: str = "never"
) -> dict[str, Any]:
    """An API workflow with small sizes, few frames and few steps; everything else as in the file."""
    nodes = api_workflow(name)
    changes = {
        "FlashVideoEmptyLatent": {"size": "custom", "width": width, "height": height, "length": 9},
        "FlashVideoUpscaleEncode": {"size": "custom", "width": target[0], "height": target[1]},
        "FlashVideoRefineVideo": {"size": "custom", "width": target[0], "height": target[1], "window": 3, "overlap": 1},
        "FlashVideoAttentionWindows": {"width": 48, "height": 32},
        "FlashVideoStage1Sampler": {"steps": 3},
        "FlashVideoStage1Sigmas": {"steps": 3},
        "FlashVideoPreviewGate": {"approve": approve},
    }
    for node in nodes.values():
        node["inputs"] |= changes.get(node["class_type"], {})
    return nodes


def made_tiny(name: str, prompt: str = TINY_PROMPT, approve: str = "always") -> dict[str, Any]:
    """An API workflow with FlashVideo-Tiny's weights, sizes and settings; it then shows what the prompt says."""
    nodes = api_workflow(name)
    first, second = TINY_STAGE1, TINY_STAGE2
    target = {"size": "custom", "width": second.width, "height": second.height}
    windows = {"window": TINY_WINDOW, "overlap": 2}
    guided = {"cfg": first.guidance_scale, "guidance_curve": first.guidance_curve}
    changes = {
        "PrimitiveStringMultiline": {"value": prompt},
        "FlashVideoEmptyLatent": {"size": "custom", "width": first.width, "height": first.height, "length": 17},
        "FlashVideoStage1Sampler": {"steps": first.num_steps, **guided},
        "FlashVideoStage1Guider": guided,
        "FlashVideoStage1Sigmas": {"steps": first.num_steps},
        "FlashVideoPreviewGate": {"approve": approve},
        "FlashVideoUpscaleEncode": target,
        "FlashVideoRefineVideo": {**target, "noise_step": second.noise_step, "cfg": second.guidance_scale, **windows},
        "FlashVideoAttentionWindows": {"width": second.width, "height": second.height},
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
