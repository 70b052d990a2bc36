"""Decode to Video."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
import torch
from comfy_api.input import AudioInput
from comfy_api.input_impl import VideoFromFile
from comfy_api.latest import io
from torch import Tensor

from ...flashvideo.tensors.sizes import SPATIAL_FACTOR
from ...flashvideo.video.ffmpeg import open_input
from ..host.codec import VaeLimits, limit_inputs, require_vae
from ..host.colors import MATCH_COLORS, color_finish, color_inputs
from ..host.lazy_video import LatentFrames, LazyVideo
from ..shared.widgets import VIDEO, fps_input, frame_rate, vae_input
from ..shared.wiring import require_latents, require_single, true_frames


def source_audio(video: Any) -> AudioInput | None:
    """The audio of a VIDEO, in ComfyUI's form; of files, without decoding a frame."""
    if isinstance(video, LazyVideo):
        return video.get_audio()
    if isinstance(video, VideoFromFile):
        return read_audio(video.get_stream_source(), *video.get_active_trim_window())
    return video.get_components().audio


def read_audio(source: Any, start: float, duration: float) -> AudioInput | None:
    """The last audio stream of a file that can be decoded, from ``start`` on; ``duration`` 0 is to the end."""
    with open_input(source) as container:
        streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
        if not streams:
            return None
        resampler, parts, offset, rate = av.AudioResampler(format="fltp"), [], None, streams[-1].rate
        for frame in container.decode(streams[-1]):
            offset = float(frame.time or 0) if offset is None else offset
            parts += [piece.to_ndarray() for piece in resampler.resample(frame)]
        parts += [piece.to_ndarray() for piece in resampler.resample(None)]
    if not parts:
        return None
    first = round((start - (offset or 0)) * rate)
    waveform = np.concatenate(parts, axis=1)
    waveform = waveform[:, first:] if first >= 0 else np.pad(waveform, ((0, 0), (-first, 0)))
    if duration:
        waveform = waveform[:, : round(duration * rate)]
    return {"waveform": torch.from_numpy(waveform.copy())[None], "sample_rate": rate}


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
                io.Int.Input(
                    "bit_depth",
                    default=8,
                    min=8,
                    max=10,
                    step=2,
                    tooltip="Of the file: 10 keeps gradients smoother, but some players cannot show it.",
                    advanced=True,
                    optional=True,
                ),
                *limit_inputs(),
                *color_inputs(),
                io.Video.Input(
                    "source",
                    optional=True,
                    tooltip="The video that was refined: its frame rate and its audio are taken over.",
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
        rate = frame_rate(fps) if source is None else Fraction(source.get_frame_rate())
        if audio is None and source is not None:
            audio = source_audio(source)
        height, width = (side * SPATIAL_FACTOR for side in samples.shape[3:])
        shape = (true_frames(latent), height, width)
        finish = color_finish(latent, colors_of, match_colors, shape[0])
        limits = VaeLimits(tile_size, memory_gb)
        frames = LatentFrames(vae, samples, shape, limits, finish[0] if finish else None)
        return io.NodeOutput(LazyVideo(frames, rate, audio, bit_depth))


NODES = [DecodeVideo]
