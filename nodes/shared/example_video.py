"""The video of the workflow "FlashVideo refine any video": Load Video finds files of ComfyUI's input folder only."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import folder_paths

from ...flashvideo.checkpoints.outputs import replacing

log = logging.getLogger(__name__)

EXAMPLE = Path(__file__).parents[2] / "workflows" / "input" / "flashvideo_example.mp4"


def put_example_video() -> None:
    """Copy the example into the input folder unless a file of its name is there. A failure costs the example only."""
    target = Path(folder_paths.get_input_directory()) / EXAMPLE.name
    if target.exists():
        return
    try:
        with replacing(target) as partial:
            shutil.copyfile(EXAMPLE, partial)
    except OSError as error:
        log.warning("FlashVideo: %s is not in ComfyUI's input folder (%s); a workflow needs it.", target.name, error)
