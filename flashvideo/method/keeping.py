"""Regions that Stage II leaves as their source shows them: inpainting along the flow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tensors.checks import check_latents
from ..tensors.sizes import TEMPORAL_FACTOR
from .windows import Latents, LatentStream

_FEATHER = (0.25, 0.5, 0.25)  # of a mask's border, in latents


@dataclass(frozen=True)
class Kept:
    """What is kept of a flow, in model space; all of them tensors, or all streams.

    At time ``t`` the flow of what is kept is known: ``(1 - t) start + t source``, straight from the degraded latents,
    whose noise it shares, to the source's own. After each step it takes the place of what was solved for, so that all
    that is painted around it is painted to fit.

    Attributes:
        start: degraded latents, ``[B, 16, T, h, w]``.
        source: latents of the source, without noise.
        mask: ``[1 or B, 1, 1 or T, h, w]``, 1 where the source is kept, 0 where it is refined; a tensor of one frame
            holds for all of them, in a stream too.
    """

    start: Any
    source: Any
    mask: Any

    def hold(self, x: Latents, time: float) -> Latents:
        """What was solved for at a time, with what is kept in its place."""
        at_time: Callable[..., Tensor] = partial(_held, time)
        if not isinstance(x, LatentStream):
            return at_time(x, self.start, self.source, self.mask)
        if not isinstance(self.mask, Tensor):
            return LatentStream(_of_all(at_time, x, self.start, self.source, self.mask))
        return LatentStream(_of_all(partial(at_time, mask=self.mask), x, self.start, self.source))


def _held(time: float, x: Tensor, start: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    known = (1 - time) * start + time * source
    return torch.where(mask > 0, torch.lerp(x, known, mask), x)  # nothing kept: the very bytes


def _of_all(function: Callable[..., Tensor], *streams: Iterable[Tensor]) -> Iterator[Tensor]:
    """The function of what comes from all streams, which are read from here on at one pace.

    Raises:
        ValueError: one of them ends before the others.
    """
    readers = [iter(stream) for stream in streams]  # all there before one of them reads
    return _in_step(function, readers)


def _in_step(function: Callable[..., Tensor], readers: list[Iterator[Tensor]]) -> Iterator[Tensor]:
    while parts := [part for reader in readers for part in islice(reader, 1)]:
        if len(parts) < len(readers):
            raise ValueError(
                "The latents, their source and the mask that keeps a part of it are of different lengths; expected as "
                "many latent frames in each."
            )
        held = function(*parts)
        del parts  # or they would be held until the next ones are read
        yield held
        del held


def check_keep(keep: Tensor | None, source: Tensor | None, latents: Tensor) -> None:
    """Raise ValueError for a mask or a source that does not fit the latents that are refined."""
    if (keep is None) != (source is None):
        given, missing = ("source", "keep") if keep is None else ("keep", "source")
        raise ValueError(
            f"{given} is given without {missing}; a mask and the latents that it keeps belong together. Give both, or "
            "neither."
        )
    if keep is None or source is None:
        return
    check_latents("source", source)
    if source.shape != latents.shape:
        raise ValueError(
            f"source has shape {list(source.shape)}; expected that of the latents, {list(latents.shape)}: the same "
            "video, encoded, before it was degraded."
        )
    check_mask(keep, latents.shape)


def check_mask(keep: Tensor, shape: torch.Size) -> None:
    """Raise ValueError unless ``keep`` is a mask for latents of that shape."""
    batch, _, frames, height, width = shape
    fits = (
        keep.is_floating_point()
        and keep.ndim == 5
        and keep.shape[0] in (1, batch)
        and keep.shape[1] == 1
        and keep.shape[2] in (1, frames)
        and tuple(keep.shape[3:]) == (height, width)
    )
    if not fits:
        raise ValueError(
            f"keep is {keep.dtype} of shape {list(keep.shape)}; expected floating point [1, 1, {frames}, {height}, "
            f"{width}], or one frame for all. latent_mask makes it of a mask in pixels."
        )
    if not bool(((keep >= 0) & (keep <= 1)).all()):
        raise ValueError(
            "keep has values outside of 0..1, or NaN; expected 1 where the source is kept and 0 elsewhere."
        )


def latent_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """A mask in pixels as one of latents, with a soft border that leaves nothing of it out in time.

    A latent is kept if any of its frames is, since it holds them all; in space the mask is averaged, and its border
    runs over one latent more, 8 pixels, to either side.

    Args:
        mask: ``[F, H, W]`` in 0..1, of any size; one frame holds for the whole video.
        height, width: of the latents.

    Returns:
        ``[1, 1, T, height, width]`` fp32; T is 1, or the latents of so many frames, the last repeated up to 4n + 1.

    Raises:
        ValueError: another shape, values outside of 0..1.
    """
    if mask.ndim != 3 or not mask.is_floating_point() or 0 in mask.shape:
        raise ValueError(
            f"the mask is {mask.dtype} of shape {list(mask.shape)}; expected floating point [F, H, W] in 0..1."
        )
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError("the mask has values outside of 0..1, or NaN. Divide 8-bit values by 255.")
    return torch.cat(list(latent_masks(mask.split(1), height, width)), dim=2)


def latent_masks(frames: Iterable[Tensor], height: int, width: int) -> Iterator[Tensor]:
    """:func:`latent_mask` of frames ``[1, H, W]`` that come one after another: ``[1, 1, 1, height, width]`` each."""
    small = (_soft(frame, height, width) for frame in frames)
    group = list(islice(small, 1))
    while group:
        yield torch.stack(group).amax(dim=0)[None, None]
        group = list(islice(small, TEMPORAL_FACTOR))


def _soft(frame: Tensor, height: int, width: int) -> Tensor:
    """``[1, H, W]`` -> ``[1, height, width]``, averaged, with a border that is softer."""
    small = F.interpolate(frame[None].float(), (height, width), mode="area")
    small = F.pad(small, (1, 1, 1, 1), mode="replicate")
    taps = torch.tensor(_FEATHER, device=frame.device)
    return F.conv2d(F.conv2d(small, taps.view(1, 1, 3, 1)), taps.view(1, 1, 1, 3))[0].clamp(0, 1)
