"""Write ``workflows/*.jpg`` from real runs of the API workflows with FlashVideo-Tiny: each shows what it is for.

Run from the repository root: ``python -m tools.make_thumbnails``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import av
from PIL import Image, ImageDraw, ImageOps

from tests.comfy.server import ComfyServer, find_comfyui
from tests.ui.models import add_drawn_video
from tests.ui.small import editor_file, made_tiny, workflows

from .workflow_specs import EXAMPLE_SCENE, EXAMPLE_VIDEO

SIZE = 360  # pixels a side: the templates browser shows squares
PROMPTS = {
    "parameter-grid": "a large striped green star moves left over the sea",
    "preview-then-refine": "a large banded pink circle rises over the desert",
    "refine-any-video": EXAMPLE_SCENE.caption,
    "stage-parts-with-core-samplers": "a large plain red cross rests and a small barred white circle rises at night",
    "tiny-demo": "a large striped red star moves left over the sea",
    "two-stage-text-to-video": "a large barred yellow square drifts right over a meadow",
}


def picture(path: Path) -> Image.Image:
    """An image, or the middle frame of a video."""
    if path.suffix == ".png":
        return Image.open(path).convert("RGB")
    with av.open(path) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    return frames[len(frames) // 2]


def square(image: Image.Image, whole: bool = False) -> Image.Image:
    """The middle of a picture, or all of it on a dark ground."""
    if whole:
        image = ImageOps.pad(image, (SIZE, SIZE), Image.Resampling.LANCZOS, (24, 24, 24))
    return ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.LANCZOS)


def wiped(before: Image.Image, after: Image.Image) -> Image.Image:
    """Two pictures of one thing, with a line between them."""
    after.paste(before.crop((0, 0, SIZE // 2, SIZE)), (0, 0))
    ImageDraw.Draw(after).line([(SIZE // 2, 0), (SIZE // 2, SIZE)], fill="white", width=2)
    return after


def thumbnail(base: Path, name: str, outputs: dict[str, Any]) -> Image.Image:
    """What a run saved; where a video was refined, what it was before beside it."""

    def found(file: dict[str, str]) -> Image.Image:
        path = base / file["type"] / file["subfolder"] / file["filename"]
        return square(picture(path), whole=path.suffix == ".png")

    after = found(next(ui["images"][0] for ui in outputs.values() if "images" in ui))
    if name == "refine-any-video":
        return wiped(square(picture(base / "input" / EXAMPLE_VIDEO)), after)
    pairs = [ui["flashvideo_compare"][0] for ui in outputs.values() if "flashvideo_compare" in ui]
    return wiped(found(pairs[0]["before"]), after) if pairs else after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    comfyui = find_comfyui()
    if comfyui is None:
        parser.error("no ComfyUI found; set COMFYUI_PATH to its folder")
    with tempfile.TemporaryDirectory() as folder:
        server = ComfyServer(comfyui, Path(folder))
        add_drawn_video(server.base / "input" / EXAMPLE_VIDEO, EXAMPLE_SCENE.seed)
        server.start()
        try:
            for name in workflows():
                run = server.run(made_tiny(name, PROMPTS[name]))
                if run.error:
                    raise RuntimeError(f"{name}: {run.message}")
                thumbnail(server.base, name, run.outputs).save(editor_file(name, ".jpg"), quality=88)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
