"""VIDEOs of files, read by the library: their frames, and what a refined video takes over from one."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import comfy.model_management
import torch
from comfy_api.input import AudioInput
from comfy_api.input_impl import VideoFromFile
from torch import Tensor

from ...flashvideo.checkpoints.files import fingerprint
from ...flashvideo.runs.memory import Load, check_host_memory
from ...flashvideo.scores.shown import eight_bits
from ...flashvideo.video.cuts import CutFinder
from ...flashvideo.video.ffmpeg import open_input
from ...flashvideo.video.reading import Pictures, as_video
from ...flashvideo.video.sound import read_sound
from ...flashvideo.video.timing import Timing
from .lazy_video import LazyVideo
from .vae import reporting


@dataclass(frozen=True)
class Taken:
    """What a refined video takes over from its source.

    Attributes:
        rate: frames a second.
        audio: in ComfyUI's form, from the first frame on.
        numbers: of the frame to show at each of them; None is each once.
        remarks: what is to be told, in sentences.
    """

    rate: Fraction
    audio: AudioInput | None
    numbers: list[int] | None = None
    remarks: tuple[str, ...] = ()


def taken_over(video: Any, frames: int, with_audio: bool = True) -> Taken:
    """What a video of so many frames takes over from a VIDEO; of files by their time stamps, without making pixels.

    Raises:
        ValueError: a file that cannot be read.
    """
    if not isinstance(video, VideoFromFile):
        return Taken(Fraction(video.get_frame_rate()), _made_audio(video) if with_audio else None)
    with _pictures(video) as pictures:
        for _ in pictures:
            comfy.model_management.throw_exception_if_processing_interrupted()
    timing, remarks = pictures.timing(), list(pictures.remarks)
    rate, numbers = _kept_in_step(timing, frames, pictures.rates, remarks)
    audio = _file_audio(video, pictures.first, timing.end, remarks) if with_audio else None
    return Taken(rate, audio, numbers, tuple(remarks))


@dataclass(frozen=True)
class Described:
    """A VIDEO, looked through but not held.

    Attributes:
        shape: frames, height, width, as they are shown.
        taken: what a refined video takes over.
    """

    shape: tuple[int, int, int]
    taken: Taken


def described(video: Any, with_audio: bool = True, cuts: CutFinder | None = None) -> Described:
    """What there is to know of a VIDEO before its frames are asked for with :func:`streamed_frames`.

    Args:
        cuts: is shown all pictures; those of a lazy VIDEO are made for it.

    Raises:
        ValueError: a file that cannot be read.
    """
    if not isinstance(video, VideoFromFile):
        width, height = video.get_dimensions()
        taken = Taken(Fraction(video.get_frame_rate()), _made_audio(video) if with_audio else None)
        if cuts is not None:
            for number, frame in enumerate(streamed_frames(video)):
                comfy.model_management.throw_exception_if_processing_interrupted()
                pixels = eight_bits(frame[0, :, 0]).movedim(0, -1).contiguous().numpy()
                cuts.look(number, av.VideoFrame.from_ndarray(pixels, format="rgb24"))
        return Described((video.get_frame_count(), height, width), taken)
    size: tuple[int, int] | None = None
    with _pictures(video) as pictures:
        for number, picture in enumerate(pictures):
            comfy.model_management.throw_exception_if_processing_interrupted()
            size = size or picture.pixels().shape[:2]
            if cuts is not None:
                cuts.look(number, picture.frame)
    assert size is not None
    timing, remarks = pictures.timing(), list(pictures.remarks)
    rate, numbers = _kept_in_step(timing, len(timing), pictures.rates, remarks)
    audio = _file_audio(video, pictures.first, timing.end, remarks) if with_audio else None
    return Described((len(timing), *size), Taken(rate, audio, numbers, tuple(remarks)))


def streamed_frames(video: Any) -> Generator[Tensor, None, None]:
    """A VIDEO's frames ``[1, 3, 1, h, w]`` in 0..1, read one by one.

    Raises:
        ValueError: a file that cannot be read.
    """
    if isinstance(video, VideoFromFile):
        with _pictures(video) as pictures:
            for picture in pictures:
                yield as_video(picture.pixels())[None, :, None]
    elif isinstance(video, LazyVideo):
        with contextlib.closing(video.frames()) as frames:
            for frame in frames:
                yield frame.movedim(-1, 0)[None, :, None]
    else:
        for frame in video.get_components().images:
            yield frame[..., :3].movedim(-1, 0)[None, :, None]


def content_of(video: Any) -> list[str] | None:
    """What tells a VIDEO's pictures from others; None of a lazy one, which would have to make them."""
    if isinstance(video, LazyVideo):
        return None
    if isinstance(video, VideoFromFile):
        file = video.get_stream_source()
        if isinstance(file, io.BytesIO):
            content = hashlib.sha256(file.getbuffer()).hexdigest()
        else:
            content = fingerprint([Path(file)])
        return [content, *map(str, trimmed_to(video))]
    images, digest = video.get_components().images, hashlib.sha256()
    for frame in images:
        digest.update(frame.detach().cpu().contiguous().numpy().data)
    return [digest.hexdigest(), str(images.dtype), str(list(images.shape))]


