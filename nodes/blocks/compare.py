"""Compare: before and after, in the node as a wipe and as a video side by side."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Generator
from contextlib import ExitStack, closing
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av  # noqa: F401 (its videos are written with it: without it this family is left out in words)
import folder_paths
import torch
import torch.nn.functional as F
from comfy_api.latest import io
from torch import Tensor

from ...flashvideo.checkpoints.outputs import make_folder
from ...flashvideo.scores.frames import Frames
from ...flashvideo.scores.shown import Footage
from ...flashvideo.video.files import VideoWriter, write_image
from ...flashvideo.video.resize import side_by_side
from ..host.footage import footage_of, footage_of_image
from ..host.lazy_video import LazyVideo
from ..host.vae import reporting
from ..shared.node_text import told
from ..shared.widgets import fps_input, frame_rate
from ..shared.wiring import image_to_video

_FOLDER = "flashvideo_compare"  # in ComfyUI's temp folder
_CRF = 14
_MIN_SIDE = 2  # H.264 takes even sizes only

Pair = tuple[Tensor, Tensor]  # before and after, an IMAGE of one frame each, of even sizes


class Pairs(Protocol):
    """Frames that belong together; read anew each time.

    Attributes:
        total: how many there are, as is known beforehand; 0 if it is not.
        remarks: on how they were brought together, in sentences, once they were read.
    """

    total: int
    remarks: list[str]

    def __iter__(self) -> Generator[Pair, None, None]: ...


class PairsOfImages:
    """Two IMAGEs, frame by frame."""

    def __init__(self, before: Tensor, after: Tensor) -> None:
        check_pair(before, after)
        self.before, self.after, self.total = before, after, len(after)
        self.remarks: list[str] = []

    def __iter__(self) -> Generator[Pair, None, None]:
        for before, after in zip(self.before.split(1), self.after.split(1), strict=True):
            yield even(before), even(after)


class PairsByTime:
    """Two videos of any sizes, rates and lengths: beside each frame of ``after`` what ``before`` shows at its time."""

    def __init__(self, before: Footage, after: Footage) -> None:
        self.before, self.after, self.total = before, after, 0
        self.remarks: list[str] = []

    def __iter__(self) -> Generator[Pair, None, None]:
        with Frames(self.after, self.before, min_side=_MIN_SIDE) as frames:
            self.total = frames.total
            for frame in frames:
                assert frame.source is not None
                yield _image(frame.source), _image(frame.video)
        self.remarks = frames.remarks


def _image(picture: Tensor) -> Tensor:
    """``[3, H, W]`` uint8 as an IMAGE of one frame."""
    return even(picture.movedim(0, -1)[None].float().div_(255))


class JoinedFrames:
    """Pairs next to each other, the left one at the height of the right one; a frame in memory at a time."""

    def __init__(self, pairs: Pairs, count: int, first: Pair) -> None:
        self.pairs = pairs
        self.shape = (count, *_joined(first).shape[1:3])

    def stream(self, stop: int) -> Generator[Tensor, None, None]:
        report = reporting()
        with closing(iter(self.pairs)) as pairs:
            for done, pair in enumerate(itertools.islice(pairs, stop)):
                report(done, stop)
                yield _joined(pair)


def _joined(pair: Pair) -> Tensor:
    return side_by_side(*map(image_to_video, pair))[0].movedim(0, -1)


def even(image: Tensor) -> Tensor:
    """Without the last row and column where their number is odd: H.264 takes even sizes only."""
    height, width = (max(2, side // 2 * 2) for side in image.shape[1:3])
    return image[:, :height, :width]


def check_pair(before: Tensor, after: Tensor) -> None:
    """Raise ValueError unless both are videos of as many frames."""
    for name, image in (("before", before), ("after", after)):
        if image.ndim != 4 or image.shape[-1] < 3 or min(image.shape[1:3]) < 2:
            raise ValueError(f"{name} has shape {list(image.shape)}; expected [frames, height, width, 3].")
    if len(before) != len(after):
        raise ValueError(
            f"before has {len(before)} frames and after {len(after)}. Decode the refined latent with FlashVideo Tiled "
            "VAE Decode, which leaves padding out, and connect the very frames that were refined."
        )


def save_for_wipe(pairs: Pairs, rate: Fraction) -> tuple[dict[str, Any], JoinedFrames]:
    """Write both videos (PNGs for one frame) at the size of ``after`` into ComfyUI's temp folder.

    Returns:
        What the node shows, with files as /view takes them; and the pairs, joined.
    """
    report, folder = reporting(), make_folder(Path(folder_paths.get_temp_directory()) / _FOLDER)
    with closing(iter(pairs)) as rest:
        first = next(rest)
        second = next(rest, None)
        height, width = first[1].shape[1:3]
        suffix = "png" if second is None else "mp4"
        paths = [folder / f"{name}_{uuid.uuid4().hex[:12]}.{suffix}" for name in ("before", "after")]
        if second is None:
            count = 1
            for path, image in zip(paths, first, strict=True):
                write_image(path, _sized(image, (height, width))[0, :, 0])
        else:
            with ExitStack() as stack:
                writers = [stack.enter_context(VideoWriter(path, rate, _CRF, preset="veryfast")) for path in paths]
                for count, pair in enumerate(itertools.chain((first, second), rest), 1):
                    for writer, image in zip(writers, pair, strict=True):
                        writer.write(_sized(image, (height, width)))
                    report(count, max(count, pairs.total))
    files = ({"filename": path.name, "subfolder": _FOLDER, "type": "temp"} for path in paths)
    shown: dict[str, Any] = dict(zip(("before", "after"), files, strict=True))
    shown |= {"kind": "image" if second is None else "video", "width": width, "height": height}
    shown |= {"fps": float(rate), "frames": count}
    return shown, JoinedFrames(pairs, count, first)


def _sized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """One frame as ``[1, 3, 1, H, W]``, bicubic where its size differs: what a player would show of it."""
    video = image_to_video(image)
    if video.shape[3:] != size:
        frame = F.interpolate(video[:, :, 0], size=size, mode="bicubic", antialias=True).clamp(0, 1)
        video = frame[:, :, None]
    return torch.nan_to_num(video)


class Compare(io.ComfyNode):
    """Before and after."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoCompare",
            display_name="FlashVideo Compare",
            category="FlashVideo",
            description="Shows two videos over each other, with a wipe, and gives them side by side as one video, "
            "as the authors save the small and the refined one.",
            search_aliases=["flashvideo", "compare", "image comparer", "side by side", "wipe", "before after"],
            inputs=[
                _frames_input("before", "The small video, or any other, of any size; on the left."),
                _frames_input(
                    "after",
                    "The refined video, or any other; on the right. Two images have as many frames; with a video, "
                    "frames are brought together by their times.",
                ),
                fps_input("Frames per second of images. Videos have their own."),
            ],
            outputs=[io.Video.Output(display_name="joint", tooltip="Both side by side, for Save Video.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, before: Any, after: Any, fps: float) -> io.NodeOutput:
        rate = frame_rate(fps)
        pairs: Pairs
        if isinstance(before, Tensor) and isinstance(after, Tensor):
            pairs = PairsOfImages(before, after)
        else:
            pairs = PairsByTime(_footage(before, rate, "before"), _footage(after, rate, "after"))
            rate = rate if isinstance(after, Tensor) else Fraction(after.get_frame_rate())
        shown, joined = save_for_wipe(pairs, rate)
        return told(LazyVideo(joined, rate), remarks=pairs.remarks, ui={"flashvideo_compare": [shown]})


def _frames_input(name: str, tooltip: str) -> io.Input:
    return io.MultiType.Input(name, types=[io.Image, io.Video], tooltip=tooltip)


def _footage(frames: Any, rate: Fraction, name: str) -> Footage:
    return footage_of_image(frames, rate, name) if isinstance(frames, Tensor) else footage_of(frames, name)


NODES = [Compare]
