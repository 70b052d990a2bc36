"""Videos in and out of files: a streaming writer that leaves nothing half-written, a reader, and small picture helpers.

PyAV is imported at first use, so that importing the package stays light.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.file_kinds import misnamed
from ..checkpoints.outputs import check_writable, naming_disk_errors, replacing
from ..checkpoints.paths import expanded
from .ffmpeg import open_input, readable, to_yuv420p, to_yuvj420p
from .reading import Pictures, Pixels, as_video
from .resize import as_clip, contact_sheet, side_by_side

__all__ = [
    "VideoWriter",
    "check_fps",
    "check_output",
    "contact_sheet",
    "read_metadata",
    "read_video",
    "side_by_side",
    "write_image",
    "write_video",
]

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
DEFAULT_FPS = 8
MAX_FPS = 1000
DEFAULT_CRF = 5  # the authors' setting for both stages
JOINT_CRF = 15  # and for the side-by-side comparison

_ENCODER_THREADS = 4  # x264's bytes depend on the number of threads, and its default depends on the machine
DETERMINISTIC = "mbtree=0"  # x264's macroblock tree varies from run to run: 2 files in 14 runs at 256x480
BT709 = 1  # BT.709's code in H.264's fields for primaries, transfer and matrix
LIMITED_RANGE = 1
MUXERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
CONTAINER_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder", "creation_time", "duration"}


def muxing_options(suffix: str) -> dict[str, str]:
    """FFmpeg's for a container, by its extension: the same bytes from run to run, all tags, the index in front."""
    options = {"fflags": "+bitexact"}  # else Matroska files carry a random number
    if suffix != ".mkv":
        options["movflags"] = "+use_metadata_tags+faststart"
    return options


def check_fps(fps: float | Fraction, name: str = "fps") -> None:
    """Raise ValueError for a frame rate that files cannot have; ``name`` is what the message calls it."""
    if not 0 < fps <= MAX_FPS:
        raise ValueError(f"{name} is {fps}; expected more than 0 and at most {MAX_FPS} frames a second.")


def check_output(
    path: str | Path, overwrite: bool = False, *, suffixes: tuple[str, ...] | None = VIDEO_SUFFIXES
) -> Path:
    """Check that ``path`` can be written, before any long work. Leaves nothing behind.

    Args:
        path: the file to be written.
        overwrite: allow an existing file to be replaced.
        suffixes: allowed file extensions, lower case; None allows all.

    Returns:
        The path, with ``~`` expanded.

    Raises:
        ValueError: unknown extension, missing or unwritable folder, a folder of that name, or an existing file.
    """
    path = expanded(path)
    if suffixes is not None and path.suffix.lower() not in suffixes:
        raise ValueError(
            f"{path} has the extension {path.suffix or '(none)'}; expected one of {', '.join(suffixes)}. "
            f"Name it {path.stem or 'output'}{suffixes[0]}, say."
        )
    check_writable(path, overwrite=overwrite)
    return path


