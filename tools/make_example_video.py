"""Write the example video of ``workflows/input/``: a drawn scene, as small and as long as Stage II knows videos best.

Run from the repository root: ``python -m tools.make_example_video``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from flashvideo.shapes.render import render_low_clip
from flashvideo.video.files import write_video

from .workflow_specs import EXAMPLE_SCENE, EXAMPLE_VIDEO

FILE = Path(__file__).resolve().parents[1] / "workflows" / "input" / EXAMPLE_VIDEO
HEIGHT, WIDTH, FRAMES, FPS, CRF = 288, 480, 49, 8, 18


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    FILE.parent.mkdir(exist_ok=True)
    write_video(FILE, render_low_clip(EXAMPLE_SCENE, HEIGHT, WIDTH, FRAMES), FPS, CRF, overwrite=True)


if __name__ == "__main__":
    main()
