"""VIDEO objects that make their frames when they are asked for, chunk by chunk."""

from __future__ import annotations

import contextlib
import math
import os
from bisect import bisect_left
from collections.abc import Generator, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import folder_paths
import torch
from comfy_api.input import AudioInput, VideoInput
from comfy_api.input_impl import VideoFromComponents
from comfy_api.util import VideoCodec, VideoComponents, VideoContainer
from torch import Tensor

from ...flashvideo.checkpoints.outputs import replacing
from ...flashvideo.video.spool import FrameSpool
from .codec import Finish, VaeLimits, decoded_chunks


class FrameSource(Protocol):
    """Where a video's frames come from."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height, width."""
        ...

    def stream(self, stop: int) -> Generator[Tensor, None, None]:
        """Frames ``[f, H, W, 3]`` in 0..1 from the first to before ``stop``."""
        ...


class LatentFrames:
    """Frames of latents ``[1, 16, T, h, w]``, decoded as they are read.

    Args:
        shape: frames (without padding), height, width.
        finish: what is done to frames as they come.
    """

    def __init__(
        self, vae: Any, samples: Tensor, shape: tuple[int, int, int], limits: VaeLimits, finish: Finish | None = None
    ) -> None:
        self.vae, self.samples, self.shape, self.limits, self.finish = vae, samples, shape, limits, finish

    def stream(self, stop: int) -> Generator[Tensor, None, None]:
        done = 0
        with contextlib.closing(decoded_chunks(self.vae, self.samples, self.limits)) as chunks:
            for chunk in chunks:
                chunk = chunk[:, :, : stop - done]
                yield (chunk if self.finish is None else self.finish(chunk, done))[0].movedim(0, -1)
                done += chunk.shape[2]
                if done == stop:
                    return


class KeptFrames:
    """Frames of another source, made when they are first read; from then on they wait on disk."""

    def __init__(self, source: FrameSource) -> None:
        self.source, self.shape = source, source.shape
        self._spool: FrameSpool | None = None

    def stream(self, stop: int) -> Generator[Tensor, None, None]:
        if self._spool is not None and self._spool.count >= stop:
            yield from self._spool.read(stop)
            return
        folder = Path(folder_paths.get_temp_directory())
        spool, done = FrameSpool.where_there_is_room(folder, stop, (*self.shape[1:], 3)), 0
        with contextlib.closing(self.source.stream(stop)) as chunks:
            for frames in chunks:
                if spool is not None and not spool.add(frames):
                    spool = None
                done += len(frames)
                if done == stop:  # before the last frames are given away: their reader may not come back
                    self._spool = spool
                yield frames


class HeldFrames:
    """Frames of another source, each as often as it is shown.

    Args:
        numbers: of the source's frames, ascending; those that are missing are not shown.
    """

    def __init__(self, source: FrameSource, numbers: list[int]) -> None:
        self.source, self.numbers = source, numbers
        self.shape = (len(numbers), *source.shape[1:])

    def stream(self, stop: int) -> Generator[Tensor, None, None]:
        wanted, done, first = self.numbers[:stop], 0, 0
        with contextlib.closing(self.source.stream(wanted[-1] + 1)) as chunks:
            for chunk in chunks:
                until = bisect_left(wanted, first + len(chunk), done)
                if until > done:
                    yield chunk[[number - first for number in wanted[done:until]]]
                done, first = until, first + len(chunk)


class _Sequence:
    """What core's encoder asks of an IMAGE: its shape, and its frames in order. Only the current chunk is in memory."""

    def __init__(self, shape: tuple[int, int, int], frames: Iterable[Tensor]) -> None:
        self.shape = (*shape, 3)
        self._frames = frames

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._frames)


