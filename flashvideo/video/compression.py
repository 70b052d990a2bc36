"""Compression losses for degraded clips: JPEG frame by frame, and H.264 over a clip, through PyAV in memory.

Both give the same bytes on every run: one thread, no macroblock tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .ffmpeg import to_rgb24, to_yuv420p, to_yuvj420p
from .files import BT709, DETERMINISTIC, LIMITED_RANGE, to_bytes

# MPEG's quantiser scales a matrix that is about 0.6 of JPEG's example table, in eighths.
_QUANTISER_STEPS_PER_PERCENT = 8 / 100 / 0.6


def jpeg_frames(frames: Tensor, quality: float) -> Tensor:
    """Each frame through JPEG (4:2:0).

    Args:
        frames: ``[F, 3, H, W]`` in 0..1.
        quality: on libjpeg's scale, 1 (worst) to 100, as near as FFmpeg's quantiser comes to it.
    """
    return torch.stack([_through_jpeg(frame, jpeg_quantiser(quality)) for frame in frames]).to(frames.device)


def jpeg_quantiser(quality: float) -> int:
    """FFmpeg's quantiser, 2 (best) to 31, for a quality on libjpeg's scale."""
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    return min(31, max(2, round(percent * _QUANTISER_STEPS_PER_PERCENT)))


def _through_jpeg(frame: Tensor, quantiser: int) -> Tensor:
    from av import CodecContext

    codec: Any = CodecContext.create("mjpeg", "w")
    codec.options = {"qmin": str(quantiser), "qmax": str(quantiser)}
    picture = _picture(frame)
    codec.width, codec.height, codec.pix_fmt = picture.width, picture.height, "yuvj420p"
    codec.time_base = Fraction(1, 1)
    codec.thread_count = 1
    picture = to_yuvj420p(picture)
    packets: list[Any] = [*codec.encode(picture), *codec.encode(None)]
    decoder: Any = CodecContext.create("mjpeg", "r")
    decoded: list[Any] = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    return _pixels(decoded[0], "mjpeg")


def h264_clip(video: Tensor, crf: float) -> Tensor:
    """A clip through H.264 (yuv420p, BT.709).

    Args:
        video: ``[3, F, H, W]`` in 0..1; odd sizes are padded by their edge, and cut again.
        crf: x264's constant rate factor, 0 (lossless but for the colours) to 51.
    """
    height, width = video.shape[2:]
    even = F.pad(video, (0, width % 2, 0, height % 2), mode="replicate")
    result = torch.empty_like(video)
    for index, pixels in enumerate(_through_h264(even.unbind(1), crf)):
        result[:, index] = pixels[:, :height, :width]
    return result


def _through_h264(frames: Iterable[Tensor], crf: float) -> Iterator[Tensor]:
    from av import CodecContext

    decoder: Any = CodecContext.create("h264", "r")
    decoder.thread_count = 1
    for packet in _h264_packets(frames, crf):
        yield from (_pixels(picture, "h264") for picture in decoder.decode(packet))
    yield from (_pixels(picture, "h264") for picture in decoder.decode(None))


def _h264_packets(frames: Iterable[Tensor], crf: float) -> Iterator[Any]:
    from av import CodecContext

    codec: Any = CodecContext.create("libx264", "w")
    codec.options = {"crf": f"{crf:.2f}", "preset": "medium", "x264-params": DETERMINISTIC}
    codec.thread_count, codec.time_base, codec.pix_fmt = 1, Fraction(1, 25), "yuv420p"
    codec.color_primaries = codec.color_trc = codec.colorspace = BT709
    codec.color_range = LIMITED_RANGE
    for number, frame in enumerate(frames):
        picture = _picture(frame)
        if number == 0:
            codec.width, codec.height = picture.width, picture.height
        picture = to_yuv420p(picture)
        picture.pts, picture.time_base = number, Fraction(1, 25)
        yield from codec.encode(picture)
    yield from codec.encode(None)


def _picture(frame: Tensor) -> Any:
    from av import VideoFrame

    return VideoFrame.from_ndarray(to_bytes(frame, "the clip").numpy(), format="rgb24")


def _pixels(picture: Any, codec: str) -> Tensor:
    """A decoded frame of a codec as ``[3, H, W]`` fp32 in 0..1."""
    pixels = to_rgb24(picture, codec).to_ndarray()
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


class _Codecs:
    """FFmpeg's, as :func:`flashvideo.method.pixel_degradation.degrade_pixels` takes them."""

    def jpeg(self, frames: Tensor, quality: float) -> Tensor:
        return jpeg_frames(frames, quality)

    def h264(self, video: Tensor, crf: float) -> Tensor:
        return h264_clip(video, crf)


CODECS = _Codecs()
