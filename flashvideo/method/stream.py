"""Stage II as a stream: latents come and go one after another, whatever the length of the video."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..tensors.checks import check_latents
from .keeping import Kept, check_mask
from .stage1 import Callback
from .stage2 import Refinement, get_solver, with_defaults
from .windows import TRAINED_WINDOWS, Keeper, LatentStream, TimeWindows

MAX_EVALUATIONS = 64  # each holds a window, and waits within the next one


def refine_stream(
    transformer: Any,
    latents: Iterable[Tensor],
    prompt_embeds: Tensor,
    *,
    time_windows: TimeWindows = TRAINED_WINDOWS,
    callback: Callback | None = None,
    keep: Tensor | Iterable[Tensor] | None = None,
    source: Iterable[Tensor] | None = None,
    keepers: Callable[[int], Keeper] | None = None,
    **settings: Any,
) -> Iterator[Tensor]:
    """:func:`~flashvideo.refine_latents` with windows in time, of latents that come one after another.

    The result is the same, byte for byte: a step of a window needs the step before of the windows around it alone, and
    is made as soon as these are. So each of Euler's evaluations holds about three windows of latents, however long the
    video is; its length need not be known.

    Args:
        latents: ``[B, 16, t, h, w]`` each, any number of frames at a time, degraded; read as they are needed.
        time_windows: as there.
        callback: ``callback(steps done, num_steps, a latent in VAE space)`` for every latent after each of its steps:
            ``num_steps`` calls for each latent. What it raises ends the stream.
        keep: as there; ``[1, 1, 1, h, w]`` for all latents, or masks ``[1, 1, t, h, w]`` that come like the latents.
        source: as there, ``[B, 16, t, h, w]`` each; as many latents as are refined.
        keepers: for each evaluation, by its number from 0 on, what keeps its predictions, or has kept them. All begin
            at one latent, which then is the first of ``latents`` and of the result.
        settings: the keywords of :func:`~flashvideo.refine_latents`.

    Yields:
        Refined latents ``[B, 16, 1, h, w]`` in VAE space, in order, as soon as nothing that comes can change them.

    Raises:
        ValueError: settings that do not fit, at once; latents that do not, as they come.
    """
    settings = with_defaults(transformer, **settings) | {"time_windows": time_windows, "keepers": keepers}
    refinement = Refinement(transformer=transformer, prompt_embeds=prompt_embeds, **settings)
    if refinement.time_windows is None:
        raise ValueError("time_windows is None; a stream has no end to wait for. Give TimeWindows(length, overlap).")
    check_evaluations(refinement.num_steps, refinement.solver)
    if (keep is None) != (source is None):
        raise ValueError("keep and source belong together: the mask, and the latents that it keeps. Give both.")
    return _refined(refinement, iter(latents), callback, keep, None if source is None else iter(source))


def check_evaluations(num_steps: int, solver: str) -> None:
    """Raise ValueError for a solve that is too long to be a stream."""
    if (evaluations := num_steps * get_solver(solver).evaluations) > MAX_EVALUATIONS:
        raise ValueError(
            f"{num_steps} steps of {solver} are {evaluations} evaluations; with windows in time there are at most "
            f"{MAX_EVALUATIONS}, since each holds windows of its own. Use fewer steps; Stage II was made for 4."
        )


@torch.no_grad()
def _refined(
    refinement: Refinement,
    pieces: Iterator[Tensor],
    callback: Callback | None,
    keep: Tensor | Iterable[Tensor] | None,
    source: Iterator[Tensor] | None,
) -> Iterator[Tensor]:
    for first in islice(pieces, 1):
        check_latents("latents", first)
        scale, shape, dtype = refinement.scale, first.shape, first.dtype
        form, device = _form(first), first.device
        start = LatentStream(latent.float() * scale for latent in _singly(pieces, form, first))
        del first
        kept = None
        if keep is not None and source is not None:
            clean = LatentStream(latent.float() * scale for latent in _singly(source, form, what="source's latents"))
            kept = Kept(start, clean, _masks(keep, shape, device))
        for latent in _flow(refinement, start, shape, callback, kept):
            yield (latent / scale).to(dtype)


def _masks(keep: Tensor | Iterable[Tensor], shape: torch.Size, device: torch.device) -> Tensor | LatentStream:
    """One mask for all latents, or masks one by one."""
    if isinstance(keep, Tensor):
        check_mask(keep[:, :, :1], shape)
        if keep.shape[2] == 1:
            return keep.to(device).float()
        keep = [keep]
    return LatentStream(_single_masks(keep, shape, device))


def _single_masks(keep: Iterable[Tensor], shape: torch.Size, device: torch.device) -> Iterator[Tensor]:
    for masks in keep:
        for mask in masks.split(1, dim=2):
            check_mask(mask, shape)
            yield mask.to(device).float()


def _flow(
    refinement: Refinement, start: LatentStream, shape: torch.Size, callback: Callback | None, kept: Kept | None
) -> LatentStream:
    """The flow's end as a stream; nothing has been read yet."""
    for step, stream in refinement.steps(start, shape, kept):
        if callback is not None:
            stream.watch(partial(_tell, callback, step + 1, refinement))
    return stream


def _tell(callback: Callback, done: int, refinement: Refinement, latent: Tensor) -> None:
    callback(done, refinement.num_steps, latent / refinement.scale)


def _singly(
    pieces: Iterator[Tensor], expected: str, first: Tensor | None = None, what: str = "latents"
) -> Iterator[Tensor]:
    """Latents one by one, ``[B, 16, 1, h, w]``, those of ``first`` before all others.

    Raises:
        ValueError: some that differ from the expected form in more than their number.
    """
    if first is not None:
        yield from first.split(1, dim=2)
    del first
    for latents in pieces:
        check_latents(what, latents)
        if (form := _form(latents)) != expected:
            raise ValueError(
                f"{what} come as {form}, those before came as {expected}; expected one video: equal batch, size, "
                "dtype and device."
            )
        yield from latents.split(1, dim=2)


def _form(latents: Tensor) -> str:
    batch, channels, _, height, width = latents.shape
    return f"{latents.dtype} of shape [{batch}, {channels}, t, {height}, {width}] on {latents.device}"
