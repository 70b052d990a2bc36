"""Learned measures: what is there is used and what is not is said, without a network; through a package of pyiqa's
signatures, since no weights are here.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
import torch

from flashvideo import score_video
from flashvideo.cli import EXIT_USAGE, main
from flashvideo.scores.learned import FRAMES, KINDS, Weights, load_learned
from flashvideo.scores.paper import COLUMNS, ROWS
from flashvideo.scores.shown import given
from tests.unit.scores.clips import moving, write
from tests.unit.scores.stub_metrics import Stub

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    return Stub(tmp_path / "stub", monkeypatch)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write(tmp_path / "clip.mp4", moving(9))


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("pyiqa", "dover", "fastvqa"):
        monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.usefixtures("not_installed")
def test_without_the_package_auto_says_so_once(clip: Path) -> None:
    told = score_video(clip, learned="auto").to_dict()
    (remark,) = told["remarks"]
    assert "NIQE, MUSIQ, MANIQA, CLIP-IQA (pyiqa is not installed); DOVER (dover is not installed)" in remark
    assert "musiq" not in told
    assert "paper" not in told
    for silent in ("none", ()):
        assert score_video(clip, learned=silent).remarks == ()


@pytest.mark.usefixtures("not_installed")
def test_a_name_without_the_package_is_refused_before_work(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["score", str(clip)], ["compare", str(clip), str(clip), "-o", str(clip.with_name("page"))]):
        assert main([*command, "--metrics", "musiq"]) == EXIT_USAGE
        printed = capsys.readouterr()
        assert 'MUSIQ cannot be measured: pyiqa is not installed. Install it: pip install "flashvideo[metrics]".' in (
            printed.err
        )
        assert "%" not in printed.err, "it was refused after work had begun"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("sharpest", "no metric 'sharpest'; expected auto, none, or some of niqe"),
        ("lpips", "LPIPS compares with a true"),
    ],
)
def test_names_that_cannot_be_meant(names: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_learned(names)


@pytest.mark.parametrize("name", KINDS)
def test_every_file_of_a_measure_is_looked_for_where_its_package_does(stub: Stub, name: str) -> None:
    for weights in KINDS[name].weights:
        stub.put(name)
        path = stub.path(weights)
        if not weights.sha256:
            path.unlink()
        with pytest.raises(ValueError, match=re.escape(weights.name)) as refused:
            load_learned([name], with_true=True)
        assert (f"`pyiqa {name} -t" in str(refused.value)) == (KINDS[name].package == "pyiqa")
        assert weights.repository or str(path.parent) in str(refused.value)
    assert KINDS[name].package not in sys.modules, "it was imported though it cannot be used"


def test_a_file_that_would_be_fetched_again_counts_as_damaged(stub: Stub) -> None:
    content = b"weights" * 1000
    weights = Weights("clip", "a.pt", sha256=hashlib.sha256(content).hexdigest())
    path = stub.path(weights)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert weights.fault() == ""
    path.write_bytes(content[:-1])
    assert "is damaged: its SHA-256 is not" in weights.fault()


def test_numbers_are_means_of_evenly_spaced_frames(stub: Stub) -> None:
    stub.put("niqe", "musiq", "lpips")
    video, true = moving(40), moving(40) * 0.5
    told = score_video(given(video, 8), true=given(true, 8), learned="musiq, LPIPS").to_dict()
    assert told["remarks"] == []
    assert "niqe" not in told
    seen = stub.calls("musiq")
    assert FRAMES / 2 < len(seen) == len(stub.calls("lpips")) <= FRAMES
    for _, shape, lowest, highest, beside_true in seen:
        assert shape == (1, 3, *video.shape[-2:])
        assert 0 <= lowest < highest <= 1
        assert not beside_true
    chosen = video[:, :: 40 // FRAMES].mean()
    assert told["musiq"] == pytest.approx(float(chosen), abs=2e-3)
    assert told["lpips"] == pytest.approx(float(chosen) / 2, abs=2e-3)
    assert stub.calls("create") == [("create", name, torch.device("cpu")) for name in ("musiq", "lpips")]


def test_auto_takes_what_is_there(stub: Stub) -> None:
    stub.put("niqe", "maniqa", "dists")
    scores = score_video(given(moving(5), 8), learned="auto")
    assert scores.learned.keys() == {"niqe", "maniqa"}
    (remark,) = scores.remarks
    for missing in ("MUSIQ (musiq_koniq_ckpt-e95806b9.pth is not in ", "CLIP-IQA (RN50.pt is not in "):
        assert missing in remark
    assert "NIQE" not in remark
    assert "LPIPS" not in remark, "there is no true video"


def fails() -> None:
    raise RuntimeError("no kernel\nfor this")


def test_one_that_fails_in_the_middle_loses_nothing(stub: Stub) -> None:
    stub.put("niqe", "musiq")
    stub.module.FAILING["musiq"] = lambda: fails() if len(stub.calls("musiq")) == 3 else torch.ones(1)
    told = score_video(given(moving(8), 8), learned="auto").to_dict()
    assert told["musiq"] is None
    assert told["niqe"] > 0
    assert told["sharpness"] > 0
    assert told["remarks"][-1] == "MUSIQ was left out: RuntimeError: no kernel for this."
    assert len(stub.calls("musiq")) == 3
    assert all("niqe" in row and "musiq" not in row for row in told["paper"]["rows"])


def test_what_is_no_number_is_none(stub: Stub) -> None:
    stub.put("musiq")
    stub.module.FAILING["musiq"] = lambda: torch.tensor(float("nan"))
    told = score_video(given(moving(3), 8), learned=["musiq"]).to_dict()
    assert told["musiq"] is None
    json.dumps(told, allow_nan=False)


def test_one_that_cannot_be_loaded(stub: Stub) -> None:
    stub.put("niqe", "musiq")
    stub.module.FAILING["create"] = lambda name: fails() if name == "musiq" else None
    assert load_learned("auto").meters.keys() == {"niqe"}
    assert "MUSIQ (pyiqa could not load it (RuntimeError: no kernel for this))" in load_learned("auto").remarks[0]
    with pytest.raises(ValueError, match="MUSIQ cannot be measured: pyiqa could not load it"):
        load_learned("musiq")


def test_no_package_finds_the_network(stub: Stub) -> None:
    """Though every file is there: a newer package may want others. Other threads keep theirs."""
    stub.put("niqe")
    beside: list[object] = []

    def download(_: str) -> None:
        thread = threading.Thread(target=lambda: beside.append(socket.getaddrinfo("127.0.0.1", 80)))
        thread.start()
        thread.join()
        urllib.request.urlopen("http://127.0.0.1:9/weights.pth")

    stub.module.FAILING["create"] = download
    known = socket.getaddrinfo
    assert "FlashVideo downloads nothing" in load_learned("auto").remarks[0]
    assert socket.getaddrinfo is known
    assert len(beside) == 1


def test_json_is_one_object_whatever_a_package_prints(
    stub: Stub, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.put("musiq", "niqe")
    assert main(["score", str(clip), "--json", "--device", "cpu"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"musiq", "niqe"} < told.keys()
    assert "misrank" in told["paper"]["caution"]
    assert told["paper"]["rows"][1] == {"table": 2, "row": "Stage II 1080p", "musiq": 53.46, "niqe": 5.38}


def test_people_get_the_papers_rows_beside(stub: Stub, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stub.put("musiq", "niqe")
    assert main(["score", str(clip), "--metrics", "musiq,niqe", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    assert ["The", "paper,", "table", "and", "row", "MUSIQ", "NIQE"] in lines
    assert ["8", "4", "steps", "58.69", "4.501"] in lines
    assert "misrank" in printed
    assert main(["score", str(clip), "--metrics", "none"]) == 0
    assert "paper" not in capsys.readouterr().out


def test_compare_loads_them_once_for_all_videos(stub: Stub, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stub.put("musiq")
    other, page = write(clip.with_name("other.mp4"), moving(9, seed=1)), clip.with_name("page")
    assert main(["compare", str(clip), str(other), "-o", str(page), "--device", "cpu"]) == 0
    assert len(stub.calls("create")) == 1
    assert len(stub.calls("musiq")) == 2 * 5
    assert '"musiq":0.' in (page / "index.html").read_text()
    assert capsys.readouterr().out.count("NIQE (") == 1


def test_the_papers_rows_are_those_of_its_page() -> None:
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    for table in (2, 3, 5, 8, 9, 10):
        section = re.findall(rf"^## Table {table}:.*?(?=^## )", text, re.MULTILINE | re.DOTALL)[0]
        head, _, *rows = [line.removeprefix("|").split("|") for line in section.splitlines() if line.startswith("|")]
        (first,) = (index for index, title in enumerate(head) if title.strip() == "MUSIQ")
        shown = [tuple(float(number) for number in row[first : first + len(COLUMNS)]) for row in rows]
        assert shown == [row.numbers for row in ROWS if row.table == table]
    assert {row.table for row in ROWS} == {2, 3, 5, 8, 9, 10}
