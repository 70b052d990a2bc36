"""Where clips come from: a folder of files, tar shards in WebDataset's layout, or drawn shapes.

A source has a length, loads any of its clips in any order, and gives the same clip for the same index and seed. A clip
that cannot be used raises :class:`~flashvideo.training.media.BadClipError`, and costs nothing but itself.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..checkpoints.paths import expanded
from ..method.seeds import mixed_seed
from .captions import caption_in_table, caption_of_object, clean_caption, read_caption_file, read_caption_tables
from .media import IMAGE_SUFFIXES, MEDIA_SUFFIXES, VIDEO_SUFFIXES, BadClipError, Framing, read_clip

log = logging.getLogger(__name__)

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Clip:
    """What is trained on: ``video`` is ``[3, F, H, W]`` fp32 in 0..1, ``caption`` one line."""

    name: str
    video: Tensor
    caption: str


class ClipSource(Protocol):
    """A collection of clips."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Of a clip, without loading it."""
        ...

    def load(self, index: int) -> Clip:
        """Raises BadClipError for a clip that cannot be used."""
        ...

    def digest(self) -> str:
        """A hash that changes when clips or captions are added, removed or replaced."""
        ...


class FolderClips:
    """Videos and images of a folder and those below it, in the order of their names.

    The caption of ``a.mp4`` is in ``a.txt`` beside it, else in a table in the folder itself
    (:func:`~flashvideo.training.captions.read_caption_tables`).

    Args:
        folder: where they are. Names that begin with a dot are left out.
        framing: which part of each is taken.
        seed: of random parts.
        need_captions: refuse clips without a caption; else their caption is empty.

    Raises:
        ValueError: no such folder, nothing usable in it, or a table that cannot be understood.
    """

    def __init__(self, folder: str | Path, framing: Framing, *, seed: int = 0, need_captions: bool = True) -> None:
        self.folder, self.framing, self.seed, self.need_captions = (
            expanded(folder),
            framing,
            seed,
            need_captions,
        )
        if not self.folder.is_dir():
            raise ValueError(f"There is no folder {self.folder}. Give one with videos or images.")
        self.table = read_caption_tables(self.folder)
        paths = (path.relative_to(self.folder) for path in self.folder.rglob("*"))
        self.names = sorted(path.as_posix() for path in paths if _is_media(path))
        if not self.names:
            raise ValueError(
                f"{self.folder} has no videos or images, nor have the folders in it. "
                f"Looked for {', '.join(MEDIA_SUFFIXES)}."
            )

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def load(self, index: int) -> Clip:
        name = self.names[index]
        caption = _checked_caption(self._caption(name), self.need_captions)
        return Clip(name, read_clip(self.folder / name, self.framing, _generator(self.seed, index)), caption)

    def _caption(self, name: str) -> str | None:
        beside = (self.folder / name).with_suffix(".txt")
        return read_caption_file(beside) if beside.is_file() else caption_in_table(self.table, name)

    def digest(self) -> str:
        return _digest(
            f"{name} {_size_of(self.folder / name)} {self._caption_or_nothing(name)!r}" for name in self.names
        )

    def _caption_or_nothing(self, name: str) -> str | None:
        try:
            return self._caption(name)
        except BadClipError:
            return None


@dataclass(frozen=True)
class _Member:
    """A file inside a tar file, which can be read without opening the tar file as such."""

    shard: Path
    offset: int
    size: int

    def read(self) -> bytes:
        try:
            with self.shard.open("rb") as stream:
                stream.seek(self.offset)
                content = stream.read(self.size)
        except OSError as error:
            raise BadClipError(f"{self.shard} cannot be read ({error.strerror or error})") from error
        if len(content) < self.size:
            raise BadClipError(f"{self.shard.name} is cut short")
        return content


