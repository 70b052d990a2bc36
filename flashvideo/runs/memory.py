"""Whether a run fits: what cannot be less of it is added up, and decides before anything is loaded.

The bounds are low ones, so that nothing is refused that could run: a video that has to be in memory as a whole, the
smallest working set of the VAE, four activations of the transformer's width. Weights are not counted; waiting
activations may go to a file, which needs room too.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from ..checkpoints.files import open_weights
from ..method.windows import TimeWindows, frames_at_once
from ..models.windows import AttentionWindows
from ..tensors.sizes import SPATIAL_FACTOR, latent_frames, video_frames
from ..vae.codec import estimate_decode, estimate_encode
from ..vae.limits import Limits, Size
from ..vae.tiling import memory

if TYPE_CHECKING:  # a video's size is checked without what models need
    from ..loading.model_store import ModelStore
    from .record import Record
    from .settings import Stage2Settings

_BYTES_A_PIXEL = 12  # three colours in fp32
_STREAMED_FRAMES = 9
_ACTIVATIONS = 4  # of the transformer's width, at once: the hidden states, and q, k and v


@dataclass(frozen=True)
class Load:
    """What a run works on.

    Attributes:
        frames: of the videos.
        preview: rows and columns in pixels of the preview that is decoded as a whole; ``None`` if none is.
        refined: of Stage II's video; ``None`` if there is no Stage II.
        encodes: whether the preview is encoded at Stage II's size.
        time_windows: that Stage II's evaluations run on.
        attention_windows: that its attention is confined to.
    """

    frames: int
    preview: Size | None = None
    refined: Size | None = None
    encodes: bool = False
    time_windows: TimeWindows | None = None
    attention_windows: AttentionWindows | None = None

    @classmethod
    def of_refining(cls, record: Record, stage2: Stage2Settings) -> Load:
        """Stage II of a preview or of degraded latents."""
        frames, *size = record.latents.shape[2:]
        of_preview = record.content == "preview"
        preview = (SPATIAL_FACTOR * size[0], SPATIAL_FACTOR * size[1]) if of_preview else None
        load = cls(video_frames(frames), preview, (stage2.height, stage2.width), encodes=of_preview)
        return load.with_windows(stage2)

    def with_windows(self, stage2: Stage2Settings) -> Load:
        """The same in Stage II's windows, in time and in space."""
        return replace(self, time_windows=stage2.windows_in_time, attention_windows=stage2.attention_windows)

    @property
    def latent_frames(self) -> int:
        """Of the videos."""
        return latent_frames(self.frames)

    @property
    def frames_at_once(self) -> int:
        """Latent frames that Stage II's transformer sees at once."""
        return frames_at_once(self.time_windows, self.latent_frames)

    @property
    def preview_bytes(self) -> int:
        """Of the preview's video, which is held as a whole."""
        return 0 if self.preview is None else _BYTES_A_PIXEL * self.frames * self.preview[0] * self.preview[1]

    def refined_bytes(self, *, streamed: bool) -> int:
        """Of Stage II's video: as a whole to be encoded, in pieces when it is decoded."""
        frames = min(self.frames, _STREAMED_FRAMES) if streamed else self.frames
        return 0 if self.refined is None else _BYTES_A_PIXEL * frames * self.refined[0] * self.refined[1]

    @property
    def host_bytes(self) -> int:
        """Host memory that the videos take at least."""
        return self.preview_bytes + self.refined_bytes(streamed=not self.encodes)

    @property
    def name(self) -> str:
        """What messages call it."""
        height, width = self.refined or self.preview or (0, 0)
        return f"{self.frames} frames of {width}x{height}"


def check_host_memory(load: Load) -> None:
    """Raise ValueError if the videos of a run do not fit into what is free of host memory."""
    _check("host memory", load, load.host_bytes, _free_on_host())


def check_memory(models: ModelStore, load: Load) -> None:
    """Raise ValueError if a run does not fit: host memory, the device, or the disk for what waits.

    Only headers of the models are read.
    """
    from ..loading.load import open_vae

    check_host_memory(load)
    device, free = models.device, _free_on_host()
    on_cpu = device.type == "cpu"
    place, room = ("host memory", free) if on_cpu else (f"memory on {device}", _free_on(device))
    at_once = video_frames(load.frames_at_once)
    for name, frames, size in (("stage1", load.frames, load.preview), ("stage2", at_once, load.refined)):
        if size is not None and getattr(models.paths, name) is not None:
            _check(place, load, _transformer_bytes(models, name, frames, size), room)
    assert models.paths.vae is not None, "every run has a VAE"
    _, vae, _ = open_vae(models.paths.vae)
    dtype = models.vae_dtype or open_weights(models.paths.vae, "vae").main_dtype()
    scratch = tempfile.gettempdir()
    runs = [(estimate_decode, load.preview, load.preview_bytes)]
    runs += [(estimate_decode, load.refined, load.preview_bytes + load.refined_bytes(streamed=True))]
    runs += [(estimate_encode, load.refined, load.host_bytes)] if load.encodes else []
    for estimate, size, videos in runs:
        if size is None:
            continue
        left = max(1, free - videos)  # for the VAE, as it will be found once the videos are there
        limits = Limits(memory_budget=left / 4, host_budget=left * 3 / 4) if on_cpu else Limits(host_budget=left)
        forecast = estimate(vae, load.frames, *size, replace(limits, device=device), dtype=dtype)
        _check(place, load, forecast.working_bytes + (videos if on_cpu else 0), room)
        _check(f"room in {scratch}", load, forecast.file_bytes, shutil.disk_usage(scratch).free)


def _transformer_bytes(models: ModelStore, name: str, frames: int, size: Size) -> int:
    config = models.source(name).config
    patch = config["patch_size"] * SPATIAL_FACTOR
    tokens = latent_frames(frames) * (size[0] // patch) * (size[1] // patch)
    width = config["num_attention_heads"] * config["attention_head_dim"]
    return int(_ACTIVATIONS * tokens * width * 2)  # 16 bits at least


def _free_on(device: torch.device) -> int:
    return memory.free_on(device) + memory.MARGIN


def _free_on_host() -> int:
    return memory.free_on_host() + memory.MARGIN + memory.free_swap()


def _check(what: str, load: Load, needed: int, free: int) -> None:
    if needed > free:
        raise ValueError(
            f"{load.name} need {gigabytes(needed)} GB of {what}, {gigabytes(free)} GB are free. Choose a smaller "
            "size or fewer frames."
        )


def gigabytes(size: int) -> str:
    """A number of bytes in messages."""
    if size > 10**18:
        return "more than a billion"
    return f"{size / 1e9:.1f}" if size < 10**10 else f"{size / 1e9:.0f}"
