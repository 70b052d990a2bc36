"""ComfyUI-Manager runs ``pip install`` on each line of requirements.txt: none may change what ComfyUI runs on."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.comfy.server import ROOT, find_comfyui, find_python

_NAME = re.compile(r"[\w.-]+")
# pip in ComfyUI's interpreter, seeing the packages of one folder only
_PIP = "import runpy, sys; sys.path.append(sys.argv.pop(1)); runpy.run_module('pip', run_name='__main__')"


def plain(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def named(file: Path) -> dict[str, str]:
    """The lines of a requirements file by package."""
    lines = [line.partition("#")[0].strip() for line in file.read_text().splitlines()]
    return {plain(name[0]): line for line in lines if (name := _NAME.match(line))}


def bound(line: str) -> Version | None:
    """The lowest version that a requirement allows, if it says one."""
    versions = [Version(part.version) for part in Requirement(line).specifier if part.operator in (">=", "==", "~=")]
    return versions[0] if versions else None


OURS = named(ROOT / "requirements.txt")


class Comfy:
    """ComfyUI's packages as they are before the pack's requirements are installed."""

    def __init__(self, folder: Path) -> None:
        comfyui = find_comfyui()
        assert comfyui is not None
        self.python, self.folder = find_python(comfyui), folder
        command = [self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        packages = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
        added = set(OURS) - set(named(comfyui / "requirements.txt"))
        for entry in packages.iterdir():
            name, is_info, _ = entry.name.partition(".dist-info")
            if not is_info or plain(name.rpartition("-")[0]) not in added:
                (folder / entry.name).symlink_to(entry)
        infos = [entry.name for entry in folder.glob("*.dist-info")]
        self.installed = {plain(info.removesuffix(".dist-info").rpartition("-")[0]) for info in infos}

    def would_install(self, *arguments: str) -> dict[str, str]:
        """Package -> version of what pip would install.

        Raises:
            RuntimeError: pip found no way; its words.
        """
        report = self.folder / "report.json"
        options = ["install", "--dry-run", "--quiet", "--disable-pip-version-check", "--report", str(report)]
        command = [self.python, "-I", "-S", "-c", _PIP, str(self.folder), *options, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        items = [item["metadata"] for item in json.loads(report.read_text())["install"]]
        return {plain(item["name"]): item["version"] for item in items}

    def changed_by(self, line: str) -> dict[str, str]:
        """What a requirement would replace of that which is there."""
        return {name: version for name, version in self.would_install(line).items() if name in self.installed}


@pytest.fixture(scope="module")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Comfy:
    comfy = Comfy(tmp_path_factory.mktemp("packages"))
    try:
        comfy.would_install("--no-deps", "--ignore-installed", "tqdm")
    except RuntimeError as error:
        pytest.skip(f"no pip or no package index: {str(error).strip().splitlines()[-1]}")
    return comfy


@pytest.mark.parametrize("line", OURS.values())
def test_a_requirement_changes_nothing_of_comfyuis(comfy: Comfy, line: str) -> None:
    assert comfy.changed_by(line) == {}


def test_none_asks_for_more_than_comfyui_does() -> None:
    """What satisfies ComfyUI satisfies the pack, so nothing has to be replaced."""
    comfyui = find_comfyui()
    assert comfyui is not None
    theirs = named(comfyui / "requirements.txt")
    bounds = {name: (bound(OURS[name]), bound(theirs[name])) for name in set(OURS) & set(theirs)}
    both = {name: (ours, asked) for name, (ours, asked) in bounds.items() if ours and asked}
    assert {"av", "numpy", "safetensors", "transformers"} <= set(both)
    assert {name: (ours, asked) for name, (ours, asked) in both.items() if ours > asked} == {}


def test_what_comfyui_lacks_would_be_installed(comfy: Comfy) -> None:
    assert "diffusers" not in comfy.installed
    assert "diffusers" in comfy.would_install(OURS["diffusers"])


def test_a_requirement_that_does_is_noticed(comfy: Comfy) -> None:
    assert "tqdm" in comfy.changed_by("tqdm<4.67")
