"""The page of ``flashvideo compare`` as a file; ``tests/ui/test_compare_page.py`` presses its controls."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from flashvideo.cli import main
from flashvideo.scores.page import Entry, write_page
from flashvideo.video.files import read_video, write_video
from tests.coded_videos import write_coded


def clip(path: Path, frames: int = 6, fps: float = 10, size: tuple[int, int] = (48, 80), level: float = 0.4) -> Path:
    video = torch.full((1, 3, frames, *size), level)
    video[..., : size[1] // 2] = torch.linspace(0.1, 0.9, frames)[None, None, :, None, None]
    return write_video(path, video, fps, overwrite=True)


@pytest.fixture
def two(tmp_path: Path) -> list[Entry]:
    return [Entry(clip(tmp_path / f"{name}.mp4", level=level)) for name, level in (("left", 0.3), ("right", 0.6))]


class _Elements(HTMLParser):
    """Contents of a page's scripts by their ids, and every address that it names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self._open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self._open = (given.get("id") or "code") if tag == "script" else None
        self.addresses += [str(given[name]) for name in ("src", "href", "action", "poster") if name in given]

    def handle_data(self, data: str) -> None:
        if self._open:
            self.scripts[self._open] = self.scripts.get(self._open, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._open = None


def read(page: Path) -> tuple[_Elements, dict[str, Any]]:
    elements = _Elements(page.read_text(encoding="utf-8"))
    return elements, json.loads(elements.scripts["data"])


def test_one_file_holds_everything(tmp_path: Path, two: list[Entry]) -> None:
    page, tally = write_page(tmp_path / "page", two, source=Entry(clip(tmp_path / "source.mp4", size=(24, 40))))
    assert tally is None
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["index.html"]
    elements, data = read(page)
    assert [address for address in elements.addresses if not address.startswith(("#", "data:"))] == []
    assert "http" not in re.sub(r"http://www\.w3\.org/2000/svg|http-equiv", "", page.read_text(encoding="utf-8"))
    for index, name in enumerate(("left", "right", "source")):
        embedded = base64.b64decode(elements.scripts[f"video-{index}"])
        assert embedded == (tmp_path / f"{name}.mp4").read_bytes()
    assert [(video["name"], video["role"]) for video in data["videos"]] == [
        *(("left", "result"), ("right", "result"), ("Source: source", "source"))
    ]
    assert (data["size"], data["end"], data["videos"][0]["rate"]) == ([80, 48], pytest.approx(0.6), 10)
    assert {video["file"] for video in data["videos"]} == {None}


def test_the_same_videos_give_the_same_bytes(tmp_path: Path, two: list[Entry]) -> None:
    pages = [write_page(tmp_path / name, two)[0].read_bytes() for name in ("one", "other")]
    assert pages[0] == pages[1]


def test_large_videos_lie_beside_the_page_and_go_with_it(tmp_path: Path, two: list[Entry]) -> None:
    page, _ = write_page(tmp_path / "page", two, embed_up_to=1000)
    elements, data = read(page)
    files = [tmp_path / "page" / video["file"] for video in data["videos"]]
    assert [file.read_bytes() for file in files] == [entry.path.read_bytes() for entry in two]
    assert not [name for name in elements.scripts if name.startswith("video-")]
    assert not [file for file in files if "left" in file.name or "right" in file.name], "names tell nothing"
    (page.parent / "videos" / "mine.txt").write_text("kept")
    write_page(tmp_path / "page", two, overwrite=True)
    assert [path.name for path in (tmp_path / "page" / "videos").iterdir()] == ["mine.txt"]


HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    '"><img src=x onerror=alert(1)>',
    "&lt;b&gt; ' \" ` ${1+1} \\u003c",
    "\u2028\u2029\u202e\x07",
    "\udcff",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_words_whatever_they_hold(tmp_path: Path, two: list[Entry], name: str) -> None:
    plain, _ = read(write_page(tmp_path / "plain", two)[0])
    page, _ = write_page(tmp_path / "page", [Entry(two[0].path, name), two[1]])
    elements, data = read(page)
    assert elements.tags == plain.tags
    assert elements.scripts["code"] == plain.scripts["code"]
    assert data["videos"][0]["name"] == name


def test_scores_are_told_and_endless_ones_are_missing(tmp_path: Path, two: list[Entry]) -> None:
    asked: list[Path] = []

    def score(path: Path) -> dict[str, Any]:
        asked.append(path)
        return {"psnr": float("inf"), "likeness": float("nan"), "sharpness": 0.5, "odd": 1, "remarks": ["Said."]}

    source = Entry(clip(tmp_path / "source.mp4"))
    _, data = read(write_page(tmp_path / "page", two, source=source, scores=score)[0])
    assert asked == [entry.path for entry in two], "the source has none"
    assert data["videos"][0]["scores"]["psnr"] is None
    assert data["videos"][0]["scores"]["likeness"] is None
    assert data["videos"][0]["remarks"] == ["Said."]
    assert [measure["better"] for measure in data["measures"] if measure["id"] in ("odd", "sharpness")] == [1, 0]


def test_other_sizes_lengths_and_rates_are_told(tmp_path: Path, two: list[Entry]) -> None:
    source = Entry(clip(tmp_path / "source.mp4", frames=10, size=(24, 40)))
    others = [
        *(clip(tmp_path / "fast.mp4", frames=20, fps=20), clip(tmp_path / "long.mp4", frames=20)),
        *(
            clip(tmp_path / "wide.mp4", frames=10, size=(32, 80)),
            clip(tmp_path / "small.mp4", frames=10, size=(24, 40)),
        ),
    ]
    _, data = read(write_page(tmp_path / "page", [two[0], *map(Entry, others)], source=source)[0])
    short, fast, long, wide, small, low = data["videos"]
    assert short["remarks"] == ["It ends after 0.60 of 1.00 s; its last picture stays."]
    assert fast["remarks"] == ["Its frame rate is another than left's: it is shown by its times."]
    assert long["remarks"] == ["It is longer than the source: what comes after 1.00 s is not shown."]
    assert wide["remarks"] == ["Its shape is another than 80×48: it is shown stretched."]
    assert small["remarks"] == ["It is shown at 80×48."]
    assert low["remarks"] == []
    assert (data["end"], data["timeline"]) == (1, 1), "as long as the source, stepped by the fastest"


@pytest.mark.parametrize(
    ("codec", "pixel_format", "suffix", "played"),
    [
        ("libx264", "yuv420p", ".mp4", True),
        ("libx264", "yuv420p", ".mov", True),
        ("libx264", "yuv444p", ".mp4", False),
        ("libx264", "yuv420p", ".mkv", False),
        ("mpeg4", "yuv420p", ".mp4", False),
        ("ffv1", "yuv420p", ".mkv", False),
    ],
)
def test_what_browsers_do_not_play_is_encoded(
    tmp_path: Path, two: list[Entry], codec: str, pixel_format: str, suffix: str, played: bool
) -> None:
    path = write_coded(tmp_path / f"other{suffix}", read_video(two[0].path)[0], codec, pixel_format, 10)
    page, _ = write_page(tmp_path / "page", [two[0], Entry(path)])
    elements, data = read(page)
    shown = data["videos"][1]
    embedded = base64.b64decode(elements.scripts["video-1"])
    assert (embedded == path.read_bytes()) == played
    assert any("a copy in H.264" in remark for remark in shown["remarks"]) != played
    (tmp_path / "shown.mp4").write_bytes(embedded)
    frames, rate = read_video(tmp_path / "shown.mp4")
    assert (frames.shape[2], float(rate)) == (shown["count"], shown["rate"]) == (6, 10)
    assert (frames - read_video(path)[0]).abs().max() < 0.05
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["index.html"]


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".webm", "libvpx-vp9")])
@pytest.mark.parametrize("times", [None, [0, 100, 150, 400, 500, 600], [300, 400, 500, 600, 700, 800]])
def test_only_steady_rates_from_zero_on_are_played_as_they_are(
    tmp_path: Path, two: list[Entry], suffix: str, codec: str, times: list[int] | None
) -> None:
    path = write_coded(tmp_path / f"clip{suffix}", read_video(two[0].path)[0], codec, "yuv420p", 10, times)
    elements, data = read(write_page(tmp_path / "page", [two[0], Entry(path)])[0])
    shown = data["videos"][1]
    assert (base64.b64decode(elements.scripts["video-1"]) == path.read_bytes()) == (times is None)
    assert (shown["rate"], shown["count"]) == (10, 7 if times and times[0] == 0 else 6), "the lowest that shows all"