class VideoWriter:
    """Encodes frames to H.264 (yuv420p, BT.709) as they come; a context manager.

    The file appears under its name only when the block ends without an exception. The same frames and settings give
    the same bytes, whatever the number of CPUs.

    Args:
        path: ``.mp4``, ``.mov`` or ``.mkv``.
        fps: frames per second.
        crf: x264's constant rate factor: 0 is best, 51 worst; the authors wrote 5.
        metadata: settings to embed, read back by :func:`read_metadata`. Keys are lower case.
        overwrite: replace an existing file.
        preset: x264's speed preset.

    Raises:
        ValueError: an output that cannot be written (:func:`check_output`), settings out of range, or (at the end of
            the block) no frames.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float | Fraction = DEFAULT_FPS,
        crf: int = DEFAULT_CRF,
        metadata: Mapping[str, str] | None = None,
        overwrite: bool = False,
        *,
        preset: str = "medium",
    ) -> None:
        check_fps(fps)
        if crf not in range(52):
            raise ValueError(f"crf is {crf}; expected a whole number from 0 (best) to 51 (worst).")
        _check_metadata(metadata or {})
        self.path = check_output(path, overwrite)
        self.fps = Fraction(fps).limit_denominator(1001)
        self.crf = crf
        self.metadata = dict(metadata or {})
        self.preset = preset
        self.frames_written = 0
        self._size: tuple[int, int] | None = None
        self._container: Any = None
        self._stream: Any = None
        self._file = replacing(self.path)
        self._partial: Path | None = None

    def __enter__(self) -> VideoWriter:
        self._partial = self._file.__enter__()
        return self

    def write(self, frames: Tensor) -> None:
        """Encode ``frames``, ``[1, 3, f, H, W]`` or ``[3, f, H, W]`` in 0..1, rounded to the nearest of 256 values.

        Raises:
            ValueError: another shape or size than before, odd sizes, NaN, or a writer outside its ``with`` block.
            OSError: the disk is full.
        """
        if self._partial is None:
            raise ValueError("This VideoWriter is not open. Use it as `with VideoWriter(path) as writer:`.")
        clip = as_clip(frames)
        height, width = clip.shape[2:]
        if height % 2 or width % 2:
            raise ValueError(f"frames are {height}x{width}; H.264 (yuv420p) takes even sizes only. Crop or pad them.")
        if self._size not in (None, (height, width)):
            raise ValueError(f"frames are {height}x{width}; expected {self._size}, the size of the earlier ones.")
        self._size = (height, width)
        for index in range(clip.shape[1]):
            self._encode(to_bytes(clip[:, index], f"frame {self.frames_written}"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._partial = None
        try:
            self._finish() if kind is None else self._abandon()
        except BaseException as failure:
            self._abandon()
            self._file.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._file.__exit__(kind, error, trace)

    def _open(self, height: int, width: int) -> None:
        import av

        suffix = self.path.suffix.lower()
        options = muxing_options(suffix)
        self._container = av.open(str(self._partial), "w", format=MUXERS[suffix], options=options)
        self._container.metadata.update(self.metadata)
        stream = self._container.add_stream(
            "libx264",
            rate=self.fps,
            options={"crf": str(self.crf), "preset": self.preset, "x264-params": DETERMINISTIC},
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count, stream.thread_type = _ENCODER_THREADS, "FRAME"
        codec = stream.codec_context
        codec.color_primaries = codec.color_trc = codec.colorspace = BT709
        codec.color_range = LIMITED_RANGE
        self._stream = stream

    def _encode(self, frame: Tensor) -> None:
        """Encode one ``[H, W, 3]`` uint8 frame."""
        from av import VideoFrame

        with naming_disk_errors(self.path):
            if self._container is None:
                self._open(frame.shape[0], frame.shape[1])
            picture = to_yuv420p(VideoFrame.from_ndarray(frame.numpy(), format="rgb24"))
            picture.pts, picture.time_base = self.frames_written, 1 / self.fps
            self._container.mux(self._stream.encode(picture))
        self.frames_written += 1

    def _finish(self) -> None:
        if self._container is None:
            raise ValueError(f"{self.path} was not written: no frames were given. Write at least one.")
        with naming_disk_errors(self.path):
            self._container.mux(self._stream.encode())
            self._container.close()

    def _abandon(self) -> None:
        """Release the encoder; the file is thrown away, so what closing it says does not matter."""
        from av.error import FFmpegError

        container, self._container = self._container, None
        if container is not None:
            with contextlib.suppress(OSError, FFmpegError):
                container.close()


def write_video(
    path: str | Path,
    video: Tensor,
    fps: float | Fraction = DEFAULT_FPS,
    crf: int = DEFAULT_CRF,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a whole video, ``[1, 3, F, H, W]`` or ``[3, F, H, W]`` in 0..1; see :class:`VideoWriter`."""
    with VideoWriter(path, fps, crf, metadata, overwrite) as writer:
        writer.write(video)
    return writer.path


def read_metadata(path: str | Path) -> dict[str, str]:
    """The settings embedded in a video, without the tags that containers add themselves. Keys are lower case.

    Raises:
        ValueError: a missing file, or none that can be read.
    """
    with open_video(path) as container:
        tags = {readable(key).lower(): readable(value) for key, value in container.metadata.items()}
    return {key: value for key, value in tags.items() if key not in CONTAINER_TAGS}


