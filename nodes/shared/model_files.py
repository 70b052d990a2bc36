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
_GGUF = ("stage1", "stage2", "text")  # what is quantised to it; VAEs are not


def model_choices(folder: str, kind: str = "") -> list[str]:
    """Names for a loader's menu: the files of a ComfyUI model folder, then the bundled model of this kind. Never empty:
    ComfyUI would only say that a required input is missing.
    """
    files = [*_files(folder, kind), *BUNDLED.get(kind, {})]
    return files or [f"(no file in models/{folder})"]


def _files(folder: str, kind: str) -> list[str]:
    """The files that ComfyUI lists, and GGUF ones, which it leaves out."""
    files = list(folder_paths.get_filename_list(folder))
    if kind not in _GGUF:
        return files
    found = (folder_paths.recursive_search(home, [".git"])[0] for home in folder_paths.get_folder_paths(folder))
    quantised = {name for names in found for name in names if name.lower().endswith(".gguf")}
    return [*files, *sorted(quantised.difference(files))]


def model_path(folder: str, name: str, kind: str = "") -> str:
    """The file behind a menu entry.

    Raises:
        ValueError: no such entry; says where the file comes from. Names that leave the folder are none.
    """
    bundled = BUNDLED.get(kind, {})
    if name not in [*bundled, *_files(folder, kind)]:
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
