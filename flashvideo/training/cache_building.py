"""Encoding clips into a cache of latents.

A shard holds a fixed range of the source's clips, so a build that was interrupted, or is shared by several processes,
ends in the same bytes as one in one go.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.checksums import DamagedFileError
from ..checkpoints.outputs import make_folder, write_text
from ..checkpoints.paths import expanded
from ..checkpoints.writing import tensor_plan, write_safetensors
from ..loading.convert import OUTPUT_DTYPES
from ..method.pixel_degradation import degrade_pixels
from ..method.seeds import mixed_seed
from ..tensors.sizes import latent_frames
from ..vae.codec import encode_moments
from ..video.compression import CODECS
from .cache import INDEX, KEY, LAYOUT, SKIPPED, LatentCache, open_shard, read_index, shard_count, shard_name
from .datasets import DatasetSettings, open_source
from .media import BadClipError
from .sources import Clip, ClipSource

log = logging.getLogger(__name__)

_SHARD_CLIPS = 256
_SHARD_BYTES = 256e6
_PLACES = ("path", "cache")  # a data set may move without its cache becoming stale

Progress = Callable[[int, int], None]


def build_cache(
    settings: DatasetSettings,
    vae: Any,
    folder: str | Path,
    *,
    text_encoder: Any = None,
    progress: Progress | None = None,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    wait: Callable[[], None] | None = None,
) -> LatentCache:
    """Encode every clip once; what is there already is kept.

    Args:
        settings: the clips, and what to keep of them.
        vae: their encoder, as in :func:`~flashvideo.vae.codec.encode_video`; works where its weights are.
        folder: of the cache; made if it is missing.
        text_encoder: a :class:`~flashvideo.loading.text.TextEncoder`; without one, captions are kept as text only.
        progress: called with clips done and clips in all, of this process. May raise.
        workers: threads that load and degrade clips ahead of the encoder.
        rank, world_size: this process's number and the number of processes that share the work.
        wait: their barrier, called before the finished cache is opened.

    Returns:
        The finished cache.

    Raises:
        ValueError: settings that cannot be met, nothing usable in the source, a cache that was made with other
            settings, other clips or another VAE, or a VAE that gives NaN.
    """
    if not 0 <= rank < world_size or (world_size > 1 and wait is None):
        raise ValueError(f"rank {rank} of {world_size} with wait={wait}; expected a barrier for more than one process.")
    folder = expanded(folder)
    source = open_source(settings)
    plan = _Plan.make(settings, source, vae, text_encoder)
    _claim(folder, plan)
    builder = _Builder(settings, source, vae, text_encoder, plan)
    mine = range(rank, plan.shards, world_size)
    total, done = sum(len(plan.clips_of(shard)) for shard in mine), 0
    for shard in mine:
        path = folder / shard_name(shard)
        if not _is_ours(path, plan):
            builder.write(path, plan.clips_of(shard), workers, progress, (done, total))
        done += len(plan.clips_of(shard))
        if progress is not None:
            progress(done, total)
    if wait is not None:
        wait()
    return _finished(folder, settings)


@dataclass(frozen=True)
class _Plan:
    """What a cache is made from, and how its clips lie in shards."""

    record: dict[str, Any]
    clips: int
    clips_per_shard: int

    @classmethod
    def make(cls, settings: DatasetSettings, source: ClipSource, vae: Any, text_encoder: Any) -> _Plan:
        given = dataclasses.asdict(settings)
        used = {name: value for name, value in given.items() if name not in _PLACES}
        record = {
            "layout": LAYOUT,
            "settings": json.loads(json.dumps(used)),
            "clips": source.digest(),
            "vae": weights_hash(vae),
            "text encoder": weights_hash(text_encoder.model) if text_encoder is not None else None,
            "tokens": text_encoder.max_length if text_encoder is not None else None,
        }
        per_shard = max(1, min(_SHARD_CLIPS, int(_SHARD_BYTES / _bytes_of_latents(settings))))
        return cls({**record, "count": len(source), "clips per shard": per_shard}, len(source), per_shard)

    @property
    def shards(self) -> int:
        return math.ceil(self.clips / self.clips_per_shard)

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.record, sort_keys=True).encode()).hexdigest()

    def clips_of(self, shard: int) -> range:
        return range(shard * self.clips_per_shard, min(self.clips, (shard + 1) * self.clips_per_shard))


def _bytes_of_latents(settings: DatasetSettings) -> float:
    numbers = 16 * latent_frames(settings.frames) * (settings.height // 8) * (settings.width // 8)
    return (
        numbers * OUTPUT_DTYPES[settings.precision].itemsize * (1 + settings.keep_std) * (1 + settings.degraded_copies)
    )


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of a model's weights: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _claim(folder: Path, plan: _Plan) -> None:
    """Begin a cache, or make sure that the one that is there is the same."""
    make_folder(folder)
    index = folder / INDEX
    try:
        differing = _differences(read_index(folder), plan.record) if index.exists() else None
    except DamagedFileError as error:
        log.warning("%s", error)
        differing = None
    if differing is None:
        write_text(index, json.dumps(plan.record, indent=1) + "\n")
    elif differing:
        raise ValueError(
            f"The cache {folder} was made with other {', '.join(differing)}. Give another cache folder, or delete this "
            "one to have it made anew."
        )


def _differences(existing: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Names of what differs, with both values where they are short."""
    named: list[str] = []
    for name in sorted(existing.keys() | wanted.keys()):
        old, new = existing.get(name), wanted.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            named += _differences(old, new)
        elif name in ("vae", "text encoder", "clips"):
            named.append(
                {"vae": "VAE weights", "text encoder": "text encoder weights", "clips": "files or captions"}[name]
            )
        else:
            named.append(f"{name} ({str(old)[:40]}, now {str(new)[:40]})")
    return named


