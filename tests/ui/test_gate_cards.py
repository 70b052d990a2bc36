"""What the gate's cards say and do: seeds, edits since, what became of refinements, earlier batches, players."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.ui.editor import Editor
from tests.ui.gate_bench import STAGE1, GateBench

_VIDEOS = ".flashvideo-gate .card video"
_TIMES = "(videos) => videos.map((video) => [video.paused, Math.round(100 * video.currentTime)])"
_STAGE2 = "FlashVideoLoadStage2"
_CUT_OFF = """() => ['.flashvideo-gate', '.flashvideo-gate .cards'].map((part) => document.querySelector(part))
  .map((part) => part.scrollHeight - part.clientHeight)"""


@pytest.fixture(scope="module")
def module_bench(rendered: Editor) -> GateBench:
    rendered.server.post("/flashvideo/previews/empty", {})
    bench = GateBench(rendered)
    assert rendered.page.evaluate(_CUT_OFF) == [0, 0], "before the first run"
    return bench


@pytest.fixture
def bench(module_bench: GateBench) -> GateBench:
    module_bench.make()
    return module_bench


def texts(bench: GateBench, part: str) -> list[str]:
    return [str(text) for text in bench.page.page.locator(f".flashvideo-gate {part}").all_inner_texts()]


def marked_old(bench: GateBench) -> bool:
    return bool(bench.page.page.locator(".flashvideo-gate .cards.old").count())


def test_a_card_shows_its_seed(bench: GateBench) -> None:
    seed = int(bench.widget(STAGE1, "seed"))
    assert texts(bench, ".seed") == [f"seed {seed}", f"seed {seed + 1}"]


@pytest.mark.usefixtures("screenshot")
def test_several_are_refined_at_once_and_say_so(bench: GateBench) -> None:
    page, files, runs = bench.page.page, len(bench.saved()), bench.runs()
    wanted = {preview["hash"] for preview in bench.shown()["previews"]}
    many = page.locator(".flashvideo-gate .many")
    assert not many.is_visible()
    for pick in page.locator(".flashvideo-gate .pick").all():
        pick.focus()
        page.keyboard.press("Space")
    many.click()
    bench.page.until(bench.runs, runs + 2)
    bench.page.wait_idle()
    assert len(bench.saved()) == files + 2
    bench.page.until(lambda: [job[:5] for job in texts(bench, ".job")], ["Done:"] * 2)
    runs_now = list(bench.server.get("/history").values())[-2:]
    assert {run["prompt"][2][bench.gate]["inputs"]["approve"] for run in runs_now} == wanted
    for link in page.locator(".flashvideo-gate .job a").all():
        assert bench.server.request(str(link.get_attribute("href")))[4:8] == b"ftyp"
    assert not many.is_visible(), "nothing is chosen any more"


@pytest.mark.usefixtures("screenshot")
def test_a_refinement_that_is_refused_or_fails_says_why(bench: GateBench) -> None:
    """Refused: by the server's checks before it runs. Failed: by a node."""
    failed = bench.page.page.locator(".flashvideo-gate .job.failed")
    for kind, name, wrong, why in (
        (_STAGE2, "model_name", "gone.safetensors", "There is no 'gone.safetensors'"),
        ("SaveVideo", "filename_prefix", "../../outside", "SaveVideo"),
    ):
        before = bench.widget(kind, name, wrong)
        bench.page.page.locator(".flashvideo-gate .refine").first.click()
        failed.filter(has_text=why).wait_for()
        bench.page.wait_idle()
        if kind == _STAGE2:
            bench.expect_status(why)
            steps = bench.widget(STAGE1, "steps", 3)
            bench.page.capture()
            bench.page.until(lambda: marked_old(bench), True)
            bench.page.until(lambda: bench.page.page.evaluate(_CUT_OFF), [0, 0])
            bench.widget(STAGE1, "steps", steps)
        bench.widget(kind, name, before)
    bench.press(1)
    bench.page.until(lambda: texts(bench, ".job")[0][:5], "Done:")
    bench.expect_status("Preview 1 went on.")


@pytest.mark.usefixtures("screenshot")
def test_edits_since_are_marked_at_once_and_not_when_undone(bench: GateBench) -> None:
    assert not marked_old(bench)
    steps = bench.widget(STAGE1, "steps", 3)
    bench.page.capture()
    bench.page.until(lambda: marked_old(bench), True)
    assert "Stage I Sampler: steps" in texts(bench, ".changed")[0]
    assert texts(bench, ".mark") == ["earlier settings"] * 2
    bench.widget(STAGE1, "steps", steps)
    bench.page.capture()
    bench.page.until(lambda: marked_old(bench), False)
    bench.widget("FlashVideoStage2Refiner", "cfg", 6)  # what comes after the gate is no edit of what it shows
    bench.page.capture()
    bench.page.page.wait_for_timeout(600)
    assert not marked_old(bench)


