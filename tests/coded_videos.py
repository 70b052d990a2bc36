"""Videos of any codec and timing, which the library's own writer does not make."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from torch import Tensor


def write_coded(
    path: Path, video: Tensor, codec: str, pixel_format: str, fps: int, times: Sequence[int] | None = None
) -> Path:
    """Write ``[1, 3, F, H, W]`` in 0..1.

    Args:
        times: of the frames, in thousandths of a second; None shows them ``fps`` a second.
    """
    import av

    tick = Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = video.shape[3], video.shape[4], pixel_format
        if codec == "libx264":
            stream.options = {"crf": "1"}
        if times is not None:
            stream.codec_context.time_base = tick
        for index, frame in enumerate(video[0].permute(1, 2, 3, 0)):
            pixels = (frame * 255).byte().contiguous().numpy()
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)
            if times is not None:
                picture.pts, picture.time_base = times[index], tick
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path
