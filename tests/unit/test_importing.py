"""What importing takes: the libraries that take long are imported by what needs them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import flashvideo

SLOW = {"accelerate", "av", "diffusers", "peft", "transformers"}


@pytest.mark.parametrize(
    ("code", "left_out"),
    [
        ("import flashvideo; dir(flashvideo)", SLOW | {"torch"}),
        ("from flashvideo.cli import main; main(['--help'])", SLOW | {"torch"}),
        ("from flashvideo.cli import main; main(['generate', '--help'])", SLOW),
    ],
    ids=["import flashvideo", "flashvideo --help", "flashvideo generate --help"],
)
def test_what_takes_long_is_left_out(code: str, left_out: set[str]) -> None:
    code = f"import atexit, sys; atexit.register(lambda: sys.stderr.write(' '.join(sys.modules))); {code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stderr.split())
    assert "flashvideo" in imported
    assert not imported & left_out


def test_type_checkers_see_the_names_that_are_there() -> None:
    tree = ast.parse(Path(flashvideo.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {node.names[0].name: node.module for node in imports} == flashvideo._EXPORTS
    assert all(name.asname == name.name for node in imports for name in node.names)


def test_public_names_can_be_imported() -> None:
    assert all(getattr(flashvideo, name) for name in flashvideo.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        flashvideo.nonsense  # noqa: B018
