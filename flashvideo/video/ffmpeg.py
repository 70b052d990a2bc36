"""What PyAV's versions do differently, done alike: opening files and converting pixel formats.

A frame's own ``reformat`` rounds exactly from PyAV 18 on (the flags have names), and minds the frame's matrix, range
and chroma position. Before that every video is read as BT.601 in limited range, so FFmpeg's filters convert instead.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

_EXACT = ("BICUBIC", "ACCURATE_RND", "FULL_CHR_H_INT", "BITEXACT")  # the default darkens by about one level of 255
_EXACT_FILTER = "flags=bicubic+accurate_rnd+full_chroma_int+bitexact"
_CHROMA_LEFT = ("h264", "hevc", "mpeg2video", "mpeg4")  # decoders that place chroma at the left unless told otherwise


def open_input(file: str | Path | BinaryIO) -> Any:
    """Open a file for reading, from its start, whatever bytes its tags hold.

    Raises:
        FFmpegError, OSError: a file that cannot be read.
    """
    import av

    source: Any = str(file) if isinstance(file, Path) else file
    if not isinstance(source, str):
        source.seek(0)
    try:
        return av.open(source, metadata_errors="replace")
    except TypeError:  # PyAV 19 knows no such argument: it keeps what is not UTF-8 as surrogates
        return av.open(source)


def readable(tag: str) -> str:
    """A tag without the surrogates that PyAV 19 puts where bytes are not UTF-8; older ones put U+FFFD."""
    return tag.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def to_rgb24(frame: Any, codec: str) -> Any:
    """A decoded frame as ``rgb24``, by its own matrix and range.

    Args:
        frame: of any pixel format.
        codec: name of its decoder, which says where chroma lies if the frame cannot.
    """
    flags = _exact_flags()
    if flags is not None:
        return frame.reformat(format="rgb24", interpolation=flags)
    return _filtered(frame, "rgb24", ":in_h_chr_pos=0" if codec in _CHROMA_LEFT else "")


def _exact_flags() -> int | None:
    """Exact rounding for ``reformat``; None if this PyAV has no names for it."""
    from av.video.reformatter import Interpolation

    if not all(hasattr(Interpolation, name) for name in _EXACT):
        return None
    return sum(int(getattr(Interpolation, name)) for name in _EXACT)


def to_yuv420p(frame: Any) -> Any:
    """An ``rgb24`` frame as ``yuv420p``, BT.709 in limited range, without a time stamp."""
    return _filtered(frame, "yuv420p", ":out_color_matrix=bt709:out_range=limited")


def to_yuvj420p(frame: Any) -> Any:
    """An ``rgb24`` frame as ``yuvj420p``, which JPEG takes: BT.601 in full range."""
    return _filtered(frame, "yuvj420p")


def _filtered(frame: Any, pixel_format: str, options: str = "") -> Any:
    from av.filter import Graph

    if frame.format.name == pixel_format:
        return frame
    source = f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1000"
    graph = Graph()
    nodes = [
        graph.add("buffer", source),
        graph.add("scale", _EXACT_FILTER + options),
        graph.add("format", f"pix_fmts={pixel_format}"),
        graph.add("buffersink"),
    ]
    for node, following in pairwise(nodes):
        node.link_to(following)
    graph.configure()
    graph.push(frame)
    return graph.pull()
