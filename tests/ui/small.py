"""The API workflows, made small enough for a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
