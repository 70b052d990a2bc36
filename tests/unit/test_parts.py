"""``make test`` in a few lines: what failed, what was skipped and why, and an exit code that says so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """
import pytest
def test_good(): pass
def test_bad(): assert False
@pytest.mark.parametrize("k", range(3))
def test_left_out(k): pytest.skip("no such device")
@pytest.fixture
def broken(): raise RuntimeError
def test_without_its_fixture(broken): pass
"""
LEFT_OUT = """
import pytest
pytestmark = pytest.mark.skip("no ComfyUI")
def test_one(): pass
def test_two(): pass
"""


class Parts:
    """The script in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.script = folder, folder / "tools" / "parts.py"
        self.script.parent.mkdir()
        shutil.copy(ROOT / "tools" / "parts.py", self.script)

    def __call__(self, *words: str, code: int = 0) -> str:
        command = [sys.executable, str(self.script), *words]
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def python(self, name: str, program: str, code: int = 0) -> str:
        return self("run", name, "--", sys.executable, "-c", program, code=code)

    def pytest(self, name: str, text: str, code: int = 0) -> str:
        (self.folder / "test_it.py").write_text(text)
        command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junit-xml=it.xml", "test_it.py")
        return self("run", name, "--junit", "it.xml", "--", *command, code=code)

    def line(self, name: str, code: int = 0) -> list[str]:
        """What is said of a part: its state, its time, its details."""
        (line,) = self("show", name, code=code).strip().splitlines()
        assert line.startswith(f"{name} ")
        return line.removeprefix(name).split(maxsplit=2)


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


def test_output_goes_through_and_is_counted(parts: Parts) -> None:
    assert parts.python("lint", "print('1 file reformatted\\n28 files already formatted')").endswith("formatted\n")
    assert parts.line("lint")[0::2] == ["passed", "28 files"]
    parts.python("js tests", "print('# tests 4\\n# pass 3\\n# fail 0')")
    assert parts.line("js tests")[2] == "3 tests"
    parts.python("mypy", "print('no issues found in 111 source files\\nno issues found in 1 source file')")
    assert parts.line("mypy")[2] == "112 files"


def test_a_part_that_fails_ends_as_it_did_and_fails_the_whole(parts: Parts) -> None:
    parts.python("lint", "")
    parts.python("mypy", "print('checked 7 source files'); raise SystemExit(3)", code=3)
    first, second = parts("show", "lint", "mypy", code=1).strip().splitlines()
    assert first.split()[1] == "passed"
    assert second.split()[1] == "FAILED"


def test_a_part_that_did_not_run_fails_the_whole(parts: Parts) -> None:
    assert parts.line("nodes", code=1)[0] == "NOT"


def test_a_skipped_part_says_why_and_fails_nothing(parts: Parts) -> None:
    parts("skip", "js types", "there is no npm on this machine")
    assert parts.line("js types") == ["skipped", "0:00", "there is no npm on this machine"]


def test_tests_are_counted_failures_named_skips_explained(parts: Parts) -> None:
    assert "1 passed" in parts.pytest("library", TESTS, code=1).splitlines()[-1], "pytest's own last line stays"
    state, _, details = parts.line("library", code=1)
    assert state == "FAILED"
    assert details.startswith("6 tests, 2 failed: test_it::test_bad, test_it::test_without_its_fixture, 3 skipped")
    assert details.endswith("(3: no such device)")


def test_tests_that_were_all_skipped_are_a_skipped_part(parts: Parts) -> None:
    parts.pytest(
        "nodes", "import pytest\n@pytest.mark.parametrize('k', [1, 2])\ndef test_it(k): pytest.skip('no ComfyUI')"
    )
    assert parts.line("nodes")[0::2] == ["skipped", "all 2 tests: no ComfyUI"]


def test_tests_that_never_ended_are_not_those_of_the_last_time(parts: Parts) -> None:
    parts.pytest("library", "def test_it(): pass")
    parts("run", "library", "--junit", "it.xml", "--", sys.executable, "-c", "raise SystemExit(4)", code=4)
    state, *more = parts.line("library", code=1)
    assert (state, len(more)) == ("FAILED", 1), "there is nothing to tell but the time"
