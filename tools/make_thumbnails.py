"""Write ``workflows/*.jpg`` from real runs of the API workflows with FlashVideo-Tiny.

Run from the repository root: ``python -m tools.make_thumbnails``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import av
from PIL import Image

from tests.comfy.server import ComfyServer, find_comfyui
from tests.ui.models import add_drawn_video
from tests.ui.small import TINY_PROMPT, made_tiny, workflows

FOLDER = Path(__file__).resolve().parents[1] / "workflows"
SIZE = (480, 320)
_DRAWN = 4  # seed of the scene that stands for "any video"


def picture(path: Path) -> Image.Image:
    """An image, or the middle frame of a video."""
    if path.suffix == ".png":
        return Image.open(path).convert("RGB")
    with av.open(path) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    return frames[len(frames) // 2]


def thumbnail(image: Image.Image) -> Image.Image:
    """The picture on a dark ground."""
    scale = min(SIZE[0] / image.width, SIZE[1] / image.height)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", SIZE, (24, 24, 24))
    canvas.paste(image, ((SIZE[0] - image.width) // 2, (SIZE[1] - image.height) // 2))
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    comfyui = find_comfyui()
    if comfyui is None:
        parser.error("no ComfyUI found; set COMFYUI_PATH to its folder")
    with tempfile.TemporaryDirectory() as folder:
        server = ComfyServer(comfyui, Path(folder))
        said = add_drawn_video(server.base / "input" / "flashvideo_example.mp4", _DRAWN)
        server.start()
        try:
            for name in workflows():
                run = server.run(made_tiny(name, said if name == "refine-any-video" else TINY_PROMPT))
                if run.error:
                    raise RuntimeError(f"{name}: {run.message}")
                saved = next(ui["images"][0] for ui in run.outputs.values() if "images" in ui)
                path = server.base / saved["type"] / saved["subfolder"] / saved["filename"]
                thumbnail(picture(path)).save(FOLDER / f"{name}.jpg", quality=88)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