def _is_ours(path: Path, plan: _Plan) -> bool:
    """Whether a shard is there as a whole. Raises ValueError for one of another cache."""
    if not path.exists():
        return False
    try:
        made_from = open_shard(path).metadata.get(KEY + "made_from")
    except DamagedFileError as error:
        log.warning("%s It is made again now.", error)
        return False
    if made_from != plan.hash:
        raise ValueError(f"{path} belongs to another cache. Delete the cache to have it made anew.")
    return True


@dataclass(frozen=True)
class _Loaded:
    """A clip and its degraded copies ``[K, 3, F, H, W]``, or why there is none."""

    index: int
    name: str
    clip: Clip | None
    low: Tensor | None = None
    reason: str = ""


class _Builder:
    def __init__(self, settings: DatasetSettings, source: ClipSource, vae: Any, text_encoder: Any, plan: _Plan) -> None:
        self.settings, self.source, self.vae, self.text_encoder, self.plan = settings, source, vae, text_encoder, plan
        self.dtype = OUTPUT_DTYPES[settings.precision]

    def write(
        self, path: Path, clips: range, workers: int, progress: Progress | None, counted: tuple[int, int]
    ) -> None:
        """Encode a range of clips into one shard."""
        tensors: dict[str, Tensor] = {}
        kept: list[dict[str, Any]] = []
        skipped: list[dict[str, str]] = []
        for number, loaded in enumerate(self._loaded(clips, workers)):
            if loaded.clip is None:
                log.warning("%s is left out: %s", loaded.name, loaded.reason)
                skipped.append({"name": loaded.name, "reason": loaded.reason})
            else:
                parts = self._encode(loaded.clip, loaded.low)
                tensors.update({f"{loaded.index:08d}.{part}": value for part, value in parts.items()})
                kept.append({"index": loaded.index, "name": loaded.clip.name, "caption": loaded.clip.caption})
            if progress is not None:
                progress(counted[0] + number, counted[1])
        header = {"made_from": self.plan.hash, "clips": json.dumps(kept), "skipped": json.dumps(skipped)}
        write_safetensors(
            path, tensor_plan(tensors), {KEY + key: value for key, value in header.items()}, overwrite=True
        )

    def _loaded(self, clips: range, workers: int) -> Iterator[_Loaded]:
        """In order, loaded ahead by threads if there are any."""
        if workers < 1:
            yield from map(self._load, clips)
            return
        with ThreadPoolExecutor(workers) as pool:
            waiting: list[Future[_Loaded]] = []
            try:
                for index in clips:
                    waiting.append(pool.submit(self._load, index))
                    if len(waiting) > workers:
                        yield waiting.pop(0).result()
                while waiting:
                    yield waiting.pop(0).result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _load(self, index: int) -> _Loaded:
        name = self.source.name(index)
        try:
            clip = self.source.load(index)
        except BadClipError as error:
            return _Loaded(index, name, None, reason=str(error))
        if clip.caption and self.settings.caption_prefix:
            clip = dataclasses.replace(clip, caption=self.settings.caption_prefix + clip.caption)
        return _Loaded(index, name, clip, self._degraded(clip.video, index))

    def _degraded(self, video: Tensor, index: int) -> Tensor | None:
        copies = [
            degrade_pixels(
                video, self.settings.degradation, seed=mixed_seed(self.settings.seed, index, copy), codecs=CODECS
            )
            for copy in range(self.settings.degraded_copies)
        ]
        return torch.stack(copies) if copies else None

    def _encode(self, clip: Clip, low: Tensor | None) -> dict[str, Tensor]:
        parts = self._posterior(clip.name, clip.video[None], "")
        parts = {name: value[0] for name, value in parts.items()}
        if low is not None:
            parts |= self._posterior(clip.name, low, "low_")
        if self.text_encoder is not None:
            parts["embeds"] = self._embeds(clip.caption)
        return {name: value.to("cpu", self.dtype).contiguous() for name, value in parts.items()}

    def _posterior(self, name: str, video: Tensor, prefix: str) -> dict[str, Tensor]:
        """Mean and deviation ``[B, 16, T, h, w]``, as :func:`~flashvideo.vae.codec.encode_video` draws from them."""
        mean, log_variance = encode_moments(self.vae, video).float().chunk(2, dim=1)
        if not torch.isfinite(mean).all():
            raise ValueError(f"The VAE gave NaN or infinity for {name}. Load it in bf16 or fp32.")
        parts = {f"{prefix}mean": mean}
        if self.settings.keep_std:
            parts[f"{prefix}std"] = log_variance.clamp(-30, 20).mul(0.5).exp()
        return parts

    def _embeds(self, caption: str) -> Tensor:
        """``[L, D]``; zeros, which mean "no prompt", for an empty caption."""
        if not caption:
            return torch.zeros(self.text_encoder.max_length, self.text_encoder.model.config.d_model)
        embeds: Tensor = self.text_encoder.encode(caption, warn=False)[0]
        return embeds


def _finished(folder: Path, settings: DatasetSettings) -> LatentCache:
    """Open a cache that was built just now, and say what was left out."""
    shards = [folder / shard_name(number) for number in range(shard_count(read_index(folder)))]
    skipped = [entry for shard in shards for entry in json.loads(open_shard(shard).metadata[KEY + "skipped"])]
    kept = sum(len(json.loads(open_shard(shard).metadata[KEY + "clips"])) for shard in shards)
    write_text(folder / SKIPPED, "".join(json.dumps(entry) + "\n" for entry in skipped))
    if not kept:
        for path in (*shards, folder / INDEX):
            path.unlink(missing_ok=True)
        raise ValueError(
            f"None of the {len(skipped)} clips of {settings.path} can be used; {folder / SKIPPED} says why. Looked for "
            f"{settings.frames} frames of at least {settings.height}x{settings.width} pixels with "
            f"{'a caption' if settings.captions == 'required' else 'or without a caption'}. "
            f"The first, {skipped[0]['name']}: {skipped[0]['reason']}."
        )
    if skipped:
        log.warning("%d of %d clips were left out; %s lists them", len(skipped), len(skipped) + kept, folder / SKIPPED)
    return LatentCache(folder)
