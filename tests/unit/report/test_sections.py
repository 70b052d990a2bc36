"""The report's sections, with oracles in the models' place."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean

import pytest
import torch

from flashvideo.report import Extra, NetworkSize, Weights, check_floors, floors_of, run_report
from flashvideo.report.bench import MORE, ONE, held_out_scenes, true_clips
from flashvideo.report.cost import evaluation_flops
from flashvideo.report.fidelity import PROMPT, PROMPT_ATTRIBUTES
from flashvideo.report.refinement import SCORES, scores_of
from tests.unit.report.oracle import SETTINGS, USUAL, WEIGHTS, Oracle, value


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    with one_thread():
        yield


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
    assert value(refined, "refined", "PSNR").mean > value(refined, "VAE round trip", "PSNR").mean > 30
    gain = value(refined, "refined - Lanczos", "spectrum error")
    assert gain.mean == pytest.approx(-value(refined, "Lanczos", "spectrum error").mean)
    assert gain.high < 0
    for name in ("refined", "bilinear", "Lanczos", "VAE round trip"):
        for index in SCORES:
            row = value(refined, name, index)
            assert row.n == SETTINGS.clips
            assert row.low <= row.mean <= row.high
    for enlarged in ("bilinear", "Lanczos"):  # nothing of the source is lost, nothing is added
        assert value(refined, "refined", "sharpness").mean > 5 * value(refined, enlarged, "sharpness").mean
        assert value(refined, enlarged, "likeness").mean > value(refined, "refined", "likeness").mean > 30


def test_clips_that_are_too_small_have_no_scores():
    assert scores_of(torch.rand(3, 5, 64, 64), torch.rand(3, 5, 16, 16)) == {}
    assert scores_of(torch.rand(3, 5, 64, 64), torch.rand(3, 5, 32, 32)).keys() == SCORES.keys()


def test_matched_colours_are_shown_beside_those_of_stage2(bench):
    oracle = Oracle(tint=0.05)
    settings = replace(SETTINGS, stage2=replace(SETTINGS.stage2, match_colors=1.0))
    refined = run_report(replace(bench(oracle), settings=settings), WEIGHTS, sections=["refinement"])["refinement"]
    before = value(refined, "refined, colours not matched", "low-passed PSNR")
    assert before.mean < 30
    assert value(refined, "refined", "low-passed PSNR").mean > before.mean + 10
    assert oracle.calls["refine"] == 2, "one batch, refined once for both, and the page's clips"


def test_guidance_is_compared_at_its_evaluations(bench):
    settings = replace(SETTINGS, stage2=replace(SETTINGS.stage2, num_steps=4))
    result = run_report(replace(bench(Oracle()), settings=settings), WEIGHTS, sections=["guidance"])["guidance"]
    first, second = (
        {row.name: row.mean for row in table.rows if row.measure == "evaluations"} for table in result.tables
    )
    assert second == {
        **{"guidance in every step": 8, "in one of 2 steps": 6, "in one of 4 steps": 5},
        **{"3 steps instead of 4": 6, "2 steps instead of 4": 4, "no guidance": 4},
    }
    assert (first["guidance in every step"], first["no guidance"]) == (4, 2)  # of two steps
    for table, measure in zip(result.tables, (PROMPT, "PSNR"), strict=True):
        assert {row.name for row in table.rows if row.measure == measure} == {row.name for row in table.rows}


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
        shuffled, chance = (value(result, f"{group}, {name}", "all") for name in ("captions of other clips", "chance"))
        assert shuffled == replace(chance, name=shuffled.name)
        assert shuffled.mean < 0.6


def test_ablations_and_other_weights(bench):
    oracle, wrong = Oracle(), Oracle(swap=True)
    extras = (
        Extra("swapped", "stage2", wrong, noise_step=0),
        Extra("large", "stage2", wrong, only="sizes"),
        Extra("lora", "stage1", wrong),
    )
    weights = {**WEIGHTS, **{f"extra {extra.name}": Weights(extra.name, "1") for extra in extras}}
    names = ("nfe", "noise_step", "training", "sizes", "adaptation")
    results = run_report(bench(oracle, extras=extras), weights, sections=names)
    assert [row.name for row in results["nfe"].tables[0].rows if row.measure == "PSNR"] == ["NFE 1", "NFE 2"]
    assert value(results["noise_step"], "noise step 300", "texture").mean == 1
    (second,), (first,) = (results[name].tables for name in ("training", "adaptation"))
    assert {row.name for row in second.rows} == {"the models", "swapped"}
    assert first.title == f"Stage I at 160x96, NFE {SETTINGS.stage1.num_steps}"
    assert second.row("the models", "PSNR").mean == 100 > second.row("swapped", "PSNR").mean
    assert first.row("the models", PROMPT).mean == 1 > first.row("lora", PROMPT).mean
    sizes = results["sizes"].tables[0]
    assert sizes.title == "Stage II at 640x384, 5 frames"
    assert {row.name for row in sizes.rows} == {"bilinear", "Lanczos", "the models", "swapped", "large"}


def test_shorter_clips_are_the_middle_of_whole_ones():
    scene = held_out_scenes(ONE, 1, USUAL)[0]
    for whole, part in zip(true_clips(scene, USUAL), true_clips(scene, USUAL, frames=5), strict=True):
        assert part.shape[1] == 5
        torch.testing.assert_close(part, whole[:, 6:11], atol=1e-5, rtol=0)


def test_ablations_take_short_clips_but_for_the_noise_step(bench):
    settings = replace(SETTINGS, stage1=replace(SETTINGS.stage1, num_frames=9))
    results = run_report(replace(bench(Oracle()), settings=settings), WEIGHTS, sections=("nfe", "noise_step", "sizes"))
    titles = [results[name].tables[0].title for name in ("nfe", "noise_step", "sizes")]
    assert titles == ["Stage II by NFE, 5 frames", "Stage II by noise step, 9 frames", "Stage II at 640x384, 5 frames"]


@pytest.mark.parametrize("section", ["training", "adaptation"])
def test_without_other_weights_it_says_so(bench, section):
    result = run_report(bench(Oracle()), WEIGHTS, sections=[section])[section]
    assert not result.tables
    assert "--extra" in result.notes[0]


def test_cost_of_both_ways(bench):
    extras = (Extra("single", "stage1", Oracle(swap=True)),)
    weights = {**WEIGHTS, "extra single": Weights("a", "1")}
    result = run_report(bench(Oracle(), extras=extras), weights, sections=["cost"])["cost"]
    names = list(dict.fromkeys(row.name for row in result.tables[0].rows))
    assert [name.partition(" (")[0] for name in names] == [
        "two stages",
        *(f"one stage, {what}" for what in ("equal FLOPs", "equal time")),
    ]
    small, large = (evaluation_flops(Oracle().network("stage1"), 5, *size) for size in ((48, 80), (192, 320)))
    both = 2 * 2 * small + 2 * 4 * large
    assert value(result, "two stages", "GFLOP a clip").mean == pytest.approx(both / 1e9)
    assert f"({round(both / (2 * large))} steps)" in names[1]
    assert value(result, "two stages", PROMPT).mean == 1 > value(result, names[1], PROMPT).mean
    assert value(result, "two stages", "seconds a clip").n == SETTINGS.ablation_clips


def test_cost_of_two_stages_trained_as_briefly(bench):
    wrong, single = Oracle(swap=True), Extra("single", "stage1", Oracle())
    brief = tuple(Extra(f"brief {stage}", stage, wrong, only="cost") for stage in ("stage1", "stage2"))
    weights = {**WEIGHTS, **{f"extra {extra.name}": Weights(extra.name, "1") for extra in (single, *brief)}}
    result = run_report(bench(Oracle(), extras=(single, *brief)), weights, sections=["cost"])["cost"]
    ours, theirs = (value(result, name, PROMPT).mean for name in ("two stages", "two stages, trained as briefly"))
    assert ours == 1 > theirs
    with pytest.raises(ValueError, match=r"brief stage1 \(stage1\); expected one of each stage"):
        run_report(bench(Oracle(), extras=brief[:1]), weights, sections=["judge"])


def test_flops_formula():
    tokens, width = 10 + 2 * 3 * 5, 8
    flops = evaluation_flops(NetworkSize(layers=3, width=width, text_length=10), 5, 48, 80)
    assert flops == 3 * (4 * tokens**2 * width + 24 * tokens * width**2)