@pytest.mark.usefixtures("screenshot")
def test_earlier_batches_are_within_reach(bench: GateBench) -> None:
    seed = bench.widget(STAGE1, "seed")
    old = bench.shown()["previews"][0]["hash"]
    bench.widget(STAGE1, "seed", 21)
    bench.make()
    assert texts(bench, ".seed") == ["seed 21", "seed 22"]
    bench.page.page.locator(".flashvideo-gate .earlier").click()
    bench.page.until(lambda: texts(bench, ".seed"), [f"seed {seed}", f"seed {seed + 1}"])
    bench.page.until(lambda: marked_old(bench), True)
    bench.press(1)
    assert bench.shown()["approved"] == old
    bench.page.page.locator(".flashvideo-gate .later").click()
    bench.page.until(lambda: texts(bench, ".seed"), ["seed 21", "seed 22"])
    bench.widget(STAGE1, "seed", seed)


def times(bench: GateBench) -> list[Any]:
    return list(bench.page.page.locator(_VIDEOS).evaluate_all(_TIMES))


@pytest.mark.usefixtures("screenshot")
def test_previews_pause_and_are_searched_in_step(bench: GateBench) -> None:
    page = bench.page.page
    page.locator(".flashvideo-gate .pause").click()
    bench.page.until(lambda: [paused for paused, _ in times(bench)], [True, True])
    assert len({time for _, time in times(bench)}) == 1
    slider = page.locator(".flashvideo-gate input[type=range]")
    slider.fill("0.5")
    length = page.locator(_VIDEOS).first.evaluate("(video) => video.duration")
    bench.page.until(lambda: [abs(time - 50 * length) < 2 for _, time in times(bench)], [True, True])
    before = times(bench)
    slider.press("ArrowRight")
    bench.page.until(lambda: len({time for _, time in times(bench)}) == 1 and times(bench) > before, True)
    page.locator(".flashvideo-gate .pause").click()
    bench.page.until(lambda: [paused for paused, _ in times(bench)], [False, False])


@pytest.mark.usefixtures("screenshot")
def test_a_preview_is_enlarged_and_refined_from_there_by_keys(bench: GateBench) -> None:
    page, nodes = bench.page.page, len(bench.page.serialized()["nodes"])
    wanted = bench.shown()["previews"][1]["hash"]
    page.locator(".flashvideo-gate .enlarge").first.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    assert "Preview 1: seed" in dialog.inner_text()
    page.keyboard.press("Delete")  # the selected node stays
    page.keyboard.press("ArrowRight")
    dialog.get_by_text("Preview 2: seed").wait_for()
    box = dialog.locator("video").bounding_box()
    assert box is not None
    assert box["height"] > 500
    runs = bench.runs()
    page.keyboard.press("Enter")  # the focus is on Refine
    bench.page.wait_started(runs)
    assert bench.shown()["approved"] == wanted
    assert page.get_by_role("dialog").count() == 0
    page.locator(".flashvideo-gate .enlarge").first.click()
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert len(bench.page.serialized()["nodes"]) == nodes


def panels(bench: GateBench) -> list[Callable[[], object]]:
    """What opens and closes panels beside the graph and in the node."""
    page = bench.page.page
    advanced = page.locator(f"[data-node-id='{bench.gate}']").get_by_text("advanced inputs")
    opened: list[Callable[[], object]] = [lambda: page.get_by_role("button", name="Toggle properties panel").click()]
    opened += [lambda: bench.page.command("Workspace.ToggleSidebarTab.node-library")]
    return opened + ([advanced.click] if bench.page.vue_nodes else [])


@pytest.mark.usefixtures("screenshot")
def test_the_grid_keeps_its_width_when_panels_open(bench: GateBench) -> None:
    cards = bench.page.page.locator(".flashvideo-gate .cards")
    width = "(cards) => [cards.clientWidth, getComputedStyle(cards).gridTemplateColumns]"
    before = cards.evaluate(width)
    for toggle in panels(bench):
        for _ in ("open", "closed"):
            toggle()
            bench.page.page.wait_for_timeout(500)
            assert cards.evaluate(width) == before


def test_no_complaints(rendered: Editor) -> None:
    assert rendered.problems == []
