"""What the documentation says exists: links, anchors, errors, imports, and the figures that are computed."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = "https://github.com/comfyui-flashvideo/ComfyUI-FlashVideo/blob/main/"
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "nodes/README.md",
        ROOT / "flashvideo/assets/tiny/README.md",
    ]
)
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub and MkDocs make them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading)) for heading in headings)
    return {heading.strip().lower().replace(" ", "-") for heading in plain}


def broken(page: Path) -> Iterator[str]:
    """Links of a page that lead nowhere in the repository."""
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    for link in (first or second for first, second in LINK.findall(text)):
        target, _, anchor = link.partition("#")
        if link.startswith(HERE):
            file = ROOT / target.removeprefix(HERE)
        elif re.match(r"[a-z]+:", link):
            continue
        else:
            file = page.parent / target if target else page
        if not file.exists():
            yield f"{link}: there is no such file"
        elif anchor and (file.suffix != ".md" or anchor not in anchors(file)):
            yield f"{link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert list(broken(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    """Paths of sources in backticks, from the root, the page's folder or the library."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    named = re.findall(r"`([\w./*-]+/[\w.*-]+\.(?:py|js|toml|md|svg))`", text)
    homes = (ROOT, page.parent, ROOT / "flashvideo")
    assert [path for path in named if not any(list(home.glob(path)) for home in homes)] == []


def test_the_site_stays_in_its_folder() -> None:
    """MkDocs shows ``docs/`` alone: what lies outside is linked by its address."""
    for page in (ROOT / "docs").rglob("*.md"):
        text = CODE.sub("", page.read_text(encoding="utf-8"))
        for link in (first or second for first, second in LINK.findall(text)):
            if not re.match(r"[a-z]+:|#", link):
                assert (page.parent / link.partition("#")[0]).resolve().is_relative_to(ROOT / "docs"), f"{page}: {link}"


def test_every_page_is_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = set(re.findall(r"([\w/-]+\.md)", menu))
    assert listed == {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}


def test_the_house_is_shown_with_all_its_rooms() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = {file.parent.name for part in ("flashvideo", "nodes") for file in (ROOT / part).glob("*/*.py")}
    first_columns = re.findall(r"^\| (`.+?`) \|", text.partition("## Tests")[0], re.MULTILINE)
    assert set(re.findall(r"`(\w+)/`", " ".join(first_columns))) - {"flashvideo", "nodes"} == rooms


@cache
def messages() -> tuple[str, ...]:
    """All strings of the program, with ``…`` where something is put in."""
    files = [*(ROOT / "flashvideo").rglob("*.py"), *(ROOT / "nodes").rglob("*.py"), ROOT / "__init__.py"]
    found = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[sdg]", "…", node.value))
    scripts = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "js").glob("*.js"))
    return (*found, *re.findall(r': "(.*)",$', scripts, re.MULTILINE))


def quoted() -> list[str]:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("line", quoted())
def test_errors_are_quoted_as_they_are(line: str) -> None:
    assert any(line in message for message in messages()), "no string of the program says so any more"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_import_what_there_is(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("flashvideo"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_memory_tables_are_what_is_computed_now() -> None:
    from tools.make_memory_tables import MARKS, PAGE, README, card_table, page_block

    for file, block in ((PAGE, page_block()), (README, card_table())):
        wanted = f"{MARKS[0]}\n\n{block}\n\n{MARKS[1]}"
        assert wanted in file.read_text(encoding="utf-8"), "run: python -m tools.make_memory_tables"