def test_odd_sides_are_made_even_and_shown_as_they_were(tmp_path: Path, two: list[Entry]) -> None:
    video, _ = read_video(two[0].path)
    path = write_coded(tmp_path / "odd.mkv", video[..., :47, :79], "ffv1", "bgr0", 10)
    _, data = read(write_page(tmp_path / "page", [Entry(path)], source=two[0])[0])
    assert (data["videos"][0]["size"], data["videos"][0]["coded"]) == ([79, 47], [80, 48])


def broken(folder: Path) -> Path:
    path = folder / "broken.mp4"
    path.write_bytes(clip(folder / "whole.mp4").read_bytes()[:700])
    return path


def test_bad_input_is_refused_before_any_work(tmp_path: Path, two: list[Entry]) -> None:
    def refused(said: str, entries: list[Entry], **options: Any) -> None:
        with pytest.raises(ValueError, match=said):
            write_page(tmp_path / "page", entries, scores=lambda path: pytest.fail("scored"), **options)
        assert not list((tmp_path / "page").glob("*"))

    refused("Videos to compare: 1; expected two or more, or one and its source", two[:1])
    refused("Videos to compare: 0", [], source=two[0], true=two[1])
    refused("Videos to compare: 7; expected at most 6", [Entry(two[0].path, str(place)) for place in range(7)])
    refused("There is no file", [two[0], Entry(tmp_path / "none.mp4")])
    refused("cannot be read as a video", [two[0], Entry(broken(tmp_path))])
    refused("Two videos are called 'same'", [Entry(entry.path, "same") for entry in two])
    refused("cannot be read as votes", two, votes=[tmp_path / "none.json"])


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "clip.mp4" for folder in ("ours", "theirs")]
    for path in paths:
        path.parent.mkdir()
        clip(path)
    _, data = read(write_page(tmp_path / "page", [Entry(path) for path in paths])[0])
    assert [video["name"] for video in data["videos"]] == ["ours/clip.mp4", "theirs/clip.mp4"]
    assert data["videos"][0]["id"] != data["videos"][1]["id"], "even where their bytes are the same"


