"""The Preview Gate's buttons, pressed with a real mouse and keyboard, in both renderings."""

from __future__ import annotations

import pytest

from tests.ui.editor import Editor
from tests.ui.gate_bench import STAGE1, GateBench

_VIDEOS = "() => [...document.querySelectorAll('.flashvideo-gate video')].map((v) => [v.currentTime, v.videoWidth])"


@pytest.fixture(scope="module")
def bench(rendered: Editor) -> GateBench:
    rendered.server.post("/flashvideo/previews/empty", {})
    return GateBench(rendered)


@pytest.mark.usefixtures("screenshot")
def test_run_shows_playing_previews_and_stops(bench: GateBench) -> None:
    before, runs = bench.saved(), bench.runs()
    bench.page.page.get_by_role("button", name="Run", exact=True).first.click()
    bench.page.wait_started(runs)
    bench.show()
    bench.expect_cards(2)
    assert bench.saved() == before, "nothing goes on before Refine is pressed"
    bench.page.until(lambda: [width for _, width in bench.page.page.evaluate(_VIDEOS)], [64, 64])
    first = bench.page.page.evaluate(_VIDEOS)
    bench.page.until(lambda: bench.page.page.evaluate(_VIDEOS) != first, True)  # the previews play


@pytest.mark.usefixtures("screenshot")
def test_a_click_refines_that_one_with_the_seed_it_had(bench: GateBench) -> None:
    seed = bench.widget(STAGE1, "seed")
    bench.seed_control("randomize")
    bench.page.queue()
    bench.show()
    assert bench.widget(STAGE1, "seed") != seed, "the editor has moved on to another seed"
    before, wanted = len(bench.saved()), bench.shown()["previews"][1]["hash"]
    bench.press(2)
    assert len(bench.saved()) == before + 1
    assert bench.shown()["approved"] == wanted
    assert bench.last()["prompt"][2][bench.sampler]["inputs"]["seed"] == seed
    written = bench.last()["prompt"][3]["extra_pnginfo"]["workflow"]["nodes"]
    assert next(n for n in written if str(n["id"]) == bench.sampler)["widgets_values"][0] == seed
    assert bench.widget(STAGE1, "seed") != seed, "the graph on screen is left alone"
    bench.expect_status("Preview 2 went on.")
    assert "edited" not in bench.status(), "nobody edited the seed: it changes by itself"
    bench.seed_control("fixed")
    bench.widget(STAGE1, "seed", seed)


@pytest.mark.usefixtures("screenshot")
def test_an_edit_since_is_said_and_not_used(bench: GateBench) -> None:
    bench.make()
    steps = bench.widget(STAGE1, "steps", 3)
    bench.widget("FlashVideoStage2Refiner", "cfg", 7)
    bench.press(1)
    inputs = bench.last()["prompt"][2]
    assert inputs[bench.sampler]["inputs"]["steps"] == steps
    assert 7 in [node["inputs"].get("cfg") for node in inputs.values()], "after the gate, the graph is as it is now"
    bench.expect_status("edited since")
    bench.expect_status("steps")
    bench.widget(STAGE1, "steps", steps)


@pytest.mark.usefixtures("screenshot")
def test_the_keyboard_does_it_too(bench: GateBench) -> None:
    bench.make()
    before, runs = len(bench.saved()), bench.runs()
    wanted = bench.shown()["previews"][1]["hash"]
    bench.page.page.locator(".flashvideo-gate .refine").first.focus()
    bench.page.page.keyboard.press("ArrowRight")
    bench.page.page.keyboard.press("Enter")
    bench.page.wait_started(runs)
    assert bench.shown()["approved"] == wanted
    assert len(bench.saved()) >= before


@pytest.mark.usefixtures("screenshot")
def test_save_reload_and_restart_bring_them_back(bench: GateBench) -> None:
    bench.make()
    saved = bench.page.serialized()
    runs = len(bench.server.get("/history"))
    bench.page.load_data(saved, "again.json")
    bench.page.page.wait_for_selector(".flashvideo-gate .refine")
    bench.expect_cards(2)
    assert len(bench.server.get("/history")) == runs, "nothing was queued"
    bench.server.restart()
    bench.page.reopen()
    bench.page.load_data(saved, "after-restart.json")
    bench.page.page.wait_for_selector(".flashvideo-gate video")
    bench.show()
    bench.expect_cards(2)
    assert not bench.server.get("/history")
    bench.watch()
    before = len(bench.saved())
    bench.press(2)
    assert len(bench.saved()) == before + 1
    messages = dict(bench.last()["status"]["messages"])
    assert bench.sampler not in messages["execution_cached"]["nodes"], "Stage I was not there"
    ran = bench.ran()
    assert bench.sampler not in ran, "and did not run"
    assert bench.gate in ran


def test_no_complaints(bench: GateBench) -> None:
    assert [problem for problem in bench.page.problems if "WebSocket" not in problem] == []
