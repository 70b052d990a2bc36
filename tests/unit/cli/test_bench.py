"""``flashvideo bench``: what it prints and writes. What is counted: tests/unit/report/test_kernels.py."""

from __future__ import annotations

import json

import pytest

from flashvideo.cli import main
from flashvideo.report.kernels import machine
from flashvideo.report.kernels.counter import Count
from flashvideo.report.kernels.networks import Case


@pytest.fixture
def small(monkeypatch):
    """The published networks' classes, small and shallow, and one small case to count."""
    monkeypatch.setattr(machine, "_SIZES", (((16, 32), 5),))
    monkeypatch.setattr(machine, "_DEPTHS", (2,))
    monkeypatch.setattr(machine, "_TRIES", 1)
    monkeypatch.setattr("flashvideo.cli.bench.PUBLISHED", (Case("stage1", (16, 32), 5),))


def test_a_machine_is_measured_beside_what_is_predicted(small, tmp_path, capsys):
    file = tmp_path / "now.json"
    assert main(["bench", "--quick", "--device=cpu", "--parts", f"--json={file}"]) == 0
    said, written = capsys.readouterr().out, json.loads(file.read_text())
    runs = written["machine"]["runs"]
    assert [run["name"] for run in runs] == ["stage2 32x16x5, 2 layers", "decode 32x16x5"]
    for run in runs:
        assert run["seconds"] > 0 < run["peak_bytes"]
        assert run["count"]["operations"] > 0 < run["count"]["launches"]
        assert run["name"] in said
    assert all(rate > 0 for rate in written["machine"]["rates"].values())
    assert Count.from_dict(written["counts"]["stage1 32x16x5"]).total.launches > 0
    assert "| H100 " in said
    assert "mlp_up" in said
    assert said.count("diffusers ") == 2
    assert "ComfyUI: not here" in said


def test_files_are_compared_and_never_overwritten(small, tmp_path, capsys):
    plain, fused = tmp_path / "plain.json", tmp_path / "fused.json"
    assert main(["bench", "--count-only", "--plain", f"--json={plain}"]) == 0
    assert main(["bench", "--count-only", f"--json={fused}"]) == 0
    assert main(["bench", "--count-only", f"--json={fused}"]) == 2
    assert str(fused) in capsys.readouterr().err
    assert main(["bench", "--compare", str(plain), str(fused)]) == 0
    (launches,) = (line for line in capsys.readouterr().out.splitlines() if "launches" in line)
    before, after = (float(cell.replace(",", "")) for cell in launches.split("|")[3:5])
    assert after < before
