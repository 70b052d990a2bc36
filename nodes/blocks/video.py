"""Decode to Video."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...flashvideo.tensors.sizes import SPATIAL_FACTOR
from ..host.codec import VaeLimits, limit_inputs, require_vae
from ..host.colors import MATCH_COLORS, color_finish, color_inputs
from ..host.lazy_video import FrameSource, HeldFrames, KeptFrames, LatentFrames, LazyVideo
from ..host.source import Taken, taken_over
from ..shared.node_text import told
from ..shared.widgets import VIDEO, bit_depth_input, fps_input, frame_rate, vae_input
from ..shared.wiring import require_latents, require_single, true_frames


class DecodeVideo(io.ComfyNode):
    """A LATENT as a VIDEO that is decoded while it is saved."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoDecodeVideo",
            display_name="FlashVideo Decode to Video",
            category="FlashVideo",
            description="A VIDEO that is decoded while Save Video writes it, a few frames in memory at a time. Nodes "
            "that need all its frames get them too.",
            search_aliases=["flashvideo", "vae decode", "create video", "latent to video", "save video", "low memory"],
            inputs=[
                io.Latent.Input("latent", tooltip="One video's latent in VAE space; pick one of a batch first."),
                vae_input(),
                fps_input(f"{VIDEO['fps'].help} Not used where a source is connected."),
                bit_depth_input(),
                *limit_inputs(),
                *color_inputs(),
                io.Video.Input(
                    "source",
                    optional=True,
                    tooltip="The video that was refined: its frame rate and its audio are taken over, in step.",
                ),
                io.Audio.Input(
                    "audio", optional=True, tooltip="Audio to put under the video, instead of the source's."
                ),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="For Save Video and any other node.")],
        )

    @classmethod
    def execute(
        cls,
        latent: dict[str, Any],
        vae: Any,
        fps: float,
        bit_depth: int = 8,
        tile_size: int = 0,
        memory_gb: float = 0.0,
        colors_of: Tensor | None = None,
        match_colors: float = MATCH_COLORS,
        source: Any = None,
        audio: Any = None,
    ) -> io.NodeOutput:
        require_vae(vae)
        samples = require_latents(latent, even=False)
        require_single(samples, ", or decode them all with FlashVideo Tiled VAE Decode")
        taken = Taken(frame_rate(fps), None)
        if source is not None:
            taken = taken_over(source, true_frames(latent), with_audio=audio is None)
        height, width = (side * SPATIAL_FACTOR for side in samples.shape[3:])
        shape = (true_frames(latent), height, width)
        finish = color_finish(latent, colors_of, match_colors, shape[0])
        limits = VaeLimits(tile_size, memory_gb)
        frames: FrameSource = KeptFrames(LatentFrames(vae, samples, shape, limits, finish[0] if finish else None))
        if taken.numbers is not None:
            frames = HeldFrames(frames, taken.numbers)
        audio = taken.audio if audio is None else audio
        return told(LazyVideo(frames, taken.rate, audio, bit_depth), remarks=taken.remarks)


NODES = [DecodeVideo]
