"""What a checkout, a release and an installation rely on: one version, the same bytes, tags that fit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import flashvideo
from tools.check_release import problems

ROOT = Path(__file__).resolve().parents[2]
PROJECT, CHANGELOG = (ROOT / name for name in ("pyproject.toml", "CHANGELOG.md"))
HASHED = ("docs/report/", "flashvideo/assets/", "tests/golden/", "tests/weights/")


def git(*arguments: str, cwd: Path = ROOT) -> str:
    result = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"not a checkout: {result.stderr.strip()[:80]}")
    return result.stdout


def version_seen_from(folder: Path) -> str:
    """``flashvideo.__version__`` of the package that lies in ``folder``, read by a process of its own."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import flashvideo as f; print(f.__file__, f.__version__)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    file, version = run.stdout.split()
    assert Path(file).is_relative_to(folder)
    return version


def copied_package(folder: Path) -> Path:
    (folder / "flashvideo").mkdir(parents=True)
    shutil.copy(ROOT / "flashvideo" / "__init__.py", folder / "flashvideo")
    return folder


def test_the_version_stands_in_one_place() -> None:
    (stated,) = re.findall(r'^version = "(.+)"$', PROJECT.read_text(encoding="utf-8"), re.MULTILINE)
    assert flashvideo.__version__ == stated
    assert re.fullmatch(r"\d+\.\d+\.\d+", stated), "the ComfyUI registry takes X.Y.Z"
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "flashvideo").glob("*.py"))
    assert f'"{stated}"' not in sources


def test_a_folder_in_custom_nodes_has_it_from_pyproject(tmp_path: Path) -> None:
    """Not from a package of the same name that happens to be installed."""
    folder = copied_package(tmp_path)
    text = re.sub(r'(?m)^version = ".+"$', 'version = "7.8.9"', PROJECT.read_text(encoding="utf-8"))
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    assert version_seen_from(folder) == "7.8.9"


def test_an_installed_package_has_it_from_its_metadata(tmp_path: Path) -> None:
    """Also beside another project's pyproject.toml."""
    folder = copied_package(tmp_path)
    (folder / "flashvideo-4.5.6.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: flashvideo\nVersion: 4.5.6\n"
    (folder / "flashvideo-4.5.6.dist-info" / "METADATA").write_text(metadata, encoding="utf-8")
    (folder / "pyproject.toml").write_text('[project]\nname = "other"\nversion = "1.0.0"\n', encoding="utf-8")
    assert version_seen_from(folder) == "4.5.6"


def test_every_file_is_checked_out_with_the_bytes_that_are_committed() -> None:
    """Whatever ``core.autocrlf`` says: each is ``-text`` or ends its lines in LF, hashed files are not guessed at."""
    files = git("ls-files", "-z").split("\0")[:-1]
    fields = git("check-attr", "-z", "text", "eol", "--", *files).split("\0")[:-1]
    found: dict[str, dict[str, str]] = {file: {} for file in files}
    for file, attribute, value in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
        found[file][attribute] = value
    hashed = [file for file in files if file.startswith(HASHED) or file.endswith((".safetensors", ".jsonl", ".pt"))]
    assert len(hashed) > 50
    assert [file for file in hashed if found[file]["text"] != "unset"] == []
    assert [file for file in files if found[file]["text"] != "unset" and found[file]["eol"] != "lf"] == []


def test_a_checkout_with_crlf_has_the_same_bytes(tmp_path: Path) -> None:
    """The files that tests hash, added and checked out again by a git that is set to CRLF."""
    files = [ROOT / "docs/report/quality/report.md", *(ROOT / "flashvideo/assets/tiny/training").glob("stage2.*")]
    files += [ROOT / "flashvideo/shapes/judge.py", ROOT / ".gitattributes"]
    for file in files:
        target = tmp_path / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    git("init", "--quiet", cwd=tmp_path)
    for name, value in {"core.autocrlf": "true", "user.name": "a", "user.email": "a@b.c"}.items():
        git("config", name, value, cwd=tmp_path)
    git("add", "--all", cwd=tmp_path)
    for file in files[:-1]:
        (tmp_path / file.relative_to(ROOT)).unlink()
    git("checkout-index", "--all", cwd=tmp_path)
    for file in files:
        assert (tmp_path / file.relative_to(ROOT)).read_bytes() == file.read_bytes(), file


@pytest.mark.parametrize(
    ("tag", "version", "section", "said"),
    [
        ("v1.2.3", "1.2.3", "## [1.2.3] - 2026-01-31", ()),
        ("v1.2.4", "1.2.3", "## [1.2.3] - 2026-01-31", ("The tag is v1.2.4, pyproject.toml has version 1.2.3",)),
        ("1.2.3", "1.2.3", "## [1.2.3] - 2026-01-31", ("The tag is 1.2.3,",)),
        ("v1.2.3", "1.2.3", "## [Unreleased]", ("has no section '## [1.2.3] - YYYY-MM-DD'",)),
        ("v1.2.3", "1.2.3", "## [1.2.30] - 2026-01-31", ("has no section '## [1.2.3] - YYYY-MM-DD'",)),
    ],
)
def test_only_the_version_that_the_changelog_tells_of_is_published(
    tag: str, version: str, section: str, said: tuple[str, ...]
) -> None:
    found = problems(
        tag, f'[project]\nname = "flashvideo"\nversion = "{version}"\n', f"# Changelog\n\n{section}\n\n* A thing.\n"
    )
    assert len(found) == len(said)
    assert all(words in problem for words, problem in zip(said, found, strict=True))


def test_nothing_is_published_but_by_a_tag() -> None:
    text = (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    triggers = text.partition("\non:\n")[2].partition("\n\n")[0]
    assert triggers.split() == ["push:", "tags:", '["v*"]']
    assert "tools/check_release.py" in text


def test_the_changelog_keeps_its_form() -> None:
    """Keep a Changelog 1.1: newest first, known kinds of change, a link for every version."""
    text = CHANGELOG.read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds
    assert set(re.findall(r"^\[(.+?)\]: ", text, re.MULTILINE)) == {
        heading[1:].partition("]")[0] for heading in headings
    }
