"""``flashvideo verify``: a table, a file of JSON, and an exit code that a script can ask."""

from __future__ import annotations

import json

import pytest
import torch

from flashvideo.cli import EXIT_FAILURE, EXIT_USAGE, verify
from flashvideo.runs.verifying import GROUPS, Certificate, Limit, Verdict
from tests.conftest import TINY
from tests.unit.cli.watching import options_of

FILES = {"stage1": "stage1.pt", "stage2": "stage2.pt", "vae": "3d-vae.pt"}


def test_a_models_folder_is_certified(run, tmp_path):
    file = tmp_path / "certificate.json"
    said = run("verify", "--stage2", TINY / "stage2.pt", "--models=random", "--only=windows", "--json", file).out
    assert "| Stage II | one time window " in said
    told = json.loads(file.read_text())
    assert told["ok"] is True
    assert {path["status"] for path in told["paths"]} == {"ok"}
    assert told["place"]["models"].endswith("stage2.pt")
    assert "--overwrite" in run("verify", "--only=windows", "--json", file, code=EXIT_USAGE).err


def test_a_path_over_its_limit_ends_with_1(run, monkeypatch):
    verdict = Verdict("decode", "tiles", "over", Limit(1e-5, "a test"), 0.1, 0.1)
    monkeypatch.setattr(verify, "verify_paths", lambda *_, **__: Certificate((verdict,), {}))
    assert "1 over" in run("verify", code=EXIT_FAILURE).out


@pytest.fixture
def handed(run, monkeypatch):
    """``handed("--option")``: what the library is called with."""
    seen: dict[str, object] = {}

    def note(files, *, device, groups, progress):
        seen.update(files=files, device=device, groups=groups)
        return Certificate((), {})

    def command(*words):
        run("verify", *words)
        return seen

    monkeypatch.setattr(verify, "verify_paths", note)
    return command


def test_options_are_handed_on(handed):
    assert handed("--device=cpu") == {"files": None, "device": torch.device("cpu"), "groups": frozenset(GROUPS)}
    assert handed("--only=tiles,files")["groups"] == {"tiles", "files"}
    assert handed(f"--models={TINY}")["files"] == {name: TINY / file for name, file in FILES.items()}
    for name, file in FILES.items():
        assert handed(f"--{name}={TINY / file}")["files"] == {name: TINY / file}
    known = {"only", "json", "overwrite", "models", "device", *FILES}
    assert options_of("verify") == sorted(f"--{name}" for name in known)


def test_bad_input_is_told_at_once(run, tmp_path):
    assert "expected some of files" in run("verify", "--only=speed", code=EXIT_USAGE).err
    assert "has none of stage1, stage2, vae" in run("verify", "--models", tmp_path, code=EXIT_USAGE).err
    missing = run("verify", "--only=windows", "--json", tmp_path / "no" / "c.json", code=EXIT_USAGE).err
    assert "does not exist. Create it" in missing
