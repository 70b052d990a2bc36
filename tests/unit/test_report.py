"""The report: with oracles that are right or wrong on purpose in the models' place, and end to end."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from dataclasses import replace
from statistics import mean

import pytest
import torch
from torch import Tensor

from flashvideo.model_store import ModelStore, find_models
from flashvideo.report import (
    Bench,
    Extra,
    LoadedModels,
    NetworkSize,
    ReportSettings,
    Result,
    Row,
    Table,
    Weights,
    check_floors,
    floors_of,
    parse_sections,
    run_report,
)
from flashvideo.report import models as report_models
from flashvideo.report.bench import MIXED, MORE, ONE, held_out_scenes
from flashvideo.report.cost import evaluation_flops
from flashvideo.report.extras import parse_extra
from flashvideo.report.fidelity import PROMPT, PROMPT_ATTRIBUTES
from flashvideo.report.results import mean_row, share_difference_row, share_row
from flashvideo.report.upsampling import bilinear, lanczos
from flashvideo.shapes.judge import Tally
from flashvideo.shapes.metrics import interval95, ratio_interval
from flashvideo.shapes.render import low_resolution, render_clip
from flashvideo.shapes.scenes import Scene
from tests.conftest import TINY

USUAL = ReportSettings()
SETTINGS = replace(
    USUAL,
    clips=3,
    ablation_clips=2,
    stage1=replace(USUAL.stage1, num_frames=5, num_steps=2),
    nfe=(1, 2),
    cfg=(4.0,),
    noise_steps=(300,),
)
WEIGHTS = {part: Weights(part, part) for part in ("stage1", "stage2", "vae", "text")}
TINY_OPTIONS = [
    *("--models", "tiny", "--clips", 2, "--ablation-clips", 2, "--low-size", "16x16", "--size", "32x32"),
    *("--frames", 5, "--preview-steps", 2, "--steps", 1, "--cfg", 1, "--nfe-values", "1"),
    *("--cfg-values", "1", "--noise-step-values", "300"),
]


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    with one_thread():
        yield


class Oracle:
    """Shows the scene of each seed; counts calls.

    Args:
        swap: shows the next scene of the same group instead.
        broken: raises when it should refine.
    """

    def __init__(self, *, swap: bool = False, broken: bool = False) -> None:
        self.shown: dict[int, Scene] = {}
        self.broken = broken
        self.calls: dict[str, int] = defaultdict(int)
        for group in (ONE, MORE, MIXED):
            scenes = held_out_scenes(group, SETTINGS.clips, SETTINGS)
            others = scenes[1:] + scenes[:1] if swap else scenes
            self.shown.update({scene.seed: other for scene, other in zip(scenes, others, strict=True)})

    def _draw(self, seeds, height: int, width: int, frames: int) -> Tensor:
        return torch.stack([render_clip(self.shown[seed], height, width, frames) for seed in seeds])

    def generate_low(self, captions, seeds, settings):
        self.calls["generate_low"] += 1
        assert len(captions) == len(seeds)
        if settings.height > SETTINGS.stage1.height:
            return self._draw(seeds, settings.height, settings.width, settings.num_frames)
        large = self._draw(seeds, 4 * settings.height, 4 * settings.width, settings.num_frames)
        return torch.stack([low_resolution(clip, 4) for clip in large])

    def refine(self, videos, captions, seeds, settings):
        self.calls["refine"] += 1
        if self.broken:
            raise RuntimeError("Stage II broke")
        assert videos.shape[3] * 4 == settings.height
        return self._draw(seeds, settings.height, settings.width, videos.shape[2])

    def network(self, stage):
        return NetworkSize(layers=2, width=8, text_length=10)


@pytest.fixture
def bench(tmp_path):
    return lambda models, **more: Bench(models, SETTINGS, tmp_path / "report", **more)


def value(result: Result, name: str, measure: str) -> Row:
    row = result.row(name, measure)
    assert row is not None, (name, measure)
    return row


# sections


def test_sections_with_a_faultless_model_meet_all_floors(bench):
    results = run_report(bench(Oracle()), WEIGHTS, sections=("judge", "fidelity", "refinement"))
    assert check_floors(results) == []
    assert {floor.section for floor in floors_of(results)} == set(results)
    for group in (ONE, MORE):
        for stage in ("Stage I", "Stage II"):
            assert value(results["fidelity"], f"{group}, {stage}", PROMPT).mean == 1
        assert value(results["fidelity"], f"{group}, Stage II", "texture").mean == 1
        assert results["fidelity"].row(f"{group}, Stage I", "texture") is None
    refined = results["refinement"]
    assert value(refined, "refined", "PSNR").mean == 100
    assert value(refined, "refined", "spectrum error").mean == 0
    assert value(refined, "Lanczos", "PSNR").mean > value(refined, "bilinear", "PSNR").mean > 20
    gain = value(refined, "refined - Lanczos", "spectrum error")
    assert gain.mean == pytest.approx(-value(refined, "Lanczos", "spectrum error").mean)
    assert gain.high < 0


def test_fidelity_of_swapped_clips_is_chance(bench):
    result = run_report(bench(Oracle(swap=True)), WEIGHTS, sections=["fidelity"])["fidelity"]
    scenes = held_out_scenes(ONE, SETTINGS.clips, SETTINGS)
    pairs = list(zip(scenes, scenes[1:] + scenes[:1], strict=True))
    names = [name for name in PROMPT_ATTRIBUTES if name != "background"]
    equal = [a.background == b.background for a, b in pairs]
    equal += [getattr(a.shapes[0], name) == getattr(b.shapes[0], name) for a, b in pairs for name in names]
    assert value(result, f"{ONE}, Stage I", PROMPT).mean == mean(equal) < 0.5
    assert len(check_floors({"fidelity": result})) >= 3


def test_judge_with_other_captions_is_at_chance(bench):
    result = run_report(bench(Oracle()), {}, sections=["judge"])["judge"]
    for group in (ONE, MORE):
        found, chance = (value(result, f"{group}, {name}", "all") for name in ("captions of other clips", "chance"))
        assert found == replace(chance, name=found.name)
        assert found.mean < 0.6


def test_ablations_and_other_weights(bench):
    oracle, wrong = Oracle(), Oracle(swap=True)
    extras = (Extra("swapped", "stage2", wrong, noise_step=0), Extra("lora", "stage1", wrong))
    weights = {**WEIGHTS, "extra swapped": Weights("a", "1"), "extra lora": Weights("b", "2")}
    names = ("nfe", "noise_step", "training", "sizes")
    results = run_report(bench(oracle, extras=extras), weights, sections=names)
    assert [row.name for row in results["nfe"].tables[0].rows if row.measure == "PSNR"] == ["NFE 1", "NFE 2"]
    assert value(results["noise_step"], "noise step 300", "texture").mean == 1
    second, first = results["training"].tables
    assert second.row("the models", "PSNR").mean == 100 > second.row("swapped", "PSNR").mean
    assert first.row("the models", PROMPT).mean == 1 > first.row("lora", PROMPT).mean
    sizes = results["sizes"].tables[0]
    assert sizes.title == "Stage II at 640x384"
    assert {row.name for row in sizes.rows} == {"bilinear", "Lanczos", "the models", "swapped"}


def test_training_without_other_weights_says_so(bench):
    result = run_report(bench(Oracle()), WEIGHTS, sections=["training"])["training"]
    assert not result.tables
    assert "--extra" in result.notes[0]


def test_cost_of_both_ways(bench):
    extras = (Extra("single", "stage1", Oracle(swap=True)),)
    weights = {**WEIGHTS, "extra single": Weights("a", "1")}
    result = run_report(bench(Oracle(), extras=extras), weights, sections=["cost"])["cost"]
    names = list(dict.fromkeys(row.name for row in result.tables[0].rows))
    assert [name.partition(" (")[0] for name in names] == [
        "two stages",
        *(f"one stage, {what}" for what in ("equal FLOPs", "equal time", "as Stage I")),
    ]
    small, large = (evaluation_flops(Oracle().network("stage1"), 5, *size) for size in ((48, 80), (192, 320)))
    both = 2 * 2 * small + 2 * 4 * large
    assert value(result, "two stages", "GFLOP a clip").mean == pytest.approx(both / 1e9)
    assert f"({round(both / (2 * large))} steps)" in names[1]
    assert value(result, "two stages", PROMPT).mean == 1 > value(result, names[1], PROMPT).mean
    assert value(result, "two stages", "seconds a clip").n == SETTINGS.ablation_clips


def test_flops_formula():
    tokens, width = 10 + 2 * 3 * 5, 8
    found = evaluation_flops(NetworkSize(layers=3, width=width, text_length=10), 5, 48, 80)
    assert found == 3 * (4 * tokens**2 * width + 24 * tokens * width**2)


# running


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


def test_a_broken_section_keeps_those_before(bench, tmp_path):
    with pytest.raises(RuntimeError, match="Stage II broke"):
        run_report(bench(Oracle(broken=True)), WEIGHTS, sections=("judge", "refinement"))
    folder = tmp_path / "report"
    assert list(json.loads((folder / "report.json").read_text())["sections"]) == ["judge"]
    assert sorted(path.name for path in folder.iterdir()) == ["judge.png", "report.json", "report.md"]


def test_same_seed_same_bytes(tmp_path):
    found = []
    for name in ("a", "b"):
        run_report(Bench(Oracle(), SETTINGS, tmp_path / name), WEIGHTS, sections=["nfe"])
        record = json.loads((tmp_path / name / "report.json").read_text())["sections"]["nfe"]["result"]
        found.append(({**record, "seconds": 0}, (tmp_path / name / "nfe.png").read_bytes()))
    assert found[0] == found[1]


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


# numbers


def test_lanczos_is_its_formula():
    video = torch.rand(1, 3, 2, 5, 7, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4  # never cut off

    def kernel(d: float) -> float:
        if abs(d) >= 3:
            return 0.0
        return 1.0 if d == 0 else 3 * math.sin(math.pi * d) * math.sin(math.pi * d / 3) / (math.pi * d) ** 2

    def line(samples: list[float], after: int) -> list[float]:
        result = []
        for index in range(after):
            at = (index + 0.5) * len(samples) / after - 0.5
            weights = [kernel(at - j) for j in range(len(samples))]
            result.append(sum(w * s for w, s in zip(weights, samples, strict=True)) / sum(weights))
        return result

    frame = video[0, 1, 1].tolist()
    rows = [line(row, 28) for row in frame]
    columns = [line([row[x] for row in rows], 20) for x in range(28)]
    found = lanczos(video, 20, 28)
    assert found.shape == (1, 3, 2, 20, 28)
    torch.testing.assert_close(found[0, 1, 1], torch.tensor(columns).T, atol=1e-5, rtol=0)
    torch.testing.assert_close(lanczos(video, 5, 7), video, atol=1e-6, rtol=0)
    torch.testing.assert_close(lanczos(torch.full_like(video, 0.3), 20, 28), torch.full((1, 3, 2, 20, 28), 0.3))
    with pytest.raises(ValueError, match="only enlarging"):
        lanczos(video, 4, 7)
    with pytest.raises(ValueError, match="expected floating point"):
        lanczos(video[0], 20, 28)


def test_enlargements_keep_places():
    ramp = torch.linspace(0.2, 0.8, 16).expand(1, 3, 1, 16, 16)
    for enlarge in (bilinear, lanczos):
        large = enlarge(ramp, 64, 64)
        torch.testing.assert_close(low_resolution(large[0], 4)[..., 4:12], ramp[0, ..., 4:12], atol=2e-3, rtol=0)


def test_intervals_of_rows():
    nine = share_row("a", "b", [Tally(1, 1)] * 9 + [Tally(0, 1)])
    assert (round(nine.low, 3), round(nine.high, 3), nine.n) == (0.596, 0.982, 10)
    tallies = [Tally(2, 3), Tally(1, 2), Tally(3, 3), Tally(0, 0)]
    several, expected = share_row("a", "b", tallies), ratio_interval([2, 1, 3], [3, 2, 3])
    assert (several.mean, several.low, several.high, several.n) == (6 / 8, expected.low, expected.high, 3)
    certain = share_row("a", "b", [Tally(3, 3)] * 8)
    assert (certain.mean, certain.high) == (1, 1)
    assert certain.low == pytest.approx(0.676, abs=1e-3)  # Wilson's, eight of eight
    assert share_row("a", "b", [Tally(), Tally()]) is None
    values = [1.0, 2.0, 4.0]
    row, expected = mean_row("a", "b", values, "dB"), interval95(values)
    assert (row.mean, row.low, row.high, row.n, row.unit) == (7 / 3, expected.low, expected.high, 3, "dB")
    apart = share_difference_row("a", "b", [Tally(1, 1), Tally(2, 2)], [Tally(0, 1), Tally(2, 2)])
    assert apart.mean == pytest.approx(1 / 3)


def result_of(section: str, rows: dict[tuple[str, str], float]) -> Result:
    return Result(section, (Table("t", tuple(Row(*key, mean, mean, mean, 200) for key, mean in rows.items())),))


def test_floors_are_met_and_missed():
    good = {
        ("refined", "spectrum error"): 1.0,
        ("bilinear", "spectrum error"): 2.0,
        ("Lanczos", "spectrum error"): 1.5,
        ("refined", "texture"): 0.9,
        ("bilinear", "texture"): 0.3,
        ("Lanczos", "texture"): 0.3,
        ("refined", "low-passed PSNR"): 39.1,
        ("Lanczos", "low-passed PSNR"): 40.0,
    }
    assert check_floors({"refinement": result_of("refinement", good)}) == []
    for key, worse in (
        (("refined", "spectrum error"), 1.6),
        (("refined", "texture"), 0.3),
        (("refined", "low-passed PSNR"), 38.9),
    ):
        missed = check_floors({"refinement": result_of("refinement", {**good, key: worse})})
        assert missed
        assert all(key[1] in text for text in missed)
    fidelity = {
        (f"{ONE}, Stage I", PROMPT): 0.9,
        (f"{ONE}, Stage II", "texture"): 0.9,
        (f"{MORE}, Stage I", PROMPT): 0.749,
    }
    missed = check_floors({"fidelity": result_of("fidelity", fidelity)})
    assert len(missed) == 2
    assert "74.9%; expected at least 75%" in missed[0]
    assert "not measured" in missed[1]
    assert check_floors({"nfe": result_of("nfe", {})}) == []


# real models


@pytest.fixture(scope="module")
def loaded():
    return LoadedModels(ModelStore(find_models("tiny", {}, ("stage1", "stage2", "vae", "text"))))


def test_clips_do_not_depend_on_their_batch(loaded):
    captions, seeds = ["a red ball rolls", "a blue ball rests"], [3, 4]
    first = replace(SETTINGS.stage1, height=16, width=16)
    second = replace(SETTINGS.stage2, height=32, width=32, num_steps=1)
    low = loaded.generate_low(captions, seeds, first)
    assert low.shape == (2, 3, 5, 16, 16)
    alone = loaded.generate_low(captions[1:], seeds[1:], first)
    torch.testing.assert_close(low[1:], alone, atol=1e-3, rtol=0)
    assert not torch.equal(low[:1], low[1:])
    high = loaded.refine(low, captions, seeds, second)
    assert high.shape == (2, 3, 5, 32, 32)
    torch.testing.assert_close(loaded.refine(low[1:], captions[1:], seeds[1:], second), high[1:], atol=1e-3, rtol=0)


def test_encoded_clips_are_remembered_and_noise_step_0_degrades_nothing(loaded, monkeypatch):
    encodings, degradations = [], []
    encode, degrade = report_models.encode_video, report_models.degrade_latents
    monkeypatch.setattr(report_models, "encode_video", lambda *a, **k: encodings.append(1) or encode(*a, **k))
    monkeypatch.setattr(report_models, "degrade_latents", lambda *a, **k: degradations.append(1) or degrade(*a, **k))
    video = torch.rand(1, 3, 5, 16, 16, generator=torch.Generator().manual_seed(0))
    settings = replace(SETTINGS.stage2, height=32, width=32, num_steps=1, guidance_scale=1.0)
    asked = []

    def load():
        asked.append(1)
        with loaded.models.use("stage2") as transformer:
            return transformer

    other = loaded.with_stage("stage2", load)
    assert not asked
    clips = [
        models.refine(video, ["a ball"], [0], replace(settings, noise_step=step))
        for models, step in ((loaded, 500), (other, 500), (other, 0), (other, 999))
    ]
    assert (len(encodings), len(degradations), len(asked)) == (1, 3, 1)
    torch.testing.assert_close(clips[0], clips[1], atol=0, rtol=0)
    assert not torch.equal(clips[1], clips[2])


# command line


def test_command_writes_everything(run, tmp_path):
    out = tmp_path / "out"
    stage1 = TINY / "stage1.pt"
    extras = ["--extra", f"single={stage1}", "--extra", f"twin={stage1}"]
    said = run("report", *TINY_OPTIONS, *extras, "-o", out)
    assert "floor missed: fidelity, one shape" in said.out
    record = json.loads((out / "report.json").read_text())
    names = ["judge", "fidelity", "refinement", "nfe", "cfg", "noise_step", "training", "sizes", "cost"]
    assert list(record["sections"]) == names
    hashes = {part: weights["sha256"] for part, weights in record["sections"]["training"]["weights"].items()}
    assert hashes["stage1"] == hashes["extra twin"] == hashlib.sha256(stage1.read_bytes()).hexdigest()
    assert "extra single" not in hashes
    assert "extra single" in record["sections"]["cost"]["weights"]
    assert not record["sections"]["judge"]["weights"]
    assert not all(floor["met"] for floor in record["floors"])
    for section in record["sections"].values():
        for picture in section["result"]["pictures"]:
            assert (out / picture["file"]).stat().st_size > 0
        for row in (row for table in section["result"]["tables"] for row in table["rows"]):
            assert row["low"] <= row["mean"] + 1e-9
            assert row["mean"] <= row["high"] + 1e-9
            assert row["n"] == 2
    text = (out / "report.md").read_text()
    assert all(f"\n## {name}\n" in text for name in names)
    assert all(word in text for word in ("**not met**", hashes["stage1"], hashes["vae"], "A small sample"))
    before = (out / "report.json").read_bytes()
    said = run("report", *TINY_OPTIONS, *extras, "-o", out, "--check", code=1)
    assert "floors missed" in said.out
    assert (out / "report.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sections", "judge,colour"], "colour; expected some of judge"),
        (["--models", "/nowhere"], "There is no folder"),
        (["--clips", 1], "at least 2"),
        (["--size", "48x48", "--low-size", "32x32"], "whole multiple"),
        (["--size", "33x32"], "multiples of 16"),
        (["--nfe-values", "1,x"], "'1,x'"),
        (["--extra", "other"], "NAME=PATH"),
        (["--extra", "other=/nowhere.safetensors"], "There is no /nowhere"),
        (["--extra", f"other={TINY / '3d-vae.pt'}"], "no transformer"),
        (["--extra", f"other={TINY / 'stage2.pt'},noise_step=1000"], "noise step 1000"),
        (["--extra", f"other={TINY / 'stage2.pt'},base={TINY / 'stage2.pt'}"], "is no LoRA"),
    ],
)
def test_bad_input_is_told_before_any_work(run, tmp_path, options, message):
    said = run("report", *TINY_OPTIONS, *options, "-o", tmp_path / "out", code=2)
    assert message in said.err
    assert not (tmp_path / "out").exists()


def test_models_are_needed_only_where_they_are_used(run, tmp_path):
    said = run("report", "--sections", "nfe", "-o", tmp_path / "out", code=2)
    assert "stage2" in said.err
    small = ["--clips", 2, "--frames", 5, "--low-size", "32x48", "--size", "64x96"]
    run("report", *small, "--sections", "judge", "-o", tmp_path / "out")


def test_extra_lora_goes_onto_its_base(tmp_path):
    from flashvideo.checkpoints.lora import save_lora
    from flashvideo.checkpoints.source import open_transformer

    base = TINY / "stage2.pt"
    source = open_transformer(base)
    rows, columns = source.shape("layers.0.attn_out.weight")
    pairs = {"layers.0.attn_out": (torch.ones(2, columns), torch.ones(rows, 2))}
    lora = save_lora(pairs, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match="Name the transformer"):
        parse_extra(f"lora={lora}")
    extra = parse_extra(f"lora={lora},base={base}")
    assert (extra.stage, extra.base) == ("stage2", base)
    merged, plain = (one.load(None, torch.device("cpu")) for one in (extra, parse_extra(f"plain={base}")))
    changed = merged.layers[0].attn_out.weight.float() - plain.layers[0].attn_out.weight.float()
    torch.testing.assert_close(changed, torch.full_like(changed, 2.0), atol=2e-2, rtol=0)
    names = extra.hashes()["extra lora"]
    assert names.file == "stage2.pt + lora.safetensors"
    assert len(names.sha256) == 2 * 64 + 3
