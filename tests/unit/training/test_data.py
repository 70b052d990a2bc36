"""Data for training: folders, shards and drawn clips, captions in every form."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flashvideo.shapes.render import low_resolution, render_clip, render_low_clip
from flashvideo.shapes.scenes import sample_scene
from flashvideo.training.config import from_table
from flashvideo.training.data import (
    BadClipError,
    DatasetSettings,
    FolderClips,
    ShapesClips,
    WebDatasetClips,
    open_source,
)
from flashvideo.training.media import Framing
from flashvideo.video.files import read_video
from tests.conftest import ODD_NAME
from tests.unit.training.small_clips import folder_of, moving, write_media

SMALL = Framing(height=32, width=48, frames=5)


def frame_numbers(video: Tensor) -> list[int]:
    """Which frames of :func:`moving` a clip has."""
    return [round(float(frame.mean()) * 16) for frame in video[2]]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    return folder_of(tmp_path / ODD_NAME, ["b.mp4", "a.mkv", "more/c.mp4"])


# ---- folders


def test_a_folder_gives_its_clips_in_order(clips: Path) -> None:
    source = FolderClips(clips, SMALL)
    assert [source.name(k) for k in range(len(source))] == ["a.mkv", "b.mp4", "more/c.mp4"]
    clip = source.load(1)
    assert (clip.name, clip.caption) == ("b.mp4", "clip number 0")
    assert clip.video.shape == (3, 5, 32, 48)
    assert clip.video.dtype == torch.float32
    assert 0 <= float(clip.video.min()) <= float(clip.video.max()) <= 1
    assert frame_numbers(clip.video) == [0, 1, 2, 3, 4]


def test_a_clip_is_scaled_to_cover_and_cut_in_the_middle(clips: Path) -> None:
    video = read_video(clips / "b.mp4")[0][0, :, 0]
    scaled = F.interpolate(video[None], size=(32, 58), mode="bilinear", antialias=True)[0]
    assert torch.allclose(FolderClips(clips, SMALL).load(1).video[:, 0], scaled[:, :, 5:53], atol=1e-5)


def test_patches_are_cut_without_scaling_at_random_places(clips: Path) -> None:
    framing = replace(SMALL, fit="patch", frames=1)
    video = read_video(clips / "b.mp4")[0][0]
    places = set()
    for seed in range(8):
        clip = FolderClips(clips, framing, seed=seed).load(1)
        rows = [
            (t, s) for t in range(9) for s in range(25) if torch.equal(video[:, :1, t : t + 32, s : s + 48], clip.video)
        ]
        assert rows
        places.add(rows[0])
        assert torch.equal(FolderClips(clips, framing, seed=seed).load(1).video, clip.video)
    assert len(places) > 4


def test_random_starts_and_places_follow_the_seed(clips: Path) -> None:
    framing = replace(SMALL, start="random", position="random")
    found = [FolderClips(clips, framing, seed=seed).load(1).video for seed in range(10)]
    starts = {frame_numbers(video)[0] for video in found}
    assert starts <= {0, 1, 2, 3, 4}
    assert len(starts) > 2
    assert all(frame_numbers(video) == list(range(s := frame_numbers(video)[0], s + 5)) for video in found)
    assert len({round(float(video[0, 0, 0, 0]), 2) for video in found}) > 3
    assert torch.equal(found[3], FolderClips(clips, framing, seed=3).load(1).video)


@pytest.mark.parametrize(("fps", "expected"), [(4, [0, 2, 4]), (8 / 3, [0, 3, 6]), (6, [0, 1, 2])])
def test_frames_are_left_out_for_a_lower_rate(tmp_path: Path, fps: float, expected: list[int]) -> None:
    write_media(tmp_path / "a.mp4", moving())
    source = FolderClips(tmp_path, Framing(32, 48, 3, fps=fps), need_captions=False)
    assert frame_numbers(source.load(0).video) == expected


def test_images_are_clips_of_one_frame(tmp_path: Path) -> None:
    from PIL import Image

    folder_of(tmp_path, ["a.png", "b.jpg"])
    Image.open(tmp_path / "a.png").save(tmp_path / "c.webp", lossless=True)
    (tmp_path / "c.txt").write_text("of another kind")
    source = FolderClips(tmp_path, replace(SMALL, frames=1))
    found = [source.load(k) for k in range(3)]
    assert all(clip.video.shape == (3, 1, 32, 48) for clip in found)
    assert (found[0].video - found[1].video).abs().max() < 0.05
    assert torch.equal(found[0].video, found[2].video)
    with pytest.raises(BadClipError, match="1 frames; 5 are needed"):
        FolderClips(tmp_path, SMALL).load(0)


TABLES = {
    "captions.json": json.dumps({"a.mkv": "one", "b.mp4": {"text": "two"}, "more/c.mp4": "three"}),
    "metadata.jsonl": '{"file_name": "a.mkv", "text": "one"}\n\n{"file": "b", "caption": "two"}\n'
    '{"video": "./more/c.mp4", "prompt": "three"}\n',
    "metadata.csv": 'file_name,text\na.mkv,one\nb.mp4,"two"\nc.mp4," three\n"\n',
    "captions.json ": json.dumps([{"file": f, "text": t} for f, t in zip("abc", ("one", "two", "three"), strict=True)]),
}


@pytest.mark.parametrize("name", TABLES)
def test_captions_may_be_in_one_table(clips: Path, name: str) -> None:
    for path in clips.rglob("*.txt"):
        path.unlink()
    (clips / name.strip()).write_text(TABLES[name])
    source = FolderClips(clips, SMALL)
    assert [source.load(k).caption for k in range(3)] == ["one", "two", "three"]


def test_a_text_beside_a_file_comes_before_the_table(clips: Path) -> None:
    (clips / "captions.json").write_text('{"a.mkv": "from the table"}')
    assert FolderClips(clips, SMALL).load(0).caption == "clip number 1"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("captions.json", "{", "cannot be read as json"),
        ("captions.json", '{"a.mkv": 3}', "expected a text"),
        ("metadata.csv", "name,words\na,b\n", "entry 1"),
        ("metadata.jsonl", '{"file": "a"}', "expected a file under one of file_name"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(clips: Path, name: str, text: str, said: str) -> None:
    (clips / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        FolderClips(clips, SMALL)


def test_places_without_anything_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no folder"):
        FolderClips(tmp_path / "missing", SMALL)
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(ValueError, match=r"no videos or images.*\.mp4"):
        FolderClips(tmp_path, SMALL)
    with pytest.raises(ValueError, match=r"no \.tar files"):
        WebDatasetClips(tmp_path, SMALL)
    with pytest.raises(ValueError, match="There is no shard"):
        WebDatasetClips(tmp_path / "x-{0..1}.tar", SMALL)
    with tarfile.open(tmp_path / "empty.tar", "w") as archive:
        archive.add(tmp_path / "notes.txt", "notes.txt")
    with pytest.raises(ValueError, match="no videos or images in its 1 shards"):
        WebDatasetClips(tmp_path / "empty.tar", SMALL)
    (tmp_path / "empty.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(ValueError, match="not an uncompressed tar"):
        WebDatasetClips(tmp_path / "empty.tar", SMALL)


# ---- shards


@pytest.fixture
def shards(clips: Path, tmp_path: Path) -> Path:
    """Two shards of two clips, with texts and JSON."""
    files = sorted(path for path in clips.rglob("*.m*"))
    for number in range(2):
        with tarfile.open(tmp_path / f"clips-{number:03d}.tar", "w") as archive:
            for place, file in enumerate(files[: 2 - number]):
                archive.add(file, f"part/{place:04d}{file.suffix}")
                text = f"clip {place} of shard {number}"
                suffix = ".json" if number else ".txt"
                add_bytes(
                    archive, f"part/{place:04d}{suffix}", (json.dumps({"caption": text}) if number else text).encode()
                )
    return tmp_path


def add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def test_shards_give_what_the_folder_gives(shards: Path, clips: Path) -> None:
    for given in (shards / "clips-{000..001}.tar", shards):
        source = WebDatasetClips(given, SMALL)
        assert [source.name(k) for k in range(len(source))] == [
            *("clips-000.tar/part/0000", "clips-000.tar/part/0001", "clips-001.tar/part/0000")
        ]
        captions = [source.load(k).caption for k in (2, 0, 1)]
        assert captions == ["clip 0 of shard 1", "clip 0 of shard 0", "clip 1 of shard 0"]
        assert torch.equal(source.load(1).video, FolderClips(clips, SMALL).load(1).video)
        assert torch.equal(source.load(2).video, FolderClips(clips, SMALL).load(0).video)


def test_a_damaged_shard_costs_its_own_clips(shards: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = shards / "clips-000.tar"
    content = path.read_bytes()
    with tarfile.open(path) as archive:
        second = archive.getmember("part/0001.mp4")
    path.write_bytes(content[: second.offset_data + second.size // 2])
    source = WebDatasetClips(shards, SMALL)
    usable = []
    for index in range(len(source)):
        try:
            usable.append(source.load(index).name)
        except BadClipError:
            assert source.name(index) == "clips-000.tar/part/0001"
    assert usable == ["clips-000.tar/part/0000", "clips-001.tar/part/0000"]


# ---- drawn clips


def test_shapes_are_the_drawn_scenes() -> None:
    source = ShapesClips(Framing(48, 80, 5), count=3, seed=10)
    scene = sample_scene(12)
    clip = source.load(2)
    assert (clip.name, clip.caption) == ("scene-12", scene.caption)
    assert torch.equal(clip.video, render_clip(scene, 48, 80, 5))
    low = ShapesClips(Framing(48, 80, 5), count=3, seed=10, low=True).load(2)
    assert torch.equal(low.video, render_low_clip(scene, 48, 80, 5))
    torch.testing.assert_close(low.video, low_resolution(render_clip(scene, 192, 320, 5), 4), atol=0.03, rtol=0)
    held_out = ShapesClips(Framing(48, 80, 5), count=3, held_out=True).load(0)
    assert held_out.caption == sample_scene(0, held_out=True).caption
    several = open_source(DatasetSettings(source="shapes", height=48, width=80, frames=5, count=4, several=True))
    assert [several.load(index).caption.count(" and ") for index in range(4)] == [1, 2, 1, 2]


# ---- settings


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"source": "shapes", "height": 50}, "data: height 50"),
        ({"source": "shapes", "frames": 6}, "data: 6 frames"),
        ({"source": "folder"}, "data.path is missing"),
        ({"source": "shapes", "fps": -1}, "data.fps"),
        ({"source": "shapes", "count": 0}, "data.count"),
        ({"source": "shapes", "degraded_copies": -1}, "data.degraded_copies"),
        ({"source": "shapes", "degradation": {"strong_share": 2}}, "data.degradation.strong_share"),
        ({"source": "shapes"}, "data.cache is missing"),
    ],
)
def test_settings_that_cannot_be_met_are_named(table: dict[str, Any], said: str) -> None:
    settings = from_table(DatasetSettings, table, "data")
    with pytest.raises(ValueError, match=said):
        settings.check()


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.source is 'zip'"):
        from_table(DatasetSettings, {"source": "zip"}, "data")