def read_video(
    path: str | Path, *, max_frames: int | None = None, fps: float | Fraction | None = None
) -> tuple[Tensor, Fraction]:
    """Read a video as a player shows it: the default video track, upright, with square pixels, without what an edit
    list cuts off. What the pixels do not hold (HDR, 10 bits, transparency, interlacing ...) is logged.

    Args:
        path: any container that FFmpeg reads.
        max_frames: stop after so many frames.
        fps: take the frames that are shown at so many times a second; None takes each once, whenever it is shown.

    Returns:
        The video, ``[1, 3, F, H, W]`` fp32 in 0..1 (8 bits deep), and its frames per second: ``fps``, or the
        file's, on average where they vary.

    Raises:
        ValueError: a missing file, no video, no frames, or damaged data.
    """
    from av.error import FFmpegError

    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames is {max_frames}; expected at least 1, or None for all.")
    if fps is not None:
        check_fps(fps)
    frames: list[Pixels] = []
    with open_video(path) as container:
        pictures = Pictures(container)
        if pictures.stream is None:
            raise ValueError(f"{path} has no video stream that can be decoded. Give one of a usual codec.")
        enough = max_frames if fps is None else None
        try:
            for picture in pictures:
                frames.append(picture.pixels())
                if len(frames) == enough:
                    break
        except FFmpegError as error:
            raise ValueError(
                f"{path} is damaged after {len(frames)} frames ({error.strerror}). Copy or download it again."
            ) from error
        if max_frames is None and pictures.is_cut_short:
            raise ValueError(
                f"{path} is cut short: {len(frames)} of {pictures.stream.frames} frames can be read. Copy or download "
                f"it again, or read only those with max_frames={len(frames)}."
            )
    if not frames:
        raise ValueError(f"{path} has no frames. Give a complete video.")
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError(f"The frame size of {path} changes on the way. Re-encode it to one size.")
    for remark in pictures.remarks:
        log.warning("%s: %s", path, remark)
    numbers, rate = _wanted(pictures, path, fps)
    numbers = numbers[:max_frames]
    video = torch.empty(1, 3, len(numbers), *frames[0].shape[:2])
    for index, number in enumerate(numbers):
        video[0, :, index] = as_video(frames[number])
    return video, rate


def _wanted(pictures: Pictures, path: str | Path, fps: float | Fraction | None) -> tuple[list[int], Fraction]:
    """Numbers of the frames to give, and how many a second they are."""
    timing = pictures.timing()
    if fps is not None:
        rate = Fraction(fps).limit_denominator(1001)
        return timing.at_rate(rate), rate
    rate = timing.average(pictures.rates)
    if not timing.is_even(rate):
        log.warning(
            "%s: Its frame rate varies; every frame is given once. With fps=%g they are taken by their times.",
            *(path, float(timing.steady(pictures.rates)[0])),
        )
    return list(range(len(timing))), rate


def write_image(path: str | Path, frame: Tensor, *, overwrite: bool = False) -> Path:
    """Write one frame, ``[3, H, W]`` in 0..1, as ``.png`` or (quality 3 of FFmpeg's 2..31) ``.jpg``.

    Raises:
        ValueError: an output that cannot be written, another shape, NaN.
        OSError: the disk is full.
    """
    from av import CodecContext, VideoFrame

    path = check_output(path, overwrite, suffixes=IMAGE_SUFFIXES)
    if frame.ndim != 3 or frame.shape[0] != 3:
        raise ValueError(f"frame has shape {list(frame.shape)}; expected [3, H, W] in 0..1.")
    picture = VideoFrame.from_ndarray(to_bytes(frame, "frame").numpy(), format="rgb24")
    png = path.suffix.lower() == ".png"
    codec: Any = CodecContext.create("png" if png else "mjpeg", "w")
    codec.width, codec.height, codec.pix_fmt = picture.width, picture.height, "rgb24" if png else "yuvj420p"
    codec.time_base = Fraction(1, 1)
    if not png:
        codec.options = {"qmin": "3", "qmax": "3"}
        picture = to_yuvj420p(picture)
    packets = [*codec.encode(picture), *codec.encode(None)]
    with replacing(path) as partial, naming_disk_errors(path):
        partial.write_bytes(b"".join(bytes(packet) for packet in packets))
    return path


def to_bytes(frame: Tensor, name: str) -> Tensor:
    """``[3, H, W]`` in 0..1 -> ``[H, W, 3]`` uint8 on the CPU, clamped and rounded to nearest."""
    frame = frame.detach().to("cpu", torch.float32)
    if not torch.isfinite(frame).all():
        raise ValueError(f"{name} holds NaN or infinity: the model or its precision is at fault. Try bf16 or fp32.")
    return frame.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous()


def _check_metadata(metadata: Mapping[str, str]) -> None:
    for key, value in metadata.items():
        if not isinstance(value, str) or not key or key != key.lower() or key in CONTAINER_TAGS:
            raise ValueError(
                f"metadata {key!r}: {value!r}; expected strings under lower-case keys other than "
                f"{', '.join(sorted(CONTAINER_TAGS))}. Encode other values as JSON."
            )


@contextlib.contextmanager
def open_video(path: str | Path) -> Iterator[Any]:
    """PyAV's container of a video file, closed at the end of the block.

    Raises:
        ValueError: a missing file, or one that is something else.
    """
    from av.error import FFmpegError

    path = expanded(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}. Give the path of a video.")
    if kind := misnamed(path, "a video", "a picture", "audio", "a text file").name:  # some pass for raw video
        raise ValueError(f"{path} is {kind}, not a video. Give a video file such as .mp4.")
    try:
        container = open_input(path)
    except (FFmpegError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as a video ({error.strerror}): it is damaged or of another kind. "
            "Give a video file such as .mp4."
        ) from error
    with container:
        yield container
