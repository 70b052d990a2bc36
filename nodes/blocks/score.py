"""Score Video: a video in numbers, on the node, as JSON, as a picture and one by one."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import av  # noqa: F401 (its videos are read with it: without it this family is left out in words)
import folder_paths
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ...flashvideo.checkpoints.outputs import make_folder
from ...flashvideo.scores.measures import BY_ID
from ...flashvideo.scores.score import score_video
from ...flashvideo.video.files import write_image
from ..host.footage import footage_of
from ..host.vae import reporting
from ..shared.node_text import told
from ..shared.score_plot import score_plot

_FOLDER = "flashvideo_score"  # in ComfyUI's temp folder
_NO_LIKENESS = (
    "FlashVideo Score Video has no likeness without a source. Connect the video's source, or nothing to the likeness."
)
INDICES = {
    name: BY_ID[name].help for name in ("sharpness", "likeness", "drift", "flicker", "seam", "pulse")
}  # outputs and their tooltips


class ScoreVideo(io.ComfyNode):
    """A VIDEO's scores."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoScoreVideo",
            display_name="FlashVideo Score Video",
            category="FlashVideo",
            description="Judges a video by numbers: sharpness, likeness to its source, drift of colours, flicker, "
            "seams and pulses, shown on the node and over time. No number replaces looking.",
            search_aliases=["flashvideo", "video quality", "metrics", "psnr", "ssim", "flicker", "sharpness", "score"],
            inputs=[
                io.Video.Input("video", tooltip="The video to judge, of any length; trimmed ones in their part."),
                io.Video.Input(
                    "source",
                    optional=True,
                    tooltip="What it was made from, of any size and rate; what the source has itself is then no fault.",
                ),
                io.Video.Input(
                    "reference",
                    optional=True,
                    tooltip="What it should look like, of its size, frame by frame: PSNR and SSIM.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="scores", tooltip="All of it as JSON, as the command flashvideo score prints it."
                ),
                io.Image.Output(display_name="plot", tooltip="The numbers over time."),
                *(io.Float.Output(display_name=name, tooltip=meaning) for name, meaning in INDICES.items()),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, video: Any, source: Any = None, reference: Any = None) -> io.NodeOutput:
        report = reporting()
        scores = score_video(
            footage_of(video, "video"),
            against=None if source is None else footage_of(source, "source"),
            true=None if reference is None else footage_of(reference, "reference"),
            progress=lambda _, done, total: report(done, max(done, total)),
        )
        numbers = scores.to_dict()
        plot = score_plot(numbers)
        file = make_folder(Path(folder_paths.get_temp_directory()) / _FOLDER) / f"plot_{uuid.uuid4().hex[:12]}.png"
        write_image(file, plot[0].movedim(-1, 0))
        shown = {name: value for name, value in numbers.items() if name not in ("series", "remarks")}
        shown["plot"] = {"filename": file.name, "subfolder": _FOLDER, "type": "temp"}
        return told(
            json.dumps(numbers, allow_nan=False, ensure_ascii=False),
            plot,
            *(_output(numbers[name]) for name in INDICES),
            remarks=scores.remarks,
            ui={"flashvideo_score": [shown]},
        )


def _output(number: float | None) -> Any:
    return ExecutionBlocker(_NO_LIKENESS) if number is None else number


NODES = [ScoreVideo]
