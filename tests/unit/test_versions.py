"""Which versions this project takes is said alike wherever it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from flashvideo.training.config import tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COMFYUI_HAS = {"torch", "comfyui-frontend-package"}  # not in requirements.txt: each machine's own, its frontend's own


def requirements(lines: list[str]) -> dict[str, Requirement]:
    """Name -> requirement; a line is a requirement, a comment or nothing."""
    found = [Requirement(text) for line in lines if (text := line.partition("#")[0].strip())]
    return {requirement.name: requirement for requirement in found}


def lowest(requirement: Requirement) -> Version | None:
    """The bound; nothing but ``>=`` is understood."""
    bounds = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
    assert len(bounds) == len(requirement.specifier) <= 1, requirement
    return bounds[0] if bounds else None


def lines_of(name: str) -> list[str]:
    return (ROOT / name).read_text(encoding="utf-8").splitlines()


DECLARED = requirements(PROJECT["dependencies"])
EXTRAS = requirements([line for extra in PROJECT["optional-dependencies"].values() for line in extra])


def test_requirements_txt_asks_for_what_pyproject_asks_for() -> None:
    asked = requirements(lines_of("requirements.txt"))
    assert asked == {name: line for name, line in DECLARED.items() if name not in COMFYUI_HAS}


def test_there_are_bounds_below_alone() -> None:
    """A bound above would keep people from what they have; what a newer version lacks is asked for where it is used."""
    assert lowest(DECLARED["av"]) == Version("12")
    with pytest.raises(AssertionError, match="<19"):
        lowest(Requirement("av>=12,<19"))
    bounds = {name: lowest(line) for name, line in {**DECLARED, **EXTRAS}.items() if name != PROJECT["name"]}
    assert [name for name, bound in bounds.items() if bound is None] == ["tokenizers", "tqdm"]


def test_the_tested_versions_are_allowed_and_complete() -> None:
    pinned = requirements(lines_of("constraints.txt"))
    wanted = {name: line for name, line in {**DECLARED, **EXTRAS}.items() if name != PROJECT["name"]}
    # Nothing imports it; its weights are nobody's to hand on, so that tests have none; not on Python 3.11.
    assert set(wanted) - set(pinned) == {"comfyui-frontend-package", "pyiqa", "tomli"}
    for name, pin in pinned.items():
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert wanted[name].specifier.contains(exact.version), name


@pytest.mark.parametrize(("end", "resolution"), [("lowest", "lowest-direct"), ("newest", "highest")])
def test_both_ends_are_tested(end: str, resolution: str) -> None:
    makefile, ci = ((ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", ".github/workflows/test.yml"))
    (python,) = re.findall(rf"^{end.upper()}_PYTHON \?= (.+)$", makefile, re.MULTILINE)
    assert f"$(call LIBRARY_IN,{end},$({end.upper()}_PYTHON),{resolution})" in makefile
    assert f"test-{end}" in ci
    if end == "lowest":
        assert PROJECT["requires-python"] == f">={python}"