class WebDatasetClips:
    """Clips of tar shards in WebDataset's layout: members of one name but for the extension belong together.

    The headers are scanned once, so that any clip can be read without those before it.

    Args:
        shards: ``clips-{000..003}.tar``, one ``.tar`` file, or a folder with such files; uncompressed.
        framing: which part of each clip is taken.
        seed: of random parts.
        need_captions: refuse clips without a caption (``.txt``, or ``.json`` with ``text``, ``caption`` or ``prompt``).

    Raises:
        ValueError: no such shards, compressed ones, or nothing usable in them.
    """

    def __init__(self, shards: str | Path, framing: Framing, *, seed: int = 0, need_captions: bool = True) -> None:
        self.framing, self.seed, self.need_captions = framing, seed, need_captions
        self.shards = find_shards(shards)
        self.samples: dict[str, dict[str, _Member]] = {}
        for shard in self.shards:
            self._scan(shard)
        self.keys = sorted(key for key, members in self.samples.items() if _media_of(members))
        if not self.keys:
            raise ValueError(
                f"{shards} has no videos or images in its {len(self.shards)} shards. "
                f"Looked for members with {', '.join(MEDIA_SUFFIXES)}."
            )

    def _scan(self, shard: Path) -> None:
        members: dict[str, dict[str, _Member]] = {}
        try:
            with tarfile.open(shard, "r:") as archive:
                for entry in archive:
                    folder, _, leaf = entry.name.rpartition("/")
                    stem, dot, extension = leaf.partition(".")
                    if entry.isfile() and stem and dot:
                        key = f"{shard.name}/{folder}/{stem}" if folder else f"{shard.name}/{stem}"
                        place = _Member(shard, entry.offset_data, entry.size)
                        members.setdefault(key, {})[f".{extension.lower()}"] = place
        except tarfile.TarError as error:
            if not members:
                raise ValueError(f"{shard} is not an uncompressed tar file ({error}). Unpack or repair it.") from error
            log.warning("%s is damaged after %d clips (%s); the rest of it is left out", shard, len(members), error)
        self.samples.update(members)

    def __len__(self) -> int:
        return len(self.keys)

    def name(self, index: int) -> str:
        return self.keys[index]

    def load(self, index: int) -> Clip:
        members = self.samples[self.keys[index]]
        caption = _checked_caption(self._caption(members), self.need_captions)
        content = io.BytesIO(members[_media_of(members)].read())
        return Clip(self.keys[index], read_clip(content, self.framing, _generator(self.seed, index)), caption)

    def _caption(self, members: dict[str, _Member]) -> str | None:
        try:
            if ".txt" in members:
                return members[".txt"].read().decode("utf-8-sig")
            if ".json" in members:
                return caption_of_object(json.loads(members[".json"].read()))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise BadClipError(f"its caption cannot be read ({error})") from error
        return None

    def digest(self) -> str:
        return _digest(
            f"{key} {suffix} {member.size}" for key in self.keys for suffix, member in sorted(self.samples[key].items())
        )


class ShapesClips:
    """Drawn clips (:mod:`flashvideo.shapes`), endless but for ``count``.

    Args:
        framing: size and frames; the rest is not used.
        count: of clips.
        seed: of the first scene; the others follow.
        held_out: scenes of held-out combinations in place of those for training.
        low: low-resolution clips, whose textures are gone (Stage I's data).
        several: two shapes and three shapes in turn, in place of one half of the time.
    """

    def __init__(
        self,
        framing: Framing,
        *,
        count: int,
        seed: int = 0,
        held_out: bool = False,
        low: bool = False,
        several: bool = False,
    ) -> None:
        self.framing, self.count, self.seed, self.held_out, self.low = framing, count, seed, held_out, low
        self.several = several

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"scene-{self.seed + index}"

    def load(self, index: int) -> Clip:
        from ..shapes.render import render_clip, render_low_clip
        from ..shapes.scenes import sample_scene

        height, width, frames = self.framing.height, self.framing.width, self.framing.frames
        shapes = 2 + index % 2 if self.several else None
        scene = sample_scene(self.seed + index, count=shapes, held_out=self.held_out, aspect=width / height)
        draw = render_low_clip if self.low else render_clip
        return Clip(self.name(index), draw(scene, height, width, frames), scene.caption)

    def digest(self) -> str:
        """Of a sample of the drawing itself, so that caches are made anew when the drawing changes."""
        return _digest(self._fingerprint(index) for index in range(min(self.count, 3)))

    def _fingerprint(self, index: int) -> str:
        clip = self.load(index)
        return f"{clip.caption} {[round(value, 3) for value in clip.video.mean(dim=(1, 2, 3)).tolist()]}"


def find_shards(shards: str | Path) -> list[Path]:
    """The tar files that a pattern like ``clips-{000..003}.tar``, a file or a folder stands for.

    Raises:
        ValueError: one that is missing, or none in the folder.
    """
    path = expanded(shards)
    if path.is_dir():
        files = sorted(path.glob("*.tar"))
        if not files:
            raise ValueError(
                f"{path} has no .tar files. Give a folder of shards, or a pattern like clips-{{000..003}}.tar."
            )
        return files
    files = [Path(name) for name in _expand(str(path))]
    missing = [str(one) for one in files if not one.is_file()]
    if missing:
        raise ValueError(f"There is no shard {', '.join(missing[:3])} ({len(missing)} of {len(files)} are missing).")
    return files


def _expand(pattern: str) -> list[str]:
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    numbers = range(int(match[1]), int(match[2]) + 1)
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [name for number in numbers for name in _expand(f"{head}{number:0{len(match[1])}d}{tail}")]


def _is_media(path: Path) -> bool:
    return path.suffix.lower() in MEDIA_SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _media_of(members: dict[str, _Member]) -> str:
    """Extension of the video, else of the image among them; "" without either."""
    return next((suffix for suffix in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES) if suffix in members), "")


def _checked_caption(caption: str | None, needed: bool) -> str:
    text = clean_caption(caption or "")
    if needed and not text:
        raise BadClipError("it has no caption" if caption is None else "its caption is empty")
    return text


def _generator(seed: int, index: int) -> torch.Generator:
    return torch.Generator().manual_seed(mixed_seed(seed, "part of clip", index))


def _size_of(path: Path) -> int:
    """-1 for a file that is not there, such as a dangling link: it is reported when it is loaded."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
