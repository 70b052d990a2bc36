"""ComfyUI-FlashVideo: two-stage video generation as ComfyUI nodes.

Nothing of ComfyUI is imported here: tests and tools may import this folder as a package without it.
"""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./js"
MINIMUM_COMFYUI = (0, 33)


def check_comfyui(version: str) -> None:
    """Raise RuntimeError for a ComfyUI that is too old; its loader shows the message in the log."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < MINIMUM_COMFYUI:
        needed = ".".join(map(str, MINIMUM_COMFYUI))
        raise RuntimeError(
            f"ComfyUI-FlashVideo needs ComfyUI {needed} or newer, this is {version}. "
            "Update ComfyUI (ComfyUI-Manager: Update ComfyUI), then start it again."
        )


async def comfy_entrypoint() -> Any:
    """Called by ComfyUI: the pack's extension."""
    try:
        from comfyui_version import __version__ as version
    except ImportError:  # older than the file that tells
        version = "0.0"
    check_comfyui(version)
    from .nodes import FlashVideoExtension

    return FlashVideoExtension()
