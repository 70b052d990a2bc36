"""Encoding and decoding with the CogVideoX VAE, exactly as the authors cut time and with tiles that never show.

Latents are ``[B, 16, T, h, w]`` in VAE space, videos ``[B, 3, F, 8h, 8w]`` float in 0..1, ``F = 4 (T - 1) + 1``.
GroupNorm sees one temporal chunk at a time, so the chunking (decode 3, 2, 2, … latents, encode 17, 16, 16, … frames,
causal caches carried) is part of the result; the tiling is not.

``vae`` is diffusers' ``AutoencoderKLCogVideoX`` of any width and depth, or any module tree with its names: ComfyUI's
own VAE works as it is. Computation happens on the device and in the precision of its weights.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..tensors.checks import check_latents, check_video
from ..tensors.noise import Generators, standard_normal
from ..tensors.sizes import SPATIAL_FACTOR, latent_frames, video_frames
from .limits import UNLIMITED, Device, Limits, Tile
from .tiling import plan
from .tiling.estimate import Estimate, Job
from .tiling.modules import decoder_layers
from .tiling.panels import Panel, authors_frames, authors_panels, whole_frame
from .tiling.session import (
    Counter,
    Progress,
    Session,
    channels_last,
    computing,
    decode_job,
    encode_job,
    place_offloaded,
    plan_run,
)
from .tiling.store import LENT, Plane

__all__ = ["Estimate", "decode_latents", "decode_stream", "encode_video", "estimate_decode", "estimate_encode"]

Callback = Callable[[int, int, Tensor], None]
Method = Literal["exact", "authors"]


def decode_latents(
    vae: Any,
    latents: Tensor,
    *,
    tile: Tile = None,
    memory_budget: float | None = None,
    method: Method = "exact",
    callback: Callback | None = None,
    progress: Progress | None = None,
    host_budget: float | None = None,
    scratch: str | os.PathLike[str] | None = None,
    device: Device = None,
) -> Tensor:
    """Decode latents into a video.

    Args:
        vae: the autoencoder.
        latents: ``[B, 16, T, h, w]`` in VAE space, any T.
        tile, memory_budget, host_budget, scratch, device: see :class:`~flashvideo.vae.limits.Limits`.
        method: "exact", or "authors" for their two cropped halves, which drop the last of an even number of latents.
        callback: called after every chunk with its number from 1, the number of chunks, and its frames. May raise.
        progress: called after every tile with work done and work in all. May raise.

    Returns:
        ``[B, 3, 4 (T - 1) + 1, 8h, 8w]`` fp32 on the CPU, in 0..1.

    Raises:
        ValueError: the latents, the tile, a budget or the method are not what is expected.
    """
    limits = Limits(tile, memory_budget, host_budget, scratch, device)
    stream = decode_stream(vae, latents, limits, method=method, callback=callback, progress=progress)
    frames = video_frames(_kept_frames(latents, method))
    video: Tensor | None = None
    start = 0
    with contextlib.closing(stream):
        for chunk in stream:
            if video is None:
                video = chunk.new_empty((*chunk.shape[:2], frames, *chunk.shape[3:]))
            video[:, :, start : start + chunk.shape[2]] = chunk
            start += chunk.shape[2]
    assert video is not None
    return video


def decode_stream(
    vae: Any,
    latents: Tensor,
    limits: Limits = UNLIMITED,
    *,
    method: Method = "exact",
    callback: Callback | None = None,
    progress: Progress | None = None,
) -> Generator[Tensor, None, None]:
    """Decode latents and yield the frames of each chunk as soon as they are done.

    The arguments are those of :func:`decode_latents`, and are checked before this returns. Closing the iterator, or an
    exception in it, frees everything.

    Yields:
        ``[B, 3, f, 8h, 8w]`` fp32 on the CPU, in 0..1: 9 or 5 frames first (1 if that is all), then 8 at a time.
    """
    check_latents("latents", latents, even=False, channels=decoder_layers(vae)[0].channels[0])
    frames = _kept_frames(latents, method)
    place_offloaded(vae)
    width = latents.shape[4]
    panels = authors_panels(width) if method == "authors" else whole_frame(width)
    chunks = plan.decode_chunks(frames)
    jobs = [decode_job(vae, chunks, (latents.shape[3], p.right - p.left), len(latents), limits.device) for p in panels]
    counter = Counter(jobs, progress)
    sessions = [Session(job, limits, counter) for job in jobs]
    return _decoded(latents, sessions, panels, callback)


def _decoded(
    latents: Tensor, sessions: list[Session], panels: list[Panel], callback: Callback | None
) -> Generator[Tensor, None, None]:
    """The chunks of ``decode_stream``. Contexts are left before each yield, so none leaks to the caller."""
    job = sessions[0].job
    start = 0
    try:
        for index, count in enumerate(job.chunks):
            part = latents[:, :, start : start + count]
            start += count
            with computing(job.device):
                frames = decode_chunk(part, sessions, panels, first=index == 0, last=index == len(job.chunks) - 1)
            if callback is not None:
                callback(index + 1, len(job.chunks), frames)
            yield frames
    finally:
        for session in sessions:
            session.close()


def decode_chunk(latents: Tensor, sessions: list[Session], panels: list[Panel], *, first: bool, last: bool) -> Tensor:
    """One chunk ``[B, 16, t, h, w]`` of all videos and panels as finished frames ``[B, 3, f, H, W]``.

    Args:
        first: the video begins with it.
        last: no chunk follows.
    """
    video: Tensor | None = None
    for session, panel in zip(sessions, panels, strict=True):
        job, grid = session.job, session.job.grid
        for sample, walker in enumerate(session.walkers):
            part = latents[sample, :, :, :, panel.left : panel.right]
            values = channels_last(part.detach(), session.store, job.device)
            pixels = walker.run(Plane(values, LENT), latents=values, first=first, last=last)
            keep = pixels[:, :, (panel.keep[0] - panel.left) * grid : (panel.keep[1] - panel.left) * grid]
            frames = keep.cpu().float().permute(3, 0, 1, 2)
            if video is None:
                size = (latents.shape[3] * grid, latents.shape[4] * grid)
                video = torch.empty((len(latents), frames.shape[0], frames.shape[1], *size))
            target = video[sample, :, :, :, panel.keep[0] * grid : panel.keep[1] * grid]
            torch.div(frames, 2, out=target).add_(0.5).clamp_(0, 1)
    assert video is not None
    return video


def encode_video(
    vae: Any,
    video: Tensor,
    *,
    sample: bool = True,
    noise: Tensor | None = None,
    generator: Generators = None,
    tile: Tile = None,
    memory_budget: float | None = None,
    callback: Callback | None = None,
    progress: Progress | None = None,
    host_budget: float | None = None,
    scratch: str | os.PathLike[str] | None = None,
    device: Device = None,
) -> Tensor:
    """Encode a video into latents, drawn from the posterior as the authors do.

    Args:
        vae: the autoencoder.
        video: ``[B, 3, F, H, W]`` float in 0..1; F is 4n + 1, H and W are multiples of 8.
        sample: draw ``mean + std * noise``; False gives the mean.
        noise: standard normal ``[B, 16, T, h, w]``; by default one draw of that shape, in fp32, from ``generator`` on
            its device, so a seed gives the same latents whatever the tile and the device of the VAE.
        generator: source of the noise, one or one for each video; None is torch's default one on the CPU.
        callback: called after every chunk with its number from 1, the number of chunks, and its latents. May raise.

    The other arguments are those of ``decode_latents``.

    Returns:
        ``[B, 16, T, h, w]`` fp32 on the computing device, in VAE space.

    Raises:
        ValueError: the video, the noise, the tile or a budget are not what is expected.
    """
    limits = Limits(tile, memory_budget, host_budget, scratch, device)
    check_video("the video", video)
    times = latent_frames(video.shape[2])
    place_offloaded(vae)
    job = video_job(vae, video, plan.encode_chunks(video.shape[2]), limits.device)
    channels = job.layers[-1].channels[1] // 2
    shape = (len(video), channels, times, *job.size)
    if sample and noise is None:
        noise = standard_normal(shape, generator)
    if sample and noise is not None and tuple(noise.shape) != shape:
        raise ValueError(f"noise has shape {list(noise.shape)}; expected that of the latents, {list(shape)}.")
    latents = torch.empty(shape, device=job.device)
    start = 0
    with contextlib.closing(_encoded(video, Session(job, limits, Counter([job], progress)))) as parts:
        for index, moments in enumerate(parts):
            here = slice(start, start + moments.shape[2])
            start = here.stop
            latents[:, :, here] = drawn(moments, noise[:, :, here] if sample and noise is not None else None)
            if callback is not None:
                callback(index + 1, len(job.chunks), latents[:, :, here])
    return latents


def encode_moments(vae: Any, video: Tensor, chunks: list[int] | None = None, limits: Limits = UNLIMITED) -> Tensor:
    """Mean and log-variance of the posterior, ``[B, 32, T, h, w]``.

    Args:
        vae: the autoencoder.
        video: ``[B, 3, F, H, W]`` float in 0..1.
        chunks: frames per chunk; by default the authors' 17, 16, 16, …. ``[F]`` encodes the video in one go.
        limits: what it may use.
    """
    check_video("the video", video)
    job = video_job(vae, video, chunks or plan.encode_chunks(video.shape[2]), limits.device)
    return torch.cat(list(_encoded(video, Session(job, limits, Counter([job], None)))), dim=2)


def _encoded(video: Tensor, session: Session) -> Generator[Tensor, None, None]:
    """Moments ``[B, 32, t, h, w]`` of each chunk, in the VAE's precision on its device."""
    job, start = session.job, 0
    try:
        for index, count in enumerate(job.chunks):
            frames = video[:, :, start : start + count].detach().split(1, dim=2)
            start += count
            with computing(job.device):
                moments = encode_chunk(frames, session, first=index == 0, last=index == len(job.chunks) - 1)
            yield moments
    finally:
        session.close()


