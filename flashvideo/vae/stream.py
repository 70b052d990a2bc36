"""The VAE as streams: frames come and latents go, or the other way round, whatever the length of the video.

A chunk needs the causal caches that the one before it left, and nothing else of the past; so these are the bytes of
:func:`~flashvideo.vae.codec.encode_video` and :func:`~flashvideo.vae.codec.decode_latents`, in the memory of a chunk.

A cache holds the last two frames that a causal convolution read, and these come from the chunk itself and the caches of
the convolutions before it. So the n-th convolution's cache reaches n - 1 chunks back, and what a chunk becomes depends
on as many chunks before it as there are causal convolutions. A stream that begins so far back knows all it has to.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..tensors.checks import check_latents, check_video
from ..tensors.sizes import TEMPORAL_FACTOR
from .codec import decode_chunk, drawn, encode_chunk, video_job
from .limits import UNLIMITED, Limits
from .tiling import plan
from .tiling.modules import ConvLayer, Layer, decoder_layers, encoder_layers
from .tiling.panels import whole_frame
from .tiling.session import Counter, Session, computing, decode_job, place_offloaded

DECODED_LATENTS = 2  # of a chunk that is not the first
ENCODED_FRAMES = plan.ENCODE_CHUNK
ENCODED_LATENTS = ENCODED_FRAMES // TEMPORAL_FACTOR
_CHUNKS = 4  # that a forecast looks at: memory does not grow after them

Using = Callable[[], AbstractContextManager[Any]]  # inside, the VAE's weights are where it computes


def encode_pieces(
    vae: Any, frames: Iterable[Tensor], limits: Limits = UNLIMITED, *, first: bool = True, using: Using = nullcontext
) -> Generator[Tensor, None, None]:
    """Encode frames as they come; :func:`posterior` makes latents of what is yielded.

    Args:
        frames: ``[B, 3, f, H, W]`` in 0..1 each, any number at a time; 4n + 1 in all, H and W multiples of 8.
        limits: what the encoding may use.
        first: the video begins with them. False for 16 n + 1 frames later, and then 4n in all: the first
            :func:`encoder_reach` chunks of 16 frames yield something else than they would have.
        using: entered for every chunk, and left before the next frames are read.

    Yields:
        Moments ``[B, 32, t, H/8, W/8]``, 5 or less first, then 4 or less at a time.

    Raises:
        ValueError: frames that differ in size or kind, or a number of them that the VAE has no latents for; the number
            is known at the end.
    """
    chunks = _chunks(frames, plan.ENCODE_FIRST_CHUNK if first else ENCODED_FRAMES, ENCODED_FRAMES, "frames")
    session: Session | None = None
    try:
        for index, chunk in enumerate(chunks):
            alone = first and index == 0
            if (len(chunk) - alone) % TEMPORAL_FACTOR:
                raise ValueError(
                    f"the stream ends with {len(chunk)} frames that make no whole number of latents; expected 4n + 1 "
                    "in all. Repeat the last one."
                )
            with using():
                session = session or _encoding(vae, chunk[0], limits)
                with computing(session.job.device):
                    moments = encode_chunk(chunk, session, first=alone, last=False)
            yield moments
    finally:
        if session is not None:
            session.close()


def posterior(moments: Tensor, noise: Tensor | None) -> Tensor:
    """Latents of moments, ``mean + std * noise`` in VAE space and fp32; without noise the mean."""
    return drawn(moments, noise)


def decode_pieces(
    vae: Any, latents: Iterable[Tensor], limits: Limits = UNLIMITED, *, first: bool = True, using: Using = nullcontext
) -> Generator[Tensor, None, None]:
    """Decode latents as they come.

    The authors cut an even number of latents differently from its beginning on (2, 2 ... instead of 3, 2 ...), so a
    stream, which does not know its length, takes an odd number.

    Args:
        latents: ``[B, 16, t, h, w]`` in VAE space each, any number at a time, odd in all.
        limits: what the decoding may use.
        first: the video begins with them. False for an odd number of latents later, and then an even number in all: the
            first :func:`decoder_reach` chunks of 2 latents become something else than they would have.
        using: entered for every chunk, and left before the next latents are read.

    Yields:
        ``[B, 3, f, 8h, 8w]`` fp32 on the CPU, in 0..1: 9 frames first (1 if that is all), then 8 at a time.

    Raises:
        ValueError: latents that differ in size or kind, or an even number of them; that is known at the end.
    """
    session: Session | None = None
    try:
        for index, chunk in enumerate(_chunks(latents, 3 if first else DECODED_LATENTS, DECODED_LATENTS, "latents")):
            alone = first and index == 0
            if len(chunk) not in ((1, 3) if alone else (DECODED_LATENTS,)):
                raise ValueError("the stream ends after an even number of latents; expected an odd one.")
            with using():
                session, panels = session or _decoding(vae, chunk[0], limits), whole_frame(chunk[0].shape[4])
                with computing(session.job.device):
                    frames = decode_chunk(torch.cat(chunk, dim=2), [session], panels, first=alone, last=False)
            yield frames
    finally:
        if session is not None:
            session.close()


def _encoding(vae: Any, frame: Tensor, limits: Limits) -> Session:
    """For videos of frames like this one, ``[B, 3, 1, H, W]``."""
    check_video("the frames", frame)
    place_offloaded(vae)
    chunks = [plan.ENCODE_FIRST_CHUNK, *[ENCODED_FRAMES] * (_CHUNKS - 1)]
    job = video_job(vae, frame, chunks, limits.device)
    return Session(job, limits, Counter([job], None))


def _decoding(vae: Any, latent: Tensor, limits: Limits) -> Session:
    """For videos of latents like this one, ``[B, 16, 1, h, w]``."""
    check_latents("the latents", latent, even=False, channels=decoder_layers(vae)[0].channels[0])
    place_offloaded(vae)
    batch, _, _, height, width = latent.shape
    job = decode_job(vae, [3, *[DECODED_LATENTS] * (_CHUNKS - 1)], (height, width), batch, limits.device)
    return Session(job, limits, Counter([job], None))


def encoder_reach(vae: Any) -> int:
    """Chunks of 16 frames before one that it depends on, at most."""
    return _causal(encoder_layers(vae))


def decoder_reach(vae: Any) -> int:
    """Chunks of 2 latents before one that it depends on, at most."""
    return _causal(decoder_layers(vae))


def _causal(layers: tuple[Layer, ...]) -> int:
    return sum(isinstance(layer, ConvLayer) for layer in layers)


def _chunks(pieces: Iterable[Tensor], first: int, following: int, name: str) -> Iterator[list[Tensor]]:
    """``[B, C, 1, H, W]`` each, so many at a time; at the end there may be fewer."""
    single = _singly(pieces, name)
    count = first
    while chunk := list(islice(single, count)):
        yield chunk
        count = following


def _singly(pieces: Iterable[Tensor], name: str) -> Iterator[Tensor]:
    """Pieces in parts of one frame.

    Raises:
        ValueError: some that differ from the first ones in more than their number.
    """
    expected = None
    for piece in pieces:
        if piece.ndim != 5:
            raise ValueError(f"the {name} have shape {list(piece.shape)}; expected [B, C, t, H, W].")
        form = (piece.shape[:2], piece.shape[3:], piece.dtype)
        if expected not in (None, form):
            raise ValueError(f"the {name} change on the way, from {expected} to {form}; expected one video.")
        expected = form
        yield from piece.detach().split(1, dim=2)
