"""The ComfyUI nodes: thin sockets and widgets around the library in ``flashvideo/``.

Each family of nodes is a module with a list ``NODES``. A family that cannot be imported is left out with a message in
the log; the others load all the same.
"""

from __future__ import annotations

import importlib
import logging

from comfy_api.latest import ComfyExtension, io

log = logging.getLogger(__name__)

FAMILIES = (
    *("blocks.loaders", "blocks.vae_loader", "blocks.text", "blocks.stage1", "blocks.degrade", "blocks.stage2"),
    *("blocks.upscale", "blocks.decode", "blocks.video", "blocks.compare", "blocks.grid", "blocks.choose"),
    *("gate.preview_gate", "blocks.pixel_degradation"),
)


def load_families(families: tuple[str, ...] = FAMILIES) -> list[type[io.ComfyNode]]:
    """The nodes of all families that can be imported."""
    nodes: list[type[io.ComfyNode]] = []
    for family in families:
        try:
            nodes += importlib.import_module(f".{family}", __name__).NODES
        except Exception as error:  # whatever a broken dependency raises must cost its own nodes only
            log.error(
                "FlashVideo: the %s nodes are missing, because %s (%s). Install the pack's requirements.txt into "
                "ComfyUI's Python and start it again; the other FlashVideo nodes work.",
                *(family.rpartition(".")[2], error, type(error).__name__),
            )
    return nodes


class FlashVideoExtension(ComfyExtension):
    """What ComfyUI asks the pack for."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return load_families()
