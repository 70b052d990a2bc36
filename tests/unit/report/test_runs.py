"""Running a report: what is kept, what is measured again, what is refused."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import replace

import pytest

from flashvideo.report import Bench, Extra, Weights, parse_sections, run_report
from flashvideo.report.run import code_of_sections
from tests.unit.report.oracle import SETTINGS, USUAL, WEIGHTS, Oracle


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    with one_thread():
        yield


def test_finished_sections_are_skipped(bench, tmp_path):
    oracle = Oracle()
    place = bench(oracle)
    run_report(place, WEIGHTS, sections=["nfe"])
    done = oracle.calls["refine"]
    first = (tmp_path / "report" / "report.json").read_bytes()
    assert done > 0

    def calls(weights=WEIGHTS, **more):
        before = oracle.calls["refine"]
        run_report(more.pop("place", place), weights, sections=["nfe"], **more)
        return oracle.calls["refine"] - before

    assert calls() == 0
    assert (tmp_path / "report" / "report.json").read_bytes() == first
    assert calls(weights={**WEIGHTS, "stage1": Weights("x", "other")}) == 0  # not used by it
    unused = replace(SETTINGS, clips=7, cfg=(3.0,), stage1=replace(SETTINGS.stage1, num_steps=9))
    assert calls(place=replace(place, settings=unused)) == 0
    assert calls(again=True) == done
    assert calls(weights={**WEIGHTS, "stage2": Weights("x", "other")}) == done
    assert calls(place=replace(place, settings=replace(SETTINGS, seed=1, nfe=(1, 2)), models=_any(oracle))) == done


def _any(oracle: Oracle) -> Oracle:
    """For scenes of another seed."""
    scene = next(iter(oracle.shown.values()))
    oracle.shown = defaultdict(lambda: scene, oracle.shown)
    return oracle


def test_other_settings_leave_earlier_sections_marked(bench, tmp_path):
    run_report(bench(Oracle()), WEIGHTS, sections=["judge"])
    other = replace(bench(Oracle()), settings=replace(SETTINGS, clips=2))
    results = run_report(other, WEIGHTS, sections=["training"])
    assert list(results) == ["training"]
    text = (tmp_path / "report" / "report.md").read_text()
    assert "## judge\n\n**Measured with other weights" in text
    assert "## Floors" not in text


STALE = "**Stale: measured with other code than today's (version 0.9, code `0ld`).**"


@pytest.fixture
def outgrown(bench, tmp_path):
    """``outgrown(names)``: a report whose sections ``names`` were measured with other code."""

    def write(*names):
        run_report(bench(Oracle()), WEIGHTS, sections=("judge", "nfe", "refinement"))
        file = tmp_path / "report" / "report.json"
        values = json.loads(file.read_text())
        for name in names:
            values["sections"][name]["code"] = "0ld"
            values["sections"][name]["versions"]["flashvideo"] = "0.9"
        file.write_text(json.dumps(values))

    return write


def marked(folder):
    text = (folder / "report.md").read_text()
    return re.findall(r"^## (\w+)\n\n\*\*Stale: ", text, re.MULTILINE)


def test_stale_sections_are_measured_anew_and_no_others(bench, outgrown, tmp_path, caplog):
    outgrown("nfe")
    oracle = Oracle()
    run_report(bench(oracle), WEIGHTS, sections=("judge", "nfe", "refinement"))
    assert oracle.calls["refine"] == len(SETTINGS.nfe), "one batch for each value, nothing of the refinement"
    assert marked(tmp_path / "report") == []
    assert "nfe was measured with other code (version 0.9, code 0ld): it is measured anew" in caplog.text
    code = json.loads((tmp_path / "report" / "report.json").read_text())["sections"]["nfe"]["code"]
    assert code == code_of_sections()["nfe"]


def test_stale_sections_that_are_not_asked_for_are_marked(bench, outgrown, tmp_path, caplog):
    outgrown("judge", "refinement")
    results = run_report(bench(Oracle()), WEIGHTS, sections=["nfe"])
    assert marked(tmp_path / "report") == ["judge", "refinement"]
    assert "refinement is stale: it was measured with other code (version 0.9, code 0ld)" in caplog.text
    text = (tmp_path / "report" / "report.md").read_text()
    floors = [line for line in text.splitlines() if line.startswith(("| met", "| **not"))]
    assert text.count(f"\n\n{STALE}\n\n") == 2
    assert floors
    assert all("(stale) |" in line for line in floors)
    assert set(results) == {"judge", "refinement", "nfe"}


def test_sections_of_other_settings_are_not_called_stale(bench, outgrown, tmp_path, caplog):
    outgrown("judge")
    run_report(replace(bench(Oracle()), settings=replace(SETTINGS, clips=2)), WEIGHTS, sections=["nfe"])
    assert marked(tmp_path / "report") == []
    assert "judge" not in caplog.text


def test_a_broken_section_keeps_those_before(bench, tmp_path):
    with pytest.raises(RuntimeError, match="Stage II broke"):
        run_report(bench(Oracle(broken=True)), WEIGHTS, sections=("judge", "refinement"))
    folder = tmp_path / "report"
    assert list(json.loads((folder / "report.json").read_text())["sections"]) == ["judge"]
    assert sorted(path.name for path in folder.iterdir()) == ["judge.png", "report.json", "report.md"]


def test_same_seed_same_bytes(tmp_path):
    written = []
    for name in ("a", "b"):
        run_report(Bench(Oracle(), SETTINGS, tmp_path / name), WEIGHTS, sections=["nfe"])
        record = json.loads((tmp_path / name / "report.json").read_text())["sections"]["nfe"]["result"]
        written.append(({**record, "seconds": 0}, (tmp_path / name / "nfe.png").read_bytes()))
    assert written[0] == written[1]


def test_damaged_record_is_refused(bench, tmp_path):
    folder = tmp_path / "report"
    folder.mkdir()
    for content in ("{", "{}", '{"format": 99, "sections": {}}'):
        (folder / "report.json").write_text(content)
        with pytest.raises(ValueError, match="cannot be read as a report"):
            run_report(bench(Oracle()), WEIGHTS, sections=["judge"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clips": 1}, "at least 2"),
        ({"nfe": ()}, "one or more"),
        ({"cfg": (1.0, 1.0)}, "each once"),
        ({"noise_steps": (1000,)}, "noise step 1000"),
        ({"stage2": replace(USUAL.stage2, height=208)}, "whole\n? ?multiple"),
        ({"stage1": replace(USUAL.stage1, num_frames=1)}, "5 or more"),
        ({"ablation_frames": 4}, "ablation_frames is 4; expected 5, 9, 13"),
        ({"ablation_frames": 9}, "up to 5"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_settings_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **change).check()


def test_missing_hashes_and_wrong_extras_are_refused(bench):
    oracle = Oracle()
    with pytest.raises(ValueError, match="stage2, vae, text"):
        run_report(bench(oracle), {}, sections=["refinement"])
    for name, stage in (("Lanczos", "stage2"), ("single", "stage2")):
        extras = (Extra(name, stage, oracle),)
        with pytest.raises(ValueError, match="expected"):
            run_report(bench(oracle, extras=extras), WEIGHTS)
    with pytest.raises(ValueError, match="colour"):
        parse_sections("judge,colour")
    assert parse_sections("cost, judge") == ("judge", "cost")
