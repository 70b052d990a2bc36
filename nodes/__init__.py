"""The ComfyUI nodes: thin sockets and widgets around the library in ``flashvideo/``.

Each family of nodes is a module with a list ``NODES``. A family that cannot be imported is left out with a message in
the log; the others load all the same.
"""

from __future__ import annotations

import importlib
import logging
from types import ModuleType

from comfy_api.latest import ComfyExtension, io
from server import PromptServer

from .shared.example_video import put_example_video

log = logging.getLogger(__name__)

FAMILIES = (
    *("blocks.loaders", "blocks.vae_loader", "blocks.text", "blocks.stage1", "blocks.degrade", "blocks.stage2"),
    *(
        "blocks.upscale",
        "blocks.decode",
        "blocks.video",
        "blocks.video_frames",
        "blocks.compare",
        "blocks.score",
        "blocks.grid",
    ),
    *("blocks.choose", "gate.preview_gate", "blocks.pixel_degradation", "blocks.windows", "blocks.refine_video"),
    "blocks.verify",
)


def load_families(families: tuple[str, ...] = FAMILIES) -> dict[str, ModuleType]:
    """All families that can be imported, by name."""
    modules: dict[str, ModuleType] = {}
    for family in families:
        try:
            modules[family] = importlib.import_module(f".{family}", __name__)
        except Exception as error:  # whatever a broken dependency raises must cost its own nodes only
            log.error(
                "FlashVideo: the %s nodes are missing, because %s (%s). Install the pack's requirements.txt into "
                "ComfyUI's Python and start it again; the other FlashVideo nodes work.",
                *(family.rpartition(".")[2], error, type(error).__name__),
            )
    return modules


class FlashVideoExtension(ComfyExtension):
    """What ComfyUI asks the pack for, once, when it loads it. Importing the pack changes nothing in ComfyUI; loading it
    adds the gate's routes, and an example video to the input folder if none is there.
    """

    def __init__(self) -> None:
        self._families = load_families()

    async def on_load(self) -> None:
        """The gate's buttons ask the server for previews by routes of their own; a workflow needs its example."""
        put_example_video()
        server = getattr(PromptServer, "instance", None)  # None where ComfyUI is used without its server
        if server is not None and "gate.preview_gate" in self._families:
            from .gate.routes import add_routes

            add_routes(server)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from .shared.sockets import checked

        return [checked(node) for family in self._families.values() for node in family.NODES]
