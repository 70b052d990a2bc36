"""The plan of the house (CONTRIBUTING.md): imports point down, every file has a room. Those in functions count too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = {  # a room imports rooms of lower floors only; two rooms on one floor do not know each other
    **{"cli": 5, "training": 4, "report": 4, "runs": 3, "scores": 3, "loading": 2, "video": 2},
    **{"method": 1, "models": 1, "vae": 1, "checkpoints": 1, "shapes": 1},
    "tensors": 0,
}
NODE_FLOORS = {"blocks": 3, "gate": 3, "host": 2, "shared": 1, "kept": 1}
LOOSE = {"flashvideo": {"__init__.py", "__main__.py"}, "nodes": {"__init__.py"}}
UPSTAIRS = 3  # the highest floor of the library that a node may import from


def imports(source: str, module: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """(module as a path from the root, name taken out of it) of every import of our own; ``module`` is the file's."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            base = module[: len(module) - node.level] if node.level else ()
            origin = (*base, *(node.module or "").split("."))
            yield from ((tuple(filter(None, origin)), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import) and module[0] != "nodes":  # there, `import nodes` is ComfyUI's own file
            yield from ((tuple(alias.name.split(".")), "") for alias in node.names)


def broken_rules(file: str, source: str) -> list[str]:
    """What a file does against the plan, in words."""
    part, *inner = Path(file).with_suffix("").parts
    if len(inner) == 1:
        return [] if Path(file).name in LOOSE[part] else [f"{file}: a loose file; every file has a room"]
    floors, room, broken = FLOORS if part == "flashvideo" else NODE_FLOORS, inner[0], []
    if room not in floors:
        return [f"{file}: the plan has no room {room!r}"]
    for origin, name in imports(source, (part, *inner)):
        where = f"{file} imports {'.'.join((*origin, name))}"
        target = (*origin[1:], name)[0]
        if origin[:1] == ("nodes",) and part == "flashvideo":
            broken.append(f"{where}: nothing imports nodes")
        elif part == "nodes" and origin[:1] == ("flashvideo",):
            if FLOORS.get(target, 0) > UPSTAIRS:
                broken.append(f"{where}: nodes import what lies at or below runs")
        elif origin[:1] == (part,) and target in floors and target != room:
            if floors[target] >= floors[room]:
                broken.append(f"{where}: {room} is on floor {floors[room]}, {target} on {floors[target]}")
            elif name.startswith("_"):
                broken.append(f"{where}: another room's inside")
    return broken


def test_the_house_stands_as_planned() -> None:
    files = [file for part in LOOSE for file in sorted((ROOT / part).rglob("*.py"))]
    assert len(files) > 100
    broken = [rule for file in files for rule in broken_rules(str(file.relative_to(ROOT)), file.read_text())]
    bare = {file.parent for file in files if not (file.parent / "__init__.py").is_file()}
    broken += [f"{folder.relative_to(ROOT)}: no __init__.py, so an installed package lacks it" for folder in bare]
    assert not broken, "\n".join(broken)


WRITING = re.compile(
    r"\.(write_text|write_bytes|rename|save_file)\(|\bsave_file\(|torch\.save\(|os\.(replace|rename)\("
    r"|\.replace\([\w.]+\)|open\([^)]*['\"][wx]b?['\"]"
)
WRITES_ITSELF = {
    "flashvideo/checkpoints/outputs.py": "it is the place of writing",
    "flashvideo/training/run_folder.py": "it gives folders of whole files their names",
}
NARROWING = re.compile(r"\S+ is not None|isinstance\(.*\)")


def unsafe_writing(file: str, source: str) -> list[str]:
    """Functions of a file that write without :func:`flashvideo.checkpoints.outputs.replacing`."""
    if file in WRITES_ITSELF or not WRITING.search(source):
        return []
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    texts = {function.name: ast.get_source_segment(source, function) or "" for function in functions}
    return [f"{file}: {name}" for name, text in texts.items() if WRITING.search(text) and "replacing(" not in text]


def test_files_are_written_in_one_place() -> None:
    files = [file for part in LOOSE for file in sorted((ROOT / part).rglob("*.py"))]
    unsafe = [each for file in files for each in unsafe_writing(str(file.relative_to(ROOT)), file.read_text())]
    assert not unsafe, "\n".join(unsafe)


@pytest.mark.parametrize(
    "line",
    [
        *("p.write_text('')", "p.replace(q)", "p.rename(q)", "os.replace(p, q)", "p.open('wb')", "open(p, 'w')"),
        *("torch.save(x, p)", "save_file(t, p)"),
    ],
)
def test_writing_elsewhere_is_named(line: str) -> None:
    assert unsafe_writing("flashvideo/runs/a.py", f"def f(p):\n    {line}") == ["flashvideo/runs/a.py: f"]
    assert not unsafe_writing("flashvideo/runs/a.py", f"def f(p):\n    with replacing(p) as q:\n        {line}")


def checking_asserts(file: str, source: str) -> list[str]:
    """Asserts of a file that tell a type checker nothing: `python -O` leaves out what they check."""
    asserts = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assert)]
    tests = [(node.lineno, ast.unparse(node.test)) for node in asserts]
    return [f"{file}:{line}: {text}" for line, text in tests if not NARROWING.fullmatch(text)]


def test_nothing_is_checked_by_an_assert() -> None:
    files = [file for part in LOOSE for file in sorted((ROOT / part).rglob("*.py"))]
    checked = [each for file in files for each in checking_asserts(str(file.relative_to(ROOT)), file.read_text())]
    assert not checked, "\n".join(checked)


def test_a_checking_assert_is_named() -> None:
    assert checking_asserts("a.py", "assert x is not None\nassert isinstance(x, int)\nassert x > 0, x") == [
        "a.py:3: x > 0"
    ]


def test_tests_mirror_the_rooms() -> None:
    folders = {path.parent.name for path in (ROOT / "tests" / "unit").glob("*/*.py")}
    assert folders <= set(FLOORS), f"the plan has no room {', '.join(sorted(folders - set(FLOORS)))}"


@pytest.mark.parametrize(
    ("file", "source", "said"),
    [
        ("flashvideo/method/a.py", "from ..models.network import X", "method is on floor 1, models on 1"),
        ("flashvideo/video/a.py", "def f():\n    from ..runs import chain", "video is on floor 2, runs on 3"),
        ("flashvideo/vae/tiling/a.py", "from ...method.checks import x", "vae is on floor 1, method on 1"),
        ("flashvideo/runs/a.py", "from ..method.stage1 import _draw", "another room's inside"),
        ("flashvideo/runs/a.py", "import nodes.blocks.text", "nothing imports nodes"),
        ("flashvideo/utils.py", "", "a loose file"),
        ("flashvideo/helpers/a.py", "", "no room 'helpers'"),
        ("nodes/blocks/a.py", "from ..gate.store import PreviewStore", "blocks is on floor 3, gate on 3"),
        ("nodes/shared/a.py", "from ..host.vae import x", "shared is on floor 1, host on 2"),
        ("nodes/blocks/a.py", "from ..host.vae import _load", "another room's inside"),
        ("nodes/blocks/a.py", "from ...flashvideo.training.loop import train", "at or below runs"),
    ],
)
def test_what_the_plan_forbids_is_named(file: str, source: str, said: str) -> None:
    (rule,) = broken_rules(file, source)
    assert rule.startswith(file)
    assert said in rule
