"""Stage II of a video of any length: frames in, frames out, in the memory of a few windows.

Frames are brought to size, encoded, degraded, refined in windows of time and decoded, each as soon as it can be, one
model after the other on the device. There are no segments that could show.

Draws belong to a latent's place in the video: (seed, purpose, index), so that they are the same for long and short
clips, and wherever a run goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice, tee
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..method.checks import check_prompt_embeds
from ..method.degradation import degrade_latents, undegrade_latents
from ..method.stage2 import get_solver
from ..method.stream import refine_stream
from ..method.windows import TimeWindows
from ..models.estimate import sampling_bytes
from ..tensors.checks import check_video
from ..tensors.sizes import LATENT_CHANNELS, SPATIAL_FACTOR, TEMPORAL_FACTOR, latent_frames
from ..vae.limits import Limits
from ..vae.stream import (
    DECODED_LATENTS,
    ENCODED_FRAMES,
    ENCODED_LATENTS,
    decode_pieces,
    decoder_reach,
    encode_pieces,
    encoder_reach,
    posterior,
)
from ..vae.tiling import memory
from ..video.color_match import match_colors
from ..video.resize import resize_video
from .chain import Models, Progress, no_progress, sequential_guidance, stage2_scale
from .keeping import endless_masks, identified
from .seeds import Purpose, frame_noise
from .settings import Stage2Settings
from .store import LatentStore, same_budgets

DRAWS = "frame"  # how records of streams call their draws; those of previews are of a whole clip
_WHOLE = TimeWindows(length=1 << 40, overlap=0)  # one window that holds everything
_BUDGETS = "budgets.json"
_PERIOD = 2 * TEMPORAL_FACTOR  # frames of two latents: streams of latents have an odd length


def padded_frames(frames: int) -> int:
    """Frames that so many are filled up to, by repeating the last one: 8n + 1.

    The VAE takes 4n + 1; an even number of latents would be decoded in other chunks from the beginning on, which a
    stream cannot know.
    """
    return frames + (1 - frames) % _PERIOD


def _latents_of(frames: int | None) -> int | None:
    """Latents of a stream of so many frames, if that is known."""
    return None if frames is None else latent_frames(padded_frames(frames))


def _nothing() -> int:
    """Frames that are safe where nobody keeps them."""
    return 0


def refine_frames(
    models: Models,
    frames: Iterable[Tensor],
    prompt_embeds: Tensor,
    settings: Stage2Settings,
    progress: Progress = no_progress,
    *,
    total: int | None = None,
    first_latent: int = 0,
    swap: bool = False,
    limits: Limits | None = None,
) -> Generator[Tensor, None, None]:
    """Refine frames as they come.

    Args:
        models: Stage II and the VAE.
        frames: ``[1, 3, f, h, w]`` in 0..1 each, any number at a time, any number in all; read as they are needed.
        prompt_embeds: ``[1, 226, D]`` of the prompt with the motion prefix.
        settings: Stage II's. Without windows in time everything is one window, and held.
        progress: called after each step of a latent. What it raises ends the stream.
        total: how many frames come, if that is known, for ``progress``.
        first_latent: number in the video of the first latent, for its draws.
        swap: have one model at a time on its device; else both stay there.
        limits: what encoding and decoding may take each; None takes what is free beside Stage II's evaluations.

    Yields:
        ``[1, 3, f, H, W]`` fp32 on the CPU, in 0..1: as many frames as came. Closing the stream frees everything.

    Raises:
        ValueError: settings that cannot run, or a mask that is missing, at once; frames that are none, or change their
            size, as they come.
    """
    settings.check()
    identified(settings.keep)
    stream = _Stream(models, prompt_embeds, settings, progress, total, first_latent, swap, limits)
    return stream.run(lambda _start: iter(frames), _nothing)


def go_on_refining(
    models: Models,
    frames: Callable[[int], Iterator[Tensor]],
    prompt_embeds: Tensor,
    settings: Stage2Settings,
    store: Path | None,
    done: Callable[[], int] = _nothing,
    progress: Progress = no_progress,
    *,
    total: int | None = None,
    first_latent: int = 0,
    swap: bool = False,
    budgets: Path | None = None,
    longest: int | None = None,
    limits: Limits | Callable[[], Limits] | None = None,
    masks: Tensor | Iterator[Tensor] | None = None,
) -> Generator[Tensor, None, None]:
    """As :func:`refine_frames`, keeping what is finished: after any end the same call goes on, to the same bytes.

    Args:
        frames: gives the frames from a number on, ``[1, 3, 1, h, w]`` each.
        store: folder for what is kept, this stream's alone; None keeps nothing.
        done: tells how many frames are safe by now, 0 or 8n + 1: the stream begins behind those that are safe when it
            is made, and lets go what only they needed. Where none are, all refined latents are kept, and decoded again.
        budgets: file that keeps what the VAE may take, for all streams that are to be coded in the same tiles; None:
            one in ``store``.
        longest: frames of the longest of these streams; None: ``total``.
        limits: as there; the budgets of a function, and what is free, hold for whoever goes on too.
        masks: of what is kept, instead of the settings': ``[1, 1, 1, h, w]`` of all latents, or one after another.
    """
    settings.check()
    identified(settings.keep)
    kept = LatentStore(store, settings.num_steps * get_solver(settings.solver).evaluations) if store else None
    file, longest = budgets or (store / _BUDGETS if store else None), longest or total
    stream = _Stream(
        models,
        prompt_embeds,
        settings,
        progress,
        total,
        first_latent,
        swap,
        limits,
        store=kept,
        budgets=file,
        longest=longest,
        masks=masks,
    )
    return stream.run(frames, done)


@dataclass(frozen=True)
class _Stream:
    models: Models
    prompt_embeds: Tensor
    settings: Stage2Settings
    progress: Progress
    total: int | None
    first_latent: int
    swap: bool
    limits: Limits | Callable[[], Limits] | None
    store: LatentStore | None = None
    budgets: Path | None = None
    longest: int | None = None
    masks: Tensor | Iterator[Tensor] | None = None

    def run(self, frames: Callable[[int], Iterator[Tensor]], safe: Callable[[], int]) -> Generator[Tensor, None, None]:
        done = safe()
        with ExitStack() as stack:
            vae, using_vae = self._part("vae", stack)
            transformer = self._transformer(stack)
            limits = self._chosen_limits(transformer)
            reach = decoder_reach(vae)
            decoding = _decoded_from(done, reach)
            if self.store and not self.store.reaches(decoding.latent):
                self.store.clear()
            encoding = _encoded_from(self.store.started if self.store else 0, encoder_reach(vae))
            begin = min(encoding.first, done) if self.settings.match_colors else encoding.first
            source = frames(begin)
            if isinstance(source, Generator):  # its thread or file is not left to the garbage collector
                stack.enter_context(closing(source))
            counted = _Padded(source, begin, keep=done if self.settings.match_colors else None)
            large = map(self._at_size, islice(counted, encoding.first - begin, None))
            moments = stack.enter_context(
                closing(encode_pieces(vae, large, limits, first=encoding.chunk == 0, using=using_vae))
            )
            self._again("Encode again", moments, encoding.dropped)
            refined = self._refined(transformer, self._degraded(moments, encoding.latent + encoding.dropped), decoding)
            decoded = stack.enter_context(
                closing(decode_pieces(vae, refined, limits, first=decoding.chunk == 0, using=using_vae))
            )
            self._again("Decode again", decoded, decoding.dropped)
            for part in decoded:
                if self.store:
                    self.store.drop_refined(_decoded_from(safe(), reach).latent)
                part = self._colored(part, counted)
                part = part[:, :, : max(0, counted.frames - done)] if counted.ended else part
                done += part.shape[2]
                if part.shape[2]:
                    yield part

    def _part(self, name: str, stack: ExitStack) -> tuple[Any, Callable[[], AbstractContextManager[Any]]]:
        """A model, and what to enter while it computes."""
        if not self.swap:
            return stack.enter_context(self.models.use(name)), nullcontext
        with self.models.use(name) as model:
            return model, partial(self.models.use, name)

    def _transformer(self, stack: ExitStack) -> Any:
        model, using = self._part("stage2", stack)
        with using():
            check_prompt_embeds("prompt_embeds", self.prompt_embeds, 1, model)
            return _Placed(model, using) if self.swap else model

    def _limits(self, transformer: Any) -> Limits:
        """What encoding and decoding may take each beside Stage II's evaluations, with what waits between chunks."""
        device = torch.device(getattr(transformer, "device", "cpu"))
        host = memory.free_on_host()
        if device.type == "cpu":
            return Limits(memory_budget=max(1, host // 8), host_budget=max(1, host * 3 // 8))
        size = self.settings.height // SPATIAL_FACTOR, self.settings.width // SPATIAL_FACTOR
        longest = _latents_of(self.longest or self.total) or 1 << 20
        shape = (1, LATENT_CHANNELS, min(self._windows.length, longest), *size)
        work = sampling_bytes(
            transformer.config,
            shape,
            transformer.dtype.itemsize,
            sequential=self._sequential(shape),
            windows=self.settings.attention_windows,
        )
        if self.swap:
            work += sum(each.numel() * each.element_size() for each in transformer.parameters())
        left = max(1, (memory.free_on(device) - work) // 2)
        return Limits(memory_budget=left, host_budget=max(1, host // 2), device=device)

    def _chosen_limits(self, transformer: Any) -> Limits:
        """What was given; else what is free, or was so when the stream was begun."""
        if isinstance(self.limits, Limits):
            return self.limits
        limits = self.limits() if self.limits else self._limits(transformer)
        if self.budgets is None:
            return limits
        device, host = same_budgets(self.budgets, int(limits.memory_budget or 1), int(limits.host_budget or 1))
        return replace(limits, memory_budget=device, host_budget=host)

    @property
    def _windows(self) -> TimeWindows:
        return self.settings.windows_in_time or _WHOLE

    def _sequential(self, shape: tuple[int, ...]) -> bool:
        # Of a window: how long the video is changes nothing.
        return sequential_guidance((*shape[:2], self._windows.length, *shape[3:]), self._windows)

    def _at_size(self, frame: Tensor) -> Tensor:
        return resize_video(frame, self.settings.height, self.settings.width, mode=self.settings.resize)

    def _noise(self, purpose: Purpose, index: int, latent: Tensor) -> Tensor:
        shape = (1, LATENT_CHANNELS, 1, *latent.shape[3:])
        return frame_noise(self.settings.seed, purpose, index, shape)

    def _again(self, what: str, pieces: Iterator[Tensor], dropped: int) -> None:
        """Let go what is known already, frames or latents: coding begins earlier, to know its past."""
        done = 0
        for piece in islice(pieces, 0) if not dropped else pieces:
            done += piece.shape[2]
            self.progress(what, min(done, dropped), dropped)
            if done >= dropped:
                return

    def _degraded(self, moments: Iterable[Tensor], number: int) -> Iterator[Tensor]:
        """Stage II's start, ``[1, 16, 1, h, w]`` fp32 on the CPU, latent by latent, new ones from ``number`` on."""
        yield from self.store.start() if self.store else ()
        for chunk in moments:
            new = [self._degrade(moment, number + place) for place, moment in enumerate(chunk.split(1, dim=2))]
            if self.store:
                self.store.keep_start(number, torch.cat(new, dim=2))
            number += len(new)
            yield from new

    def _degrade(self, moment: Tensor, number: int) -> Tensor:
        number += self.first_latent
        drawn = self._noise("posterior", number, moment) if self.settings.sample_posterior else None
        noise = self._noise("degradation", number, moment)
        latent, scale = posterior(moment, drawn).cpu(), stage2_scale(self.models)
        return degrade_latents(latent, self.settings.noise_step, noise=noise, latent_scale=scale)

    def _refined(self, transformer: Any, latents: Iterable[Tensor], decoding: _Place) -> Iterator[Tensor]:
        """Refined latents, ``[1, 16, 1, h, w]``, from the one on that is decoded first."""
        if self.store is None:
            yield from self._flow(transformer, latents)
            return
        store = self.store
        store.drop_refined(decoding.latent)
        there = store.refined if store.first_refined() <= decoding.latent else 0
        for number, latent in enumerate(store.refined_from(decoding.latent) if there > decoding.latent else (), 1):
            self.progress("Kept latents", number, there - decoding.latent)
            yield latent
        for number, latent in enumerate(self._flow(transformer, latents), store.begin):
            if number >= store.refined:
                store.keep_refined(number, latent)
            if number >= max(there, decoding.latent):
                yield latent

    def _flow(self, transformer: Any, latents: Iterable[Tensor]) -> Iterator[Tensor]:
        settings = self.settings
        size = (settings.height // SPATIAL_FACTOR, settings.width // SPATIAL_FACTOR)
        steps = count(1 + settings.num_steps * (self.store.begin if self.store else 0))
        in_all = settings.num_steps * (_latents_of(self.total) or 0)
        latents, kept = self._kept(latents)

        def told(_done: int, _total: int, _latent: Tensor) -> None:
            self.progress("Stage II", next(steps), in_all)

        return refine_stream(
            transformer,
            latents,
            self.prompt_embeds,
            noise_step=settings.noise_step,
            num_steps=settings.num_steps,
            shift=settings.shift,
            guidance_scale=settings.guidance_scale,
            guidance_every=settings.guidance_every,
            solver=settings.solver,
            rounding=settings.rounding,
            attention_windows=settings.attention_windows,
            latent_scale=stage2_scale(self.models),
            sequential_guidance=self._sequential((1, LATENT_CHANNELS, 1, *size)),
            time_windows=self._windows,
            callback=told,
            keepers=self.store.keeper if self.store else None,
            **kept,
        )

    def _kept(self, latents: Iterable[Tensor]) -> tuple[Iterable[Tensor], dict[str, Any]]:
        """The latents, and what else refining takes to keep a part of their source."""
        masks = endless_masks(self.settings) if self.masks is None else self.masks
        if masks is None:
            return latents, {}
        latents, degraded, each = tee(latents, 3)
        begin = self.store.begin if self.store else 0
        source = map(self._undegraded, degraded, count(self.first_latent + begin))
        if not isinstance(masks, Tensor):
            masks = (mask for _latent, mask in zip(each, islice(masks, begin, None), strict=False))
        return latents, {"keep": masks, "source": source}

    def _undegraded(self, latent: Tensor, index: int) -> Tensor:
        noise = self._noise("degradation", index, latent)
        scale = stage2_scale(self.models)
        return undegrade_latents(latent, self.settings.noise_step, noise=noise, latent_scale=scale)

    def _colored(self, frames: Tensor, source: _Padded) -> Tensor:
        if not self.settings.match_colors:
            return frames
        small = source.take(frames.shape[2])
        return match_colors(frames, small, self.settings.match_colors, resize=self.settings.resize)


@dataclass(frozen=True)
class _Place:
    """Where coding begins again, so that it knows all that it would have known.

    Attributes:
        chunk: that it begins with.
        first: number of the first frame that is encoded.
        latent: likewise of the first latent that is made of these, or is decoded.
        dropped: what comes out before that is known already: latents of the encoder, frames of the decoder.
    """

    chunk: int
    first: int
    latent: int
    dropped: int


def _encoded_from(latents: int, reach: int) -> _Place:
    """For the latents behind so many."""
    chunk = max(0, (latents - 1) // ENCODED_LATENTS - reach)
    latent = 1 + ENCODED_LATENTS * chunk if chunk else 0
    return _Place(chunk, 1 + ENCODED_FRAMES * chunk if chunk else 0, latent, latents - latent)


def _decoded_from(frames: int, reach: int) -> _Place:
    """For the frames behind so many, which end a chunk.

    Raises:
        ValueError: they do not.
    """
    if frames and frames % _PERIOD != 1:
        raise ValueError(f"{frames} frames are done; expected 0, 9, 17 ... (8n + 1), the end of a chunk.")
    chunk = max(0, frames // _PERIOD - reach)
    latent = 1 + DECODED_LATENTS * chunk if chunk else 0
    return _Place(chunk, 0, latent, frames - (_PERIOD * chunk + 1 if chunk else 0))


class _Padded:
    """Frames one by one, ``[1, 3, 1, h, w]``, the last one repeated up to 8n + 1.

    Args:
        source: the frames.
        begin: number in the video of the first of them.
        keep: hold them for :meth:`take` from this number on; None holds none.

    Attributes:
        frames: of the video that came so far, those before ``begin`` included.
        ended: whether all have come.
    """

    def __init__(self, source: Iterable[Tensor], begin: int, *, keep: int | None) -> None:
        self.frames, self.ended = begin, False
        self._source, self._keep, self._kept = source, keep, deque[Tensor]()

    def __iter__(self) -> Iterator[Tensor]:
        last = None
        for piece in self._source:
            check_video("the frames", piece, "[1, 3, F, H, W]")
            for frame in piece.split(1, dim=2):
                if last is not None and last.shape != frame.shape:
                    raise ValueError(
                        f"frame {self.frames} has shape {list(frame.shape)}, those before it {list(last.shape)}; "
                        "expected frames of one size. Resize them first."
                    )
                last = frame
                self._note(frame)
                self.frames += 1
                yield frame
        self.ended = True
        if last is None and not self.frames:
            raise ValueError("there are no frames; expected at least one.")
        for _ in range(padded_frames(self.frames) - self.frames):
            if last is not None:
                self._kept.extend([last] if self._keep is not None else [])
                yield last

    def take(self, number: int) -> Tensor:
        """The next frames of those that came, ``[1, 3, f, h, w]``; held no longer."""
        return torch.cat([self._kept.popleft() for _ in range(number)], dim=2)

    def _note(self, frame: Tensor) -> None:
        if self._keep is not None and self.frames >= self._keep:
            self._kept.append(frame)


class _Placed:
    """A transformer that is brought to its device for each call; its other attributes are as it has them there."""

    def __init__(self, model: Any, using: Callable[[], AbstractContextManager[Any]]) -> None:
        self._model, self._using = model, using
        self.device, self.dtype = getattr(model, "device", None), getattr(model, "dtype", None)

    def __call__(self, *inputs: Any, **more: Any) -> Tensor:
        with self._using():
            result: Tensor = self._model(*inputs, **more)
        return result

    def prepare(self, *inputs: Any) -> Any:
        with self._using():
            return self._model.prepare(*inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
