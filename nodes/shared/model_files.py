"""Model files as the loaders' menus show them: ComfyUI's folders and the tiny models that come with the pack."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...flashvideo.loading.published import PUBLISHED

_TINY = Path(__file__).parents[2] / "flashvideo" / "assets" / "tiny"

# menu entry -> file: FlashVideo-Tiny, which runs on any machine and knows moving shapes only
BUNDLED = {
    "stage1": {"tiny-stage1.safetensors (bundled)": _TINY / "stage1.safetensors"},
    "stage2": {"tiny-stage2.safetensors (bundled)": _TINY / "stage2.safetensors"},
    "vae": {"tiny-vae.safetensors (bundled)": _TINY / "vae.safetensors"},
    "text": {"tiny-text (bundled)": _TINY / "text" / "model.safetensors"},
}


def model_choices(folder: str, kind: str = "") -> list[str]:
    """Names for a loader's menu: the files of a ComfyUI model folder, then the bundled model of this kind. Never empty:
    ComfyUI would only say that a required input is missing.
    """
    files = [*folder_paths.get_filename_list(folder), *BUNDLED.get(kind, {})]
    return files or [f"(no file in models/{folder})"]


def model_path(folder: str, name: str, kind: str = "") -> str:
    """The file behind a menu entry.

    Raises:
        ValueError: no such entry; says where the file comes from. Names that leave the folder are none.
    """
    bundled = BUNDLED.get(kind, {})
    if name not in [*bundled, *folder_paths.get_filename_list(folder)]:
        raise ValueError(f"There is no {name!r} in models/{folder}. {_advice(folder, name, kind)}")
    return str(bundled[name] if name in bundled else folder_paths.get_full_path_or_raise(folder, name))


def check_model(folder: str, name: str | None, kind: str = "") -> bool | str:
    """What a loader's ``validate_inputs`` gives back: True, or why a name is no menu entry.

    None is a linked value, known on execution only.
    """
    try:
        return name is None or bool(model_path(folder, name, kind))
    except ValueError as error:
        return str(error)


def _advice(folder: str, name: str, kind: str) -> str:
    published = PUBLISHED.get(kind)
    if published is None:
        return "Put a file there and press R in the editor, then choose it in the menu."
    source = published.url if name == published.name else f"{published.page} ({published.name})"
    return (
        f"Download {source} into that folder and press R in the editor; or choose another file in the menu: "
        f"{next(iter(BUNDLED[kind]))!r} needs no download."
    )
