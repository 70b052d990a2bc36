"""The videos of a page: what they are, and whether browsers play them as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ...checkpoints.paths import expanded
from ...video.files import VideoWriter, open_video
from ...video.reading import Picture, Pictures, as_video
from ...video.resize import stretching
from ...video.timing import Timing
from ...video.tracks import picture_tracks

CRF = 8  # of what browsers do not play: no difference is seen
MOST = 8  # videos of a page: as many letters, number keys and colours that can be told apart
_PLAYED = {"h264": ("yuv420p", "yuvj420p"), "vp8": ("yuv420p",), "vp9": ("yuv420p",), "av1": ("yuv420p",)}
_CONTAINERS = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm"}
_NAMES = {"h264": "H.264", "hevc": "HEVC", "vp8": "VP8", "vp9": "VP9", "av1": "AV1"}
_EVEN = Fraction(1, 10)  # of a frame by which times may be off those of a constant rate
_STRETCHED = 1.05  # shapes that differ by more are told


@dataclass(frozen=True)
class Entry:
    """A video to be shown.

    Attributes:
        path: of its file.
        name: to be called by; None: the file's, without its extension.
    """

    path: Path
    name: str | None = None


@dataclass(frozen=True)
class Clip:
    """A video that was read through.

    Attributes:
        entry: what it is.
        role: ``result``, ``source`` or ``true``.
        id: of its bytes: the beginning of their SHA-256.
        size: (width, height) as it is shown.
        coded: the same of the file that the page plays.
        timing: of its pictures.
        rate: pictures a second.
        codec: as FFmpeg calls it.
        bytes: of the file.
        played: the media type with which browsers play the file as it is; "" where they do not.
        remarks: what a viewer should know, in sentences.
    """

    entry: Entry
    role: str
    id: str
    size: tuple[int, int]
    coded: tuple[int, int]
    timing: Timing
    rate: Fraction
    codec: str
    bytes: int
    played: str
    remarks: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.entry.name or self.entry.path.stem

    @property
    def facts(self) -> str:
        width, height = self.size
        seconds = f"{float(self.timing.end):.2f} s"
        rate = f"{float(self.rate):.5g} frames a second"
        size = f"{self.bytes / 1e6:.1f} MB" if self.bytes >= 1e5 else f"{self.bytes / 1e3:.1f} kB"
        return f"{width}×{height}, {len(self.timing)} frames, {seconds}, {rate}, {_codec_name(self.codec)}, {size}"

    def remarking(self, *remarks: str) -> Clip:
        return replace(self, remarks=(*self.remarks, *remarks))


def _codec_name(codec: str) -> str:
    return _NAMES.get(codec, codec)


def open_clips(entries: Sequence[Entry], source: Entry | None, true: Entry | None) -> list[Clip]:
    """Read all videos through and say how they were brought together: results first, then what they are held against.

    Raises:
        ValueError: too few or too many, files that are missing, damaged or no videos, two of one name.
    """
    if len(entries) + (source is not None) + (true is not None) < 2 or not entries:
        raise ValueError(f"Videos to compare: {len(entries)}; expected two or more, or one and its source.")
    if len(entries) > MOST - 2:
        raise ValueError(f"Videos to compare: {len(entries)}; expected at most {MOST - 2}. Make several pages.")
    roles = [*(("result", entry) for entry in entries), ("source", source), ("true", true)]
    clips = [_read(replace(entry, path=expanded(entry.path)), role) for role, entry in roles if entry is not None]
    return _aligned(_told_apart(clips))


def _read(entry: Entry, role: str) -> Clip:
    from av.error import FFmpegError

    path = entry.path
    with open_video(path) as container:
        pictures, count = Pictures(container), 0
        if pictures.stream is None:
            raise ValueError(f"{path} has no video stream that can be decoded. Give a video.")
        first: Picture | None = None
        try:
            for picture in pictures:
                first = first or picture
                count += 1
        except FFmpegError as error:
            raise ValueError(
                f"{path} is damaged after {count} frames ({error.strerror}). Copy or download it again."
            ) from error
        if first is None:
            raise ValueError(f"{path} has no frames. Give a complete video.")
        if pictures.is_cut_short:
            raise ValueError(
                f"{path} is cut short: {count} of {pictures.stream.frames} frames can be read. Copy or download it "
                "again."
            )
        height, width = first.pixels().shape[:2]
        timing = pictures.timing()
        rate = timing.average(pictures.rates)
        played = _played(path, container, pictures, first, rate)
        codec, remarks = pictures.stream.codec_context.name, tuple(pictures.remarks)
    size = (width, height)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)
    return Clip(entry, role, digest[:16], size, size, timing, rate, codec, path.stat().st_size, played, remarks)


def _digest(file: Any) -> str:
    digest = hashlib.sha256()  # Python 3.10
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _played(path: Path, container: Any, pictures: Pictures, first: Picture, rate: Fraction) -> str:
    """The media type of a file whose frames browsers show at the times at which they are; "" for others.

    At uneven times they do not: files say how long a picture lasts in the order of decoding, or not at all.
    """
    times = pictures.timing().times
    is_steady = all(abs((pictures.first + time) * rate - number) < _EVEN for number, time in enumerate(times))
    usual = first.frame.format.name in _PLAYED.get(pictures.stream.codec_context.codec.canonical_name, ())
    alone = len(picture_tracks(container)) == 1
    return _CONTAINERS.get(path.suffix.lower(), "") if is_steady and usual and alone else ""


def _told_apart(clips: list[Clip]) -> list[Clip]:
    """With names and ids of their own: of files of one name in several folders, the folder is part of it."""
    names = [clip.name for clip in clips]
    named: list[Clip] = []
    for clip in clips:
        name = clip.name
        if names.count(name) > 1 and clip.entry.name is None:
            name = f"{clip.entry.path.resolve().parent.name}/{clip.entry.path.name}"
        taken, ids = [other.name for other in named], [other.id for other in named]
        if name in taken:
            raise ValueError(f"Two videos are called {name!r}. Give each a name of its own with --names.")
        again = sum(other.partition("-")[0] == clip.id for other in ids)
        named.append(
            replace(clip, entry=replace(clip.entry, name=name), id=f"{clip.id}-{again + 1}" if again else clip.id)
        )
    return named


def shown_size(clips: Sequence[Clip]) -> tuple[int, int]:
    """(width, height) at which all are shown: that of the largest result."""
    return max((clip.size for clip in clips if clip.role == "result"), key=lambda size: size[0] * size[1])


def shown_seconds(clips: Sequence[Clip]) -> Fraction:
    """How long the page plays: as long as the source, or else the longest video, lasts."""
    source = [clip.timing.end for clip in clips if clip.role == "source"]
    return max(source or [clip.timing.end for clip in clips])


def stepped(clips: Sequence[Clip]) -> int:
    """Index of the video whose frames are stepped through: the one with the most a second of those that last."""
    end = shown_seconds(clips)
    lasting = [index for index, clip in enumerate(clips) if clip.timing.end + 1 / clip.rate > end]
    return max(lasting, key=lambda index: clips[index].rate)


def _aligned(clips: list[Clip]) -> list[Clip]:
    width, height = shown_size(clips)
    end = shown_seconds(clips)
    said = []
    for clip in clips:
        remarks = []
        w, h = clip.size
        if stretching(h, w, height, width) > _STRETCHED:
            remarks.append(f"Its shape is another than {width}×{height}: it is shown stretched.")
        elif clip.size != (width, height) and clip.role == "result":
            remarks.append(f"It is shown at {width}×{height}.")
        frame = 1 / clip.rate
        if clip.timing.end < end - frame:
            remarks.append(f"It ends after {float(clip.timing.end):.2f} of {float(end):.2f} s; its last picture stays.")
        elif clip.timing.end > end + frame:
            remarks.append(f"It is longer than the source: what comes after {float(end):.2f} s is not shown.")
        if clip.rate != clips[0].rate:
            remarks.append(f"Its frame rate is another than {clips[0].name}'s: it is shown by its times.")
        said.append(clip.remarking(*remarks))
    return said


def encode(clip: Clip, path: Path) -> Clip:
    """Write a clip as browsers play it: H.264 at a steady rate, with even sides, without sound.

    Returns:
        The clip as it then is.
    """
    rate, numbers = clip.timing.steady((clip.rate,))
    width, height = (side + side % 2 for side in clip.size)
    with open_video(clip.entry.path) as container, VideoWriter(path, rate, CRF, overwrite=True) as writer:
        for pixels in _repeated(iter(Pictures(container)), numbers):
            even = as_video(pixels).new_zeros(3, 1, height, width)
            even[:, 0, : pixels.shape[0], : pixels.shape[1]] = as_video(pixels)
            even[:, 0, pixels.shape[0] :] = even[:, 0, pixels.shape[0] - 1 : pixels.shape[0]]
            even[:, 0, :, pixels.shape[1] :] = even[:, 0, :, pixels.shape[1] - 1 : pixels.shape[1]]
            writer.write(even)
    times = tuple(number / writer.fps for number in range(len(numbers)))
    timing = Timing(times, len(numbers) / writer.fps)
    told = f"Browsers do not play it frame by frame: shown is a copy in H.264 (crf {CRF}), without sound."
    return replace(clip, coded=(width, height), timing=timing, rate=writer.fps, played="video/mp4").remarking(told)


def _repeated(pictures: Iterator[Picture], numbers: Sequence[int]) -> Iterator[Any]:
    """Pixels of the pictures of ascending numbers, some of them several times."""
    index, pixels = -1, None
    for number in numbers:
        while index < number:
            picture = next(pictures)
            index += 1
            pixels = picture.pixels() if index == number else None
        yield pixels