def read_frames(video: Any) -> tuple[Tensor, Fraction, AudioInput | None, list[str]]:
    """A VIDEO's frames ``[F, H, W, 3]`` in 0..1, how many come a second on average, its audio, and what is to be told.

    Raises:
        ValueError: a file that cannot be read, or whose frames do not fit into memory.
    """
    if not isinstance(video, VideoFromFile):
        parts = video.get_components()
        told = ["Its transparency is left out."] if getattr(parts, "alpha", None) is not None else []
        return parts.images[..., :3], Fraction(parts.frame_rate), parts.audio, told
    size: tuple[int, int] | None = None
    with _pictures(video) as pictures:
        for picture in pictures:
            comfy.model_management.throw_exception_if_processing_interrupted()
            size = size or picture.pixels().shape[:2]
    timing, remarks = pictures.timing(), list(pictures.remarks)
    assert size is not None
    check_host_memory(Load(len(timing), preview=size))
    images, report = torch.empty(len(timing), *size, 3), reporting()
    with _pictures(video) as again:
        for index, picture in enumerate(again):
            pixels = picture.pixels()
            if pixels.shape[:2] != size:
                raise ValueError("The frame size of the video changes on the way. Re-encode it to one size.")
            images[index] = as_video(pixels).movedim(0, -1)
            report(index + 1, len(timing))
    rate = timing.average(pictures.rates)
    if not timing.is_even(rate):
        remarks.append(
            "Its frame rate varies: connect the video to source of Decode to Video too, and sound stays in step."
        )
    return images, rate, _file_audio(video, pictures.first, timing.end, remarks), remarks


def trimmed_to(video: Any) -> tuple[Fraction, Fraction | None]:
    """When the part that a VIDEO is trimmed to begins and ends, on its file's clock; None is the file's end."""
    start, duration = (Fraction(seconds).limit_denominator(10**6) for seconds in video.get_active_trim_window())
    return start, start + duration if duration else None


def _kept_in_step(
    timing: Timing, frames: int, announced: list[Fraction], remarks: list[str]
) -> tuple[Fraction, list[int] | None]:
    """Rate, and number of the frame to show at each of them, so that sound stays with its picture."""
    known = len(timing)
    if frames > known:
        remarks.append(f"The source has {known} frames, this video {frames}: only its average frame rate is kept.")
        return timing.average(announced), None
    if frames < known:
        remarks.append(f"The source has {known} frames, this video {frames}: they are taken for the first ones.")
        timing = Timing(timing.times[:frames], timing.times[frames], timing.tick)
    rate, numbers = timing.steady(announced)
    if numbers == list(range(frames)):
        return rate, None
    lost = frames - len(set(numbers))
    remarks.append(
        f"The source's frame rate varies: its frames are held, {float(rate):.5g} a second, so that sound stays in step."
        + (f" {lost} that follow too quickly are left out." if lost else "")
    )
    return rate, numbers


@contextlib.contextmanager
def _pictures(video: VideoFromFile) -> Iterator[Pictures]:
    """The pictures of a file, in its trim window."""
    start, stop = trimmed_to(video)
    with _opened(video) as container:
        pictures = Pictures(container, start, stop)
        try:
            yield pictures
        except av.error.FFmpegError as error:
            raise ValueError(f"The video is damaged ({error.strerror}). Copy or download it again.") from error
        if not pictures.timing():
            raise ValueError("The video has no frames (in the time that it is trimmed to). Load another, or trim less.")


@contextlib.contextmanager
def _opened(video: VideoFromFile) -> Iterator[Any]:
    try:
        container = open_input(video.get_stream_source())
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"The video cannot be read ({error.strerror}). Load another, or copy it again.") from error
    with container:
        yield container


def _file_audio(video: VideoFromFile, start: Fraction, duration: Fraction, remarks: list[str]) -> AudioInput | None:
    with _opened(video) as container:
        sound = read_sound(container, start, duration)
        if (tracks := len(container.streams.audio)) > 1:
            remarks.append(f"It has {tracks} audio tracks; the default one is taken.")
        if len(container.streams.subtitles):
            remarks.append("Its subtitles are left out.")
    if sound is None:
        return None
    return {"waveform": sound.waveform[None], "sample_rate": sound.rate}


def _made_audio(video: Any) -> AudioInput | None:
    return video.get_audio() if isinstance(video, LazyVideo) else video.get_components().audio
