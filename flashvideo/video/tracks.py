"""Which of a file's tracks a player would choose."""

from __future__ import annotations

from typing import Any

_STILLS = ("png", "mjpeg", "bmp", "gif", "tiff", "webp")  # codecs of cover pictures


def picture_tracks(container: Any) -> list[Any]:
    """The video streams that can be decoded, without cover pictures."""
    return [stream for stream in _decodable(container.streams.video) if not _is_cover(stream, container)]


def picture_track(container: Any) -> Any | None:
    """The video stream that is played, the default one; None without any."""
    return _chosen(container, picture_tracks(container))


def sound_track(container: Any) -> Any | None:
    """The audio stream that is played, of those that can be decoded; None without any."""
    return _chosen(container, _decodable(container.streams.audio))


def _decodable(streams: Any) -> list[Any]:
    """Those of a codec that FFmpeg knows."""
    return [stream for stream in streams if stream.codec_context is not None]


def _is_cover(stream: Any, container: Any) -> bool:
    disposition = getattr(stream, "disposition", None)  # PyAV from 15 on
    if disposition is not None:
        return bool(disposition & type(disposition).attached_pic)
    others = len(container.streams.video) > 1 or len(container.streams.audio) > 0
    return others and stream.codec_context.name in _STILLS


def _chosen(container: Any, streams: list[Any]) -> Any | None:
    """The first of those that are marked as default, else the first."""
    marked = [
        stream
        for stream in streams
        if (disposition := getattr(stream, "disposition", None)) is not None and disposition & type(disposition).default
    ]
    best = getattr(container.streams, "best", None)  # PyAV from 13 on: FFmpeg's choice
    if streams and best is not None and not hasattr(streams[0], "disposition"):
        marked = [stream for stream in streams if stream is best(streams[0].type)]
    return next(iter(marked or streams), None)
