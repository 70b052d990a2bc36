"""Compare: before and after, in the node as a wipe and as a video side by side."""

from __future__ import annotations

import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any

import av  # noqa: F401 (its videos are written with it: without it this family is left out in words)
import comfy.model_management
import comfy.utils
import folder_paths
import torch
import torch.nn.functional as F
from comfy_api.latest import io
from torch import Tensor

from ...flashvideo.checkpoints.outputs import make_folder
from ...flashvideo.video.files import VideoWriter, write_image
from ...flashvideo.video.resize import side_by_side
from ..host.lazy_video import LazyVideo
from ..shared.widgets import fps_input, frame_rate
from ..shared.wiring import image_to_video

_FOLDER = "flashvideo_compare"  # in ComfyUI's temp folder
_CRF = 14
_JOINED_AT_ONCE = 8


class JoinedFrames:
    """Two videos next to each other, the left one at the height of the right one; a few frames in memory at a time."""

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self.left, self.right = left, right
        first = self._joined(slice(0, 1))
        self.shape = (len(right), first.shape[1], first.shape[2])

    def _joined(self, frames: slice) -> Tensor:
        joined = side_by_side(image_to_video(self.left[frames]), image_to_video(self.right[frames]))
        return joined[0].movedim(0, -1)

    def stream(self, stop: int) -> Generator[Tensor, None, None]:
        for start in range(0, stop, _JOINED_AT_ONCE):
            comfy.model_management.throw_exception_if_processing_interrupted()
            yield self._joined(slice(start, min(start + _JOINED_AT_ONCE, stop)))


def even(image: Tensor) -> Tensor:
    """Without the last row and column where their number is odd: H.264 takes even sizes only."""
    height, width = (max(2, side // 2 * 2) for side in image.shape[1:3])
    return image[:, :height, :width]


def check_pair(before: Tensor, after: Tensor) -> None:
    """Raise ValueError unless both are videos of as many frames."""
    for name, image in (("before", before), ("after", after)):
        if image.ndim != 4 or image.shape[-1] < 3 or min(image.shape[1:3]) < 2:
            raise ValueError(f"{name} has shape {list(image.shape)}; expected [frames, height, width, 3].")
    if len(before) != len(after):
        raise ValueError(
            f"before has {len(before)} frames and after {len(after)}. Decode the refined latent with FlashVideo Tiled "
            "VAE Decode, which leaves padding out, and connect the very frames that were refined."
        )


def save_for_wipe(
    image: Tensor, size: tuple[int, int], fps: float, name: str, bar: comfy.utils.ProgressBar
) -> dict[str, str]:
    """Write a video (a PNG for one frame) at (height, width) into ComfyUI's temp folder; gives what /view takes."""
    folder = make_folder(Path(folder_paths.get_temp_directory()) / _FOLDER)
    single = len(image) == 1
    path = folder / f"{name}_{uuid.uuid4().hex[:12]}.{'png' if single else 'mp4'}"
    if single:
        write_image(path, _sized(image, size)[0, :, 0])
    else:
        with VideoWriter(path, frame_rate(fps), _CRF, preset="veryfast") as writer:
            for frame in image.split(1):
                writer.write(_sized(frame, size))
                bar.update(1)
    return {"filename": path.name, "subfolder": _FOLDER, "type": "temp"}


def _sized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """One frame as ``[1, 3, 1, H, W]``, bicubic where its size differs: what a player would show of it."""
    video = image_to_video(image)
    if video.shape[3:] != size:
        frame = F.interpolate(video[:, :, 0], size=size, mode="bicubic", antialias=True).clamp(0, 1)
        video = frame[:, :, None]
    return torch.nan_to_num(video)


class Compare(io.ComfyNode):
    """Before and after."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoCompare",
            display_name="FlashVideo Compare",
            category="FlashVideo",
            description="Shows the small video and the refined one over each other, with a wipe, and gives them side "
            "by side as one video, as the authors save it.",
            search_aliases=["flashvideo", "compare", "image comparer", "side by side", "wipe", "before after"],
            inputs=[
                io.Image.Input("before", tooltip="The small video, of any size; on the left."),
                io.Image.Input("after", tooltip="The refined video, of as many frames; on the right."),
                fps_input("Frames per second of the joint video and of what the node shows."),
            ],
            outputs=[io.Video.Output(display_name="joint", tooltip="Both side by side, for Save Video.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, before: Tensor, after: Tensor, fps: float) -> io.NodeOutput:
        check_pair(before, after)
        before, after = even(before), even(after)
        height, width = after.shape[1:3]
        shown: dict[str, Any] = {"kind": "image" if len(after) == 1 else "video", "width": width, "height": height}
        shown |= {"fps": fps, "frames": len(after)}
        bar = comfy.utils.ProgressBar(2 * len(after))
        for name, image in (("before", before), ("after", after)):
            shown[name] = save_for_wipe(image, (height, width), fps, name, bar)
        joint = LazyVideo(JoinedFrames(before, after), frame_rate(fps))
        return io.NodeOutput(joint, ui={"flashvideo_compare": [shown]})


NODES = [Compare]
