"""Write ``locales/en/nodeDefs.json`` from the schemas of the nodes, as a real ComfyUI gives them.

Run from the repository root: ``python -m tools.make_locale``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from tests.comfy.server import PACK_FOLDER, ComfyServer, find_comfyui

FILE = Path(__file__).resolve().parents[1] / "locales" / "en" / "nodeDefs.json"
_NAMES = {"memory_gb": "memory (GB)"}  # where the input's id with spaces would not do


def node_texts(object_info: dict[str, Any]) -> str:
    """The file's content for the nodes of this pack in an answer of ``/object_info``."""
    entries = {name: _entry(info) for name, info in object_info.items() if PACK_FOLDER in info["python_module"]}
    return json.dumps(dict(sorted(entries.items())), indent=2, ensure_ascii=False) + "\n"


def _entry(info: dict[str, Any]) -> dict[str, Any]:
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    settings = {key: (spec[1] if len(spec) > 1 else {}) for key, spec in inputs.items()}
    outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {key: {"name": _name(key, each), "tooltip": each["tooltip"]} for key, each in settings.items()},
        "outputs": {str(k): {"name": name, "tooltip": tooltip} for k, (name, tooltip) in enumerate(outputs)},
    }


def _name(key: str, settings: dict[str, Any]) -> str:
    return str(settings.get("display_name") or _NAMES.get(key) or key.replace("_", " "))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    comfyui = find_comfyui()
    if comfyui is None:
        parser.error("no ComfyUI found; set COMFYUI_PATH to its folder")
    with tempfile.TemporaryDirectory() as folder:
        server = ComfyServer(comfyui, Path(folder))
        server.start()
        try:
            FILE.write_text(node_texts(server.get("/object_info")), encoding="utf-8")
        finally:
            server.stop()


if __name__ == "__main__":
    main()
