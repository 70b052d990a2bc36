"""Write ``workflows/*.jpg`` from real runs of the API workflows with FlashVideo-Tiny: each shows what it is for.

Run from the repository root: ``python -m tools.make_thumbnails``.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import torch
from PIL import Image, ImageDraw, ImageOps

from flashvideo.shapes.render import render_low_clip
from flashvideo.shapes.scenes import Scene, sample_scene
from flashvideo.video.files import write_video
from tests.comfy.server import ComfyServer, find_comfyui
from tests.ui.models import add_interpolator
from tests.ui.small import editor_file, made_tiny, workflows

from .workflow_specs import EXAMPLE_SCENE

SIZE = 360  # pixels a side: the templates browser shows squares
PROMPTS = {
    "24-fps-after-refining": "a large barred blue triangle moves right over the sea",
    "24-fps-before-refining": "a large striped yellow cross rises before a wall",
    "parameter-grid": "a large striped green star moves left over the sea",
    "preview-then-refine": "a large banded pink circle rises over the desert",
    "stage-parts-with-core-samplers": "a large plain red cross rests and a small barred white circle rises at night",
    "tiny-demo": "a large striped red star moves left over the sea",
    "two-stage-text-to-video": "a large barred yellow square drifts right over a meadow",
}


@dataclass(frozen=True)
class Footage:
    """A drawn video that a workflow refines, of so many frames and pixels, and as much noise."""

    scene: Scene
    height: int = 48
    width: int = 80
    frames: int = 17
    noise: float = 0.0

    def write(self, path: Path) -> None:
        clip = render_low_clip(self.scene, self.height, self.width, self.frames)
        grain = torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))
        write_video(path, (clip + self.noise * grain).clamp(0, 1), 8, overwrite=True)


FOOTAGE = {
    "refine-any-video": Footage(EXAMPLE_SCENE),
    "restore-footage": Footage(sample_scene(15, count=1, held_out=None), height=96, width=160, noise=0.08),
    "4k": Footage(sample_scene(10, count=1, held_out=None), height=96, width=160),
    "long-video": Footage(sample_scene(11, count=2, held_out=None), frames=65),
}
_SIZES = {"4k": {"FlashVideoRefineVideo": {"width": 640, "height": 384}}}  # of nodes
_MOMENTS = ("24-fps-after-refining", "24-fps-before-refining", "long-video")  # shown as first, middle and last frame


def frames_of(path: Path) -> list[Image.Image]:
    """An image, or a video's frames."""
    if path.suffix == ".png":
        return [Image.open(path).convert("RGB")]
    with av.open(path) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def picture(path: Path) -> Image.Image:
    """An image, or the middle frame of a video."""
    frames = frames_of(path)
    return frames[len(frames) // 2]


def moments(frames: list[Image.Image]) -> Image.Image:
    """The first, the middle and the last frame, one below the other."""
    shown = Image.new("RGB", (SIZE, SIZE), "white")
    for row, frame in enumerate((frames[0], frames[len(frames) // 2], frames[-1])):
        shown.paste(ImageOps.fit(frame, (SIZE, SIZE // 3 - 2), Image.Resampling.LANCZOS), (0, row * SIZE // 3 + 1))
    return shown


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

    def path_of(file: dict[str, str]) -> Path:
        return base / file["type"] / file["subfolder"] / file["filename"]

    def found(file: dict[str, str]) -> Image.Image:
        path = path_of(file)
        return square(picture(path), whole=path.suffix == ".png")

    saved = next(ui["images"][0] for ui in outputs.values() if "images" in ui)
    if name in _MOMENTS:
        return moments(frames_of(path_of(saved)))
    after = found(saved)
    if name in FOOTAGE:
        return wiped(square(picture(base / "input" / f"{name}.mp4")), after)
    pairs = [ui["flashvideo_compare"][0] for ui in outputs.values() if "flashvideo_compare" in ui]
    return wiped(found(pairs[0]["before"]), after) if pairs else after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="workflows to run; all by default")
    names = parser.parse_args().names or workflows()
    comfyui = find_comfyui()
    if comfyui is None:
        parser.error("no ComfyUI found; set COMFYUI_PATH to its folder")
    with tempfile.TemporaryDirectory() as folder:
        server = ComfyServer(comfyui, Path(folder))
        add_interpolator(server)
        for name, footage in FOOTAGE.items():
            footage.write(server.base / "input" / f"{name}.mp4")
        server.start()
        try:
            for name in names:
                prompt = FOOTAGE[name].scene.caption if name in FOOTAGE else PROMPTS[name]
                nodes = made_tiny(name, prompt)
                for node in nodes.values():
                    node["inputs"] |= _SIZES.get(name, {}).get(node["class_type"], {})
                    if node["class_type"] == "LoadVideo":
                        node["inputs"]["file"] = f"{name}.mp4"
                run = server.run(nodes)
                if run.error:
                    raise RuntimeError(f"{name}: {run.message}")
                thumbnail(server.base, name, run.outputs).save(editor_file(name, ".jpg"), quality=88)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