def test_a_page_that_is_there_is_kept(tmp_path: Path, two: list[Entry]) -> None:
    page, _ = write_page(tmp_path / "page", two)
    before = page.read_bytes()
    with pytest.raises(ValueError, match=r"exists already and is kept. .*--overwrite"):
        write_page(tmp_path / "page", two)
    with pytest.raises(ValueError, match="is a file; expected a folder"):
        write_page(two[0].path, two)
    with pytest.raises(RuntimeError):
        write_page(tmp_path / "page", two[::-1], overwrite=True, scores=_fail)
    assert page.read_bytes() == before
    write_page(tmp_path / "page", two[::-1], overwrite=True)
    assert page.read_bytes() != before


def _fail(_: Path) -> dict[str, Any]:
    raise RuntimeError


def test_the_command_scores_names_and_says_where(
    tmp_path: Path, two: list[Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(entry.path) for entry in two]
    source = str(clip(tmp_path / "source.mp4", size=(32, 40)))
    page = tmp_path / "page"
    assert main(["compare", *paths, "--against", source, "-o", str(page), "--names", "Ours", "Theirs"]) == 0
    assert str(page / "index.html") in capsys.readouterr().out
    _, data = read(page / "index.html")
    assert [video["name"] for video in data["videos"]] == ["Ours", "Theirs", "Source: source"]
    for video in data["videos"][:2]:
        assert {"sharpness", "likeness", "drift", "flicker", "seam", "pulse"} <= set(video["scores"])
        assert len(video["scores"]["series"]["seconds"]) == 6
    assert main(["compare", *paths, "-o", str(page), "--names", "Ours"]) == 2
    assert "--names has 1 names for 2 videos" in capsys.readouterr().err
    assert main(["compare", *paths, "-o", str(page), "--embed-up-to", "-1"]) == 2
    assert main(["compare", *paths, "-o", str(page), "--no-scores", "--overwrite"]) == 0
    assert read(page / "index.html")[1]["videos"][0]["scores"] is None


def test_what_cannot_be_scored_is_refused_before_anything_is(
    tmp_path: Path, two: list[Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    """The second video is not of the true one's size."""
    true, small = clip(tmp_path / "true.mp4"), clip(tmp_path / "small.mp4", size=(40, 64))
    command = ["compare", str(two[0].path), str(small), "--true", str(true), "-o", str(tmp_path / "page")]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert f"{true} is 80x48 and {small} 64x40" in said
    assert "Score" not in said
    assert main([*command, "--no-scores"]) == 0, "it can be looked at"
