"""Model files as the loaders' menus show them: ComfyUI's folders and the tiny models that come with the pack."""

from __future__ import annotations

from pathlib import Path

import folder_paths

_TINY = Path(__file__).parents[2] / "flashvideo" / "assets" / "tiny"

# menu entry -> file: FlashVideo-Tiny, which runs on any machine and knows moving shapes only
BUNDLED = {
    "stage1": {"tiny-stage1.safetensors (bundled)": _TINY / "stage1.safetensors"},
    "stage2": {"tiny-stage2.safetensors (bundled)": _TINY / "stage2.safetensors"},
    "vae": {"tiny-vae.safetensors (bundled)": _TINY / "vae.safetensors"},
    "text": {"tiny-text (bundled)": _TINY / "text" / "model.safetensors"},
}


def model_choices(folder: str, kind: str = "") -> list[str]:
    """Names for a loader's menu: the files of a ComfyUI model folder, then the bundled model of this kind."""
    return [*folder_paths.get_filename_list(folder), *BUNDLED.get(kind, {})]


def model_path(folder: str, name: str, kind: str = "") -> str:
    """The file behind a menu entry; a name that leaves the folder is refused by ComfyUI."""
    bundled = BUNDLED.get(kind, {}).get(name)
    return str(bundled) if bundled is not None else folder_paths.get_full_path_or_raise(folder, name)
