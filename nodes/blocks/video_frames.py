"""Video Frames: a VIDEO as IMAGE, read as players show it."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..host.source import read_frames
from ..shared.node_text import told


class VideoFrames(io.ComfyNode):
    """A VIDEO's frames, audio and frame rate."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoVideoFrames",
            display_name="FlashVideo Video Frames",
            category="FlashVideo",
            description="A video's frames as players show them: turned and mirrored as the file says, in square "
            "pixels, from the default track. What frames cannot hold is told on the node.",
            search_aliases=["flashvideo", "get video components", "video to image", "load video", "rotate", "extract"],
            inputs=[io.Video.Input("video", tooltip="From Load Video, for example.")],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The frames, for Upscale and Encode."),
                io.Audio.Output(display_name="audio", tooltip="The default audio track, from the first frame on."),
                io.Float.Output(display_name="fps", tooltip="Frames per second, on average where they vary."),
            ],
        )

    @classmethod
    def execute(cls, video: Any) -> io.NodeOutput:
        images, rate, audio, remarks = read_frames(video)
        return told(images, audio, float(rate), remarks=remarks)


NODES = [VideoFrames]