def encode_chunk(frames: Sequence[Tensor], session: Session, *, first: bool, last: bool) -> Tensor:
    """Moments ``[B, 32, t, h, w]`` of a chunk's frames, ``[B, 3, 1, H, W]`` each.

    Args:
        first: the video begins with it.
        last: no chunk follows.
    """
    moments = []
    _, channels, _, *size = frames[0].shape
    for sample, walker in enumerate(session.walkers):
        source = session.store.allocate(len(frames), (size[0], size[1]), channels)
        for index, frame in enumerate(frames):  # no view of the plane outlives the loop: the walker lets it go
            source.data[index].copy_(frame[sample, :, 0].permute(1, 2, 0).float() * 2 - 1)
        values = walker.run(source, latents=None, first=first, last=last)
        moments.append(values.to(session.job.device).permute(3, 0, 1, 2))
    return torch.stack(moments)


def drawn(moments: Tensor, noise: Tensor | None) -> Tensor:
    """Latents in fp32 from the posterior's moments, ``[B, 32, t, h, w]``; the mean if there is no noise."""
    mean, log_variance = moments.float().chunk(2, dim=1)
    if noise is None:
        return mean
    return mean + log_variance.clamp(-30, 20).mul(0.5).exp() * noise.to(mean)


def estimate_decode(
    vae: Any,
    frames: int,
    height: int,
    width: int,
    limits: Limits = UNLIMITED,
    *,
    batch: int = 1,
    dtype: torch.dtype | None = None,
) -> Estimate:
    """What :func:`decode_latents` will take for a video of ``frames``, ``height`` and ``width``: tiles and bytes.

    ``vae`` may be on the meta device if ``limits`` name a device; that and ``dtype`` are by default those of its
    weights. The weights and the finished video (12 bytes a pixel and frame, 8 or 9 frames of it when streamed) come on
    top.
    """
    size = (height // SPATIAL_FACTOR, width // SPATIAL_FACTOR)
    job = decode_job(vae, plan.decode_chunks(latent_frames(frames)), size, batch, limits.device)
    return plan_run(replace(job, dtype=dtype or job.dtype), limits)


def estimate_encode(
    vae: Any,
    frames: int,
    height: int,
    width: int,
    limits: Limits = UNLIMITED,
    *,
    batch: int = 1,
    dtype: torch.dtype | None = None,
) -> Estimate:
    """What :func:`encode_video` will take, beside weights and video; the arguments are :func:`estimate_decode`'s."""
    size = (height // SPATIAL_FACTOR, width // SPATIAL_FACTOR)
    job = encode_job(vae, plan.encode_chunks(frames), size, batch, limits.device)
    return plan_run(replace(job, dtype=dtype or job.dtype), limits)


def _kept_frames(latents: Tensor, method: str) -> int:
    """Latent frames that will be decoded. Raises ValueError for an unknown method."""
    if method not in ("exact", "authors"):
        raise ValueError(f"method is {method!r}; expected 'exact' or 'authors'.")
    return authors_frames(latents.shape[2]) if method == "authors" else latents.shape[2]


def video_job(vae: Any, video: Tensor, chunks: list[int], device: Device) -> Job:
    """The job of encoding chunks of a video, ``[B, 3, f, H, W]``, or of one that is as large.

    Raises:
        ValueError: sides that are no multiples of 8.
    """
    height, width = video.shape[3:]
    job = encode_job(vae, chunks, (1, 1), len(video), device)
    if height % job.grid or width % job.grid:
        raise ValueError(
            f"the video is {height} by {width} pixels; the VAE needs multiples of {job.grid}. Crop or resize it."
        )
    return replace(job, size=(height // job.grid, width // job.grid))
