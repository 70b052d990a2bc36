"""Write ``docs/editor.webp``: the real editor with the tiny demo, two previews in the gate and the chosen one refined.

Run from the repository root, with a ComfyUI and a Chromium where the tests find them:
``python -m tools.make_editor_picture``.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

from PIL import Image

from tests.comfy.server import ComfyServer, find_comfyui
from tests.ui.editor import Editor, editor
from tests.ui.gate_bench import GATE
from tests.ui.small import editor_file

ROOT = Path(__file__).resolve().parents[1]
PICTURE, WORKFLOW = ROOT / "docs" / "editor.webp", editor_file("tiny-demo")
_SIZE = (1520, 880)
_SCALE = 0.7
_FIRST_GROUP = 2  # Stage I: models and prompts lie to the left of the picture
_LOOK = """([first, scale]) => {
  const frames = app.rootGraph.groups.slice(first), ds = app.canvas.ds;
  const left = Math.min(...frames.map((frame) => frame.pos[0]));
  ds.scale = scale;
  ds.offset = [80 / scale - left, 100 / scale];  // beside the editor's own bars
  app.canvas.deselectAll();
  app.canvas.setDirty(true, true);
}"""
_UNCLUTTERED = {"Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False}
_PAUSE = (
    """() => { for (const video of document.querySelectorAll('video')) { video.pause(); video.currentTime = 1; } }"""
)


def take(page: Editor) -> bytes:
    """Run the workflow, refine the first preview, look at it all from Stage I on."""
    for key, value in _UNCLUTTERED.items():
        page.server.request(f"/settings/{key}", value)
    page.open()
    page.load(WORKFLOW)
    page.queue()
    page.show(page.page.evaluate("(t) => app.rootGraph.nodes.find((node) => node.type === t).id", GATE), 1.2)
    refine = page.page.locator(".flashvideo-gate .refine")
    page.until(refine.count, 2)
    runs = len(page.server.get("/history"))
    refine.first.click()
    page.wait_started(runs)
    page.page.evaluate(_LOOK, [_FIRST_GROUP, _SCALE])
    page.page.wait_for_timeout(2500)
    page.page.evaluate(_PAUSE)
    page.page.mouse.move(_SIZE[0] - 5, _SIZE[1] - 5)
    page.page.wait_for_timeout(1000)
    return bytes(page.page.screenshot())


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
            with editor(server, _SIZE) as page:
                picture = Image.open(io.BytesIO(take(page))).convert("RGB")
        finally:
            server.stop()
    picture.save(PICTURE, quality=90, method=6)


if __name__ == "__main__":
    main()
