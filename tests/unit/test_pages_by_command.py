"""The commands of docs/paper.md and docs/vbench.md, as they stand there and, made small, end to end."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashvideo.cli import build_parser
from flashvideo.training.config import read_toml

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("paper", "vbench")
SMALL = ["--models=tiny", "--size=64x64"]
SMALLER = ["--frames=5", "--preview-size=32x32", "--preview-steps=2"]
LOOP = re.compile(r"for (\w+) in ([^;]+); do\n(.*?)\ndone", re.DOTALL)


def commands(page: str, *, every: bool = True) -> Iterator[list[str]]:
    """Arguments of all ``flashvideo`` commands of a page; of long loops all values, or the first and last."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in LOOP.sub(lambda loop: unrolled(loop, every), block).replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["accelerate"]:
                words = words[words.index("-m") + 1 :]
            if words[:1] == ["flashvideo"]:
                yield words[1:]


def unrolled(loop: re.Match[str], every: bool) -> str:
    name, values, body = loop.groups()
    chosen = values.split()
    if not every and len(chosen) > 3:
        chosen = [chosen[0], chosen[-1]]
    return "\n".join(body.replace(f"${name}", value) for value in chosen)


def test_every_table_and_figure_of_the_paper_is_there() -> None:
    """Ten tables and nine figures, each under one heading."""
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    for kind, number in (("Table", 10), ("Figure", 9)):
        headings = re.findall(rf"^## {kind}s? ([^:\n]+)", text, re.MULTILINE)
        assert re.findall(r"\d+", " ".join(headings)) == [str(index + 1) for index in range(number)]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_understood(page: str) -> None:
    for words in commands(page):
        options = build_parser().parse_args(words)
        if words[0] == "train":
            assert read_toml(ROOT / options.config)["phases"]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_runs_when_it_is_made_small(page: str, run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in commands(page, every=False):
        options = build_parser().parse_args(words)
        for file in (getattr(options, "prompts", None), getattr(options, "names", None)):
            if isinstance(file, Path) and not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text('["a red ball"]' if file.suffix == ".json" else "a red ball", encoding="utf-8")
        if words[0] == "train":
            continue
        more = SMALL + SMALLER * (words[0] == "generate") if words[0] in ("generate", "refine") else []
        run(*words, *more)
        if words[0] in ("generate", "refine", "compare"):
            assert options.output.exists() or options.preview_only
    assert list(tmp_path.glob("*.mp4" if page == "paper" else "videos/a red ball-*.mp4"))
