"""The page as a file: template, videos and what is known of them, in one."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from ...checkpoints.outputs import check_room, check_writable, make_folder, naming_disk_errors, replacing
from ...checkpoints.paths import expanded
from ..measures import measures_of
from .clips import Clip, Entry, encode, open_clips, shown_seconds, shown_size, stepped
from .votes import Tally, as_table, tally

EMBED_UP_TO = 64 * 1000 * 1000  # bytes of videos in the page itself
INDEX = "index.html"
_VIDEOS = "videos"  # folder beside the page
_OURS = re.compile(r"[0-9a-f]{16}(-\d)?\.(mp4|webm)")  # names of files in it
_TEMPLATE = Path(__file__).parent / "template"
_SCRIPTS = ("frames.js", "clock.js", "stage.js", "scores.js", "votes.js", "main.js")
_ROLES = {"source": "Source", "true": "True video"}
_BLOCK = 3 << 18  # bytes that are encoded at once; threes make whole groups of base64

Progress = Callable[[str, int, int], None]


def write_page(
    folder: str | Path,
    entries: Sequence[Entry],
    *,
    source: Entry | None = None,
    true: Entry | None = None,
    scores: Callable[[Path], Mapping[str, Any]] | None = None,
    votes: Sequence[str | Path] = (),
    overwrite: bool = False,
    embed_up_to: int = EMBED_UP_TO,
    progress: Progress | None = None,
) -> tuple[Path, Tally | None]:
    """Write ``index.html``, which shows videos in step; of any size, length and rate, shown at one size by their times.

    The page needs nothing else: no network, no server. Videos that together are too large for it are laid beside it,
    in ``videos/``. What browsers do not play frame by frame is encoded anew.

    Args:
        folder: of the page; made if it is not there.
        entries: one to six videos.
        source: what they were made from; two or more videos need none.
        true: what they should equal.
        scores: of an entry's file, as ``Scores.to_dict()`` gives them; called when all else was checked.
        votes: files that the page's blind test wrote, on the same videos.
        overwrite: replace a page that is there.
        embed_up_to: bytes of videos that the page itself may hold.
        progress: called with (what, done, in all).

    Returns:
        The page's file, and the votes counted; None without any.

    Raises:
        ValueError: too few or too many videos, files that are no videos or damaged, votes on others, a page that is
            there.
        OSError: the disk is full.
    """
    page = _check_folder(folder, overwrite)
    clips = open_clips(entries, source, true)
    counted = tally(votes, {clip.id: clip.name for clip in clips if clip.role == "result"}) if votes else None
    check_room(page.parent, sum(clip.bytes for clip in clips), "the page")
    scored: list[Mapping[str, Any] | None] = [None] * len(clips)
    if scores is not None:
        scored = [scores(clip.entry.path) if clip.role == "result" else None for clip in clips]
    videos = page.parent / _VIDEOS
    files = _played_files(clips, videos, progress)
    inside = sum(path.stat().st_size for path, _ in files) <= embed_up_to
    kept = [] if inside else [_beside(path, clip, videos) for path, clip in files]
    clips = [clip for _, clip in files]
    data = _data(clips, scored, kept, counted)
    with replacing(page) as partial, naming_disk_errors(page), partial.open("wb") as file:
        _write(file, data, [path for path, _ in files] if inside else [])
    _clear(videos, kept)
    return page, counted


def _check_folder(folder: str | Path, overwrite: bool) -> Path:
    folder = expanded(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; expected a folder for the page.")
    page = folder / INDEX
    if not folder.is_dir():
        make_folder(folder)
    check_writable(page, overwrite=overwrite)
    return page


def _played_files(clips: list[Clip], videos: Path, progress: Progress | None) -> list[tuple[Path, Clip]]:
    """The files that browsers play, and the clips as they are in them."""
    unplayed = [clip for clip in clips if not clip.played]
    if unplayed:
        make_folder(videos)
    files, done = [], 0
    for clip in clips:
        path = clip.entry.path
        if not clip.played:
            path = videos / f"{clip.id}.mp4"
            clip = encode(clip, path)
            done += 1
            if progress is not None:
                progress("Encode", done, len(unplayed))
        files.append((path, clip))
    return files


def _beside(path: Path, clip: Clip, videos: Path) -> Path:
    """A file's copy in the page's folder, under a name that tells nothing in a blind test."""
    target = make_folder(videos) / f"{clip.id}.{clip.played.removeprefix('video/')}"
    if path != target:
        with replacing(target) as partial, naming_disk_errors(target):
            shutil.copyfile(path, partial)
    return target


def _clear(videos: Path, kept: Sequence[Path]) -> None:
    """Remove what a page that was replaced, or was never finished, had beside it."""
    for path in videos.glob("*"):
        if _OURS.fullmatch(path.name) and path not in kept:
            path.unlink()
    with contextlib.suppress(OSError):  # there is none, or it holds files of others
        videos.rmdir()


def _data(
    clips: Sequence[Clip], scored: Sequence[Mapping[str, Any] | None], kept: Sequence[Path], counted: Tally | None
) -> dict[str, Any]:
    videos = []
    for index, (clip, scores) in enumerate(zip(clips, scored, strict=True)):
        label = _ROLES.get(clip.role, "")
        remarks = [*clip.remarks, *(scores or {}).get("remarks", ())]
        video = {
            "id": clip.id,
            "role": clip.role,
            "label": label,
            "name": f"{label}: {clip.name}" if label else clip.name,
            "size": clip.size,
            "coded": clip.coded,
            "count": len(clip.timing),
            "rate": float(clip.rate),
            "end": float(clip.timing.end),
            "type": clip.played,
            "file": f"{_VIDEOS}/{kept[index].name}" if kept else None,
            "facts": clip.facts,
            "remarks": list(dict.fromkeys(remarks)),
            "scores": scores,
        }
        videos.append(video)
    results = sum(clip.role == "result" for clip in clips)
    title = f"{results} {'video' if results == 1 else 'videos'}"
    if results < len(clips):
        title += f" with {' and '.join(f'the {_ROLES[clip.role].lower()}' for clip in clips[results:])}"
    return {
        "id": hashlib.sha256("".join(sorted(clip.id for clip in clips)).encode()).hexdigest()[:16],
        "title": title,
        "view": "wipe",
        "size": shown_size(clips),
        "end": float(shown_seconds(clips)),
        "timeline": stepped(clips),
        "videos": videos,
        "measures": [asdict(measure) for measure in measures_of(filter(None, scored))],
        "tally": None if counted is None else as_table(counted),
    }


def _write(file: BinaryIO, data: Mapping[str, Any], embedded: Sequence[Path]) -> None:
    """The template with its parts put in; videos pass through in blocks."""
    parts = {
        "/*STYLE*/": [_template("style.css")],
        "<!--VIDEOS-->": _embedded(embedded),
        "/*DATA*/": [_json(data)],
        "/*SCRIPT*/": ["\n".join(map(_template, _SCRIPTS))],
    }
    rest = _template("page.html")
    for mark, contents in parts.items():
        before, _, rest = rest.partition(mark)
        file.write(before.encode())
        for content in contents:
            file.write(content.encode())
    file.write(rest.encode())


def _template(name: str) -> str:
    return (_TEMPLATE / name).read_text(encoding="utf-8")


def _json(data: Mapping[str, Any]) -> str:
    """ASCII that ends no element, whatever names hold; numbers that JSON does not know are missing ones."""
    text = json.dumps(_finite(data), separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and value - value != 0 else value


def _embedded(paths: Sequence[Path]) -> Iterator[str]:
    for index, path in enumerate(paths):
        yield f'<script type="text/plain" id="video-{index}">'
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield base64.b64encode(block).decode("ascii")
        yield "</script>\n"