class LazyVideo(VideoInput):
    """A VIDEO over a :class:`FrameSource`; a trimmed one shares its source.

    Args:
        frame_rate: frames per second.
        audio: of the whole source, in ComfyUI's form; longer ones are cut.
        bit_depth: 8 or 10, of files.
        window: first frame and number of frames; None is all.
    """

    def __init__(
        self,
        source: FrameSource,
        frame_rate: Fraction,
        audio: AudioInput | None = None,
        bit_depth: int = 8,
        window: tuple[int, int] | None = None,
    ) -> None:
        self._source, self._rate, self._audio, self._depth = source, frame_rate, audio, bit_depth
        self._first, self._count = window or (0, source.shape[0])

    # ---- what is known without frames

    def get_dimensions(self) -> tuple[int, int]:
        return self._source.shape[2], self._source.shape[1]

    def get_frame_count(self) -> int:
        return self._count

    def get_frame_rate(self) -> Fraction:
        return self._rate

    def get_duration(self) -> float:
        return float(self._count / self._rate)

    def get_bit_depth(self) -> int:
        return self._depth

    def get_color_space(self) -> str:
        return "sRGB"

    def get_container_format(self) -> str:
        return "mp4"

    def get_audio(self) -> AudioInput | None:
        """The audio of the trimmed video."""
        if self._audio is None:
            return None
        per_frame = int(self._audio["sample_rate"]) / self._rate
        start, stop = (math.ceil(per_frame * frame) for frame in (self._first, self._first + self._count))
        return {"waveform": self._audio["waveform"][..., start:stop], "sample_rate": self._audio["sample_rate"]}

    def as_trimmed(
        self, start_time: float | None = None, duration: float | None = None, strict_duration: bool = False
    ) -> LazyVideo | None:
        start = round(float(start_time or 0) * self._rate)
        start = max(0, self._count + start) if start < 0 else start
        left = self._count - start
        wanted = round(float(duration) * self._rate) if duration else left
        if left < 1 or wanted < 1 or (strict_duration and wanted > left):
            return None
        window = (self._first + start, min(wanted, left))
        return LazyVideo(self._source, self._rate, self._audio, self._depth, window)

    # ---- frames

    def frames(self) -> Generator[Tensor, None, None]:
        """The frames ``[H, W, 3]``, one by one. Those before the window are made too: they are causal."""
        done = 0
        with contextlib.closing(self._source.stream(self._first + self._count)) as chunks:
            for chunk in chunks:
                yield from (frame.contiguous() for frame in chunk[max(0, self._first - done) :])
                done += len(chunk)

    def get_components(self) -> VideoComponents:
        images, index = torch.empty(self._count, *self._source.shape[1:], 3), 0
        with contextlib.closing(self.frames()) as frames:
            for frame in frames:
                images[index] = frame
                index += 1
        return VideoComponents(images=images, audio=self.get_audio(), frame_rate=self._rate)

    def save_to(
        self,
        path: Any,
        format: VideoContainer = VideoContainer.AUTO,
        codec: VideoCodec = VideoCodec.AUTO,
        metadata: dict[str, Any] | None = None,
        bit_depth: int | None = None,
        crf: float | None = None,
        color_space: str | None = None,
    ) -> None:
        """Encode frame by frame, by core's own encoder. A file appears whole or not at all."""
        shape = (self._count, *self._source.shape[1:])
        with contextlib.closing(self.frames()) as frames:
            images: Any = _Sequence(shape, frames)
            parts = VideoComponents(images=images, audio=self.get_audio(), frame_rate=self._rate)

            def save(target: Any, container: VideoContainer) -> None:
                VideoFromComponents(parts, bit_depth=self._depth).save_to(
                    target,
                    format=container,
                    codec=codec,
                    metadata=metadata,
                    bit_depth=bit_depth,
                    crf=crf,
                    color_space=color_space,
                )

            if not isinstance(path, str | os.PathLike):
                save(path, format)
                return
            with replacing(Path(path)) as partial:
                save(str(partial), _container(Path(path), format))


def _container(path: Path, format: VideoContainer | str) -> VideoContainer:
    """The container of a file: what was asked for, else what its name says."""
    asked = VideoContainer(format)
    if asked != VideoContainer.AUTO:
        return asked
    named = {".mkv": VideoContainer.MKV, ".webm": VideoContainer.WEBM}
    return named.get(path.suffix.lower(), VideoContainer.MP4)
