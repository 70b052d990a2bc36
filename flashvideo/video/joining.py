"""Parts of a video become one file, with the sound and the tags of another: packets are copied, nothing is encoded.

Every part begins anew, so a file that is joined of parts has the same bytes whenever and by whichever run each part was
made.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from ..checkpoints.outputs import naming_disk_errors, replacing
from .ffmpeg import open_input, readable
from .files import CONTAINER_TAGS, MUXERS, muxing_options, open_video

log = logging.getLogger(__name__)

_PCM = ("pcm_s16le", "pcm_s24le", "pcm_s16be", "pcm_s24be", "pcm_f32le", "pcm_s32le")
_SOUND = {  # audio that a container takes as it is; Matroska takes all
    ".mp4": ("aac", "mp3", "mp3float", "ac3", "eac3", "alac", "opus", "libopus", "flac"),
    ".mov": ("aac", "mp3", "mp3float", "ac3", "eac3", "alac", *_PCM),
}
_LOOKED_AT = 64  # packets of a part: the encoder's orders repeat every few
_EARLY = Fraction(1, 10)  # seconds of sound before the first picture that are kept: what decoders need to begin


def sounds(source: Path, suffix: str) -> tuple[list[int], list[str]]:
    """A file's audio tracks that a container takes: their places among its audio tracks; and the codecs of others.

    Args:
        suffix: of the file to write, ``.mp4`` say.
    """
    taken, others = [], []
    with open_video(source) as container:
        for place, stream in enumerate(container.streams.audio):
            codec = stream.codec_context.name if stream.codec_context is not None else "unknown"
            fits = codec != "unknown" and codec in _SOUND.get(suffix, (codec,))
            (taken.append(place) if fits else others.append(codec))
    return taken, others


def frames_in(part: Path) -> int:
    """Frames of a part, by its index."""
    with open_video(part) as container:
        return sum(int(stream.frames) for stream in container.streams.video)


def tags_of(source: Path) -> dict[str, str]:
    """What a file says of itself, without what containers add. Keys are lower case."""
    with open_video(source) as container:
        tags = {readable(key).lower(): readable(value) for key, value in container.metadata.items()}
    return {key: value for key, value in tags.items() if key not in CONTAINER_TAGS}


def join_parts(
    parts: Sequence[Path],
    output: Path,
    fps: Fraction,
    metadata: Mapping[str, str],
    *,
    sound: Path | None = None,
    start: Fraction = Fraction(0),
) -> Path:
    """Write one video of all parts, in order. It appears under its name when it is whole.

    Args:
        parts: files that :class:`~flashvideo.video.files.VideoWriter` wrote, of equal size and settings.
        output: ``.mp4``, ``.mov`` or ``.mkv``; replaced if it is there.
        fps: frames per second of the parts.
        metadata: tags to embed.
        sound: file whose audio tracks are copied, as far as the container takes them.
        start: its time that the first picture belongs to, in seconds.

    Raises:
        ValueError: parts that were not made by the same settings.
        OSError: the disk is full.
    """
    import av

    suffix = output.suffix.lower()
    with replacing(output) as partial, naming_disk_errors(output), ExitStack() as stack:
        container = av.open(str(partial), "w", format=MUXERS[suffix], options=muxing_options(suffix))
        stack.callback(container.close)
        container.metadata.update(metadata)
        with open_input(parts[0]) as first:
            pictures = _like(container, first.streams.video[0])
            headers = first.streams.video[0].codec_context.extradata
        flows = [_picture_packets(parts, fps, headers)]
        streams = [pictures]
        if sound is not None and (places := sounds(sound, suffix)[0]):
            source = stack.enter_context(open_input(sound))
            tracks = [source.streams.audio[place] for place in places]
            copies = {track.index: _like(container, track) for track in tracks}
            for track in tracks:
                if "language" in track.metadata:
                    copies[track.index].metadata["language"] = track.metadata["language"]
            streams += list(copies.values())
            flows.append(_sound_packets(source, tracks, start, [copies[track.index] for track in tracks]))
        for _, _, packet, stream in heapq.merge(*flows, key=lambda each: each[:2]):
            packet.stream = stream if stream is not None else pictures
            container.mux(packet)
        stack.pop_all().close()
    return output


def _like(container: Any, stream: Any) -> Any:
    if hasattr(container, "add_stream_from_template"):
        return container.add_stream_from_template(stream)
    return container.add_stream(template=stream)  # PyAV before 14


def _picture_packets(parts: Sequence[Path], fps: Fraction, headers: bytes) -> Iterator[tuple[Fraction, int, Any, Any]]:
    """(time of decoding, 0, packet, None) of every picture, on one clock; an encoder begins anew with every part."""
    delay, decoded = max(map(_reordered, parts)), 0
    for path in parts:
        begin = decoded
        with open_input(path) as part:
            stream = part.streams.video[0]
            if stream.codec_context.extradata != headers:
                raise ValueError(f"{path} was made with other settings than the parts before it. Remove them all.")
            for packet in part.demux(stream):
                if packet.pts is None or not packet.size:
                    continue
                place = begin + round(packet.pts * packet.time_base * fps)
                tick = packet.time_base
                packet.pts, packet.dts = round(place / fps / tick), round((decoded - delay) / fps / tick)
                packet.duration = round(1 / fps / tick)
                yield Fraction(decoded - delay) / fps, 0, packet, None
                decoded += 1


def _reordered(part: Path) -> int:
    """How many pictures a part's encoder keeps back to put them into another order."""
    most = 0
    with open_input(part) as container:
        packets = container.demux(container.streams.video[0])
        for number, packet in enumerate(islice((one for one in packets if one.size), _LOOKED_AT)):
            most = max(most, number - round(packet.pts / packet.duration))
    return most


def _sound_packets(
    source: Any, tracks: list[Any], start: Fraction, copies: list[Any]
) -> Iterator[tuple[Fraction, int, Any, Any]]:
    """(time, 1, packet, its copy's stream) of the tracks' packets, the first picture's time being 0."""
    onto = {track.index: copy for track, copy in zip(tracks, copies, strict=True)}
    for packet in source.demux(*tracks):
        if packet.pts is None or not packet.size:
            continue
        tick = packet.time_base
        shift = round(start / tick)
        packet.pts -= shift
        packet.dts = packet.pts if packet.dts is None else packet.dts - shift
        if packet.pts * tick >= -_EARLY:
            yield packet.dts * tick, 1, packet, onto[packet.stream.index]
