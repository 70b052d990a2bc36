"""Pixel Degradation: what Stage II is trained to undo, made visible."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
from comfy_api.latest import io
from torch import Tensor

from ...flashvideo.method.pixel_degradation import PixelDegradation, degrade_pixels
from ...flashvideo.video.compression import CODECS
from ..shared.widgets import seed_input
from ..shared.wiring import image_to_video, require_finite_image, require_one_video

STRONG_SHARES = {"random": 0.5, "strong": 1.0, "weak": 0.0}


class PixelDegradationNode(io.ComfyNode):
    """IMAGE to poorer IMAGE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoDegradePixels",
            display_name="FlashVideo Pixel Degradation",
            category="FlashVideo",
            description="Makes a good video poor, as Stage II's training does: blurred, reduced and enlarged again, by "
            "random strengths that are the same for all frames.",
            search_aliases=["flashvideo", "degrade", "blur", "downscale", "low quality", "jpeg", "training data"],
            inputs=[
                io.Image.Input("image", tooltip="A good video or picture, of any size. All frames count as one clip."),
                io.Combo.Input(
                    "strength",
                    options=list(STRONG_SHARES),
                    default="random",
                    tooltip="weak: reduced by 4 to 8 and enlarged again. strong: two rounds of blur and resize before. "
                    "random: either, as in training.",
                ),
                seed_input("Seed of everything random: the same seed gives the same result."),
                io.Boolean.Input(
                    "noise",
                    default=False,
                    tooltip="Strong form only: Gaussian or Poisson noise in each round. The paper does without.",
                ),
                io.Boolean.Input(
                    "compression",
                    default=False,
                    tooltip="Strong form only: JPEG and H.264 losses in each round. The paper does without.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The poor video, at the size of the good one.")],
        )

    @classmethod
    def execute(cls, image: Tensor, strength: str, seed: int, noise: bool, compression: bool) -> io.NodeOutput:
        settings = PixelDegradation(
            strong_share=STRONG_SHARES[strength],
            noise_probability=float(noise),
            jpeg_probability=float(compression),
            h264_probability=float(compression),
        )
        require_one_video(image)
        require_finite_image(image)
        video = image_to_video(image)
        bar = comfy.utils.ProgressBar(video.shape[2])

        def progress(done: int, total: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(done, total)

        degraded = degrade_pixels(video, settings, seed=seed, codecs=CODECS, progress=progress)
        return io.NodeOutput(degraded[0].movedim(0, -1))


NODES = [PixelDegradationNode]
