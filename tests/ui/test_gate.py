"""The Preview Gate's buttons, pressed with a real mouse and keyboard, in both renderings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.ui.editor import Editor

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
_FIND = "(type) => app.rootGraph._nodes.find((node) => node.type === type).id"
_SET = """([type, name, value]) => {
  const node = app.rootGraph._nodes.find((node) => node.type === type);
  const widget = node.widgets.find((w) => w.name === name);
  const before = widget.value;
  if (value !== null) widget.value = value;
  return before;
}"""
_CONTROL = """(mode) => {
  const node = app.rootGraph._nodes.find((node) => node.type === 'FlashVideoStage1Sampler');
  node.widgets.find((w) => w.name === 'seed').linkedWidgets[0].value = mode;
}"""
_VIDEOS = "() => [...document.querySelectorAll('.flashvideo-gate video')].map((v) => [v.currentTime, v.videoWidth])"
STAGE1, GATE = "FlashVideoStage1Sampler", "FlashVideoPreviewGate"


class Bench:
    """The tiny demo, made smaller still, with the gate in the middle of the view."""

    def __init__(self, page: Editor) -> None:
        self.page, self.server = page, page.server
        page.load(FOLDER / "tiny-demo.json")
        for kind in ("FlashVideoEmptyLatent", "FlashVideoUpscaleEncode"):
            for name, value in {"width": 64, "height": 48}.items():
                self.widget(kind, name, value)
        self.widget("FlashVideoEmptyLatent", "length", 5)
        self.widget(STAGE1, "steps", 2)
        self.gate = str(page.page.evaluate(_FIND, GATE))
        self.sampler = str(page.page.evaluate(_FIND, STAGE1))
        self.show()

    def show(self) -> None:
        self.page.show(int(self.page.page.evaluate(_FIND, GATE)), 1.2)

    def widget(self, kind: str, name: str, value: Any = None) -> Any:
        """Set a widget, or read it; gives what it was."""
        return self.page.page.evaluate(_SET, [kind, name, value])

    def make(self) -> None:
        """Run the gate alone, as a partial run."""
        self.page.queue([self.gate])
        self.page.page.wait_for_selector(".flashvideo-gate .refine")
        self.show()

    def press(self, number: int) -> None:
        """A real mouse click on a Refine button, then wait for the run."""
        self.page.page.locator(".flashvideo-gate .refine").nth(number - 1).click()
        self.page.page.wait_for_timeout(500)
        self.page.wait_idle()

    def cards(self) -> int:
        return int(self.page.page.locator(".flashvideo-gate .refine").count())

    def status(self) -> str:
        return str(self.page.page.inner_text(".flashvideo-gate .status"))

    def saved(self) -> list[Path]:
        return sorted((self.server.base / "output").rglob("*.mp4"))

    def last(self) -> dict[str, Any]:
        """The last run: its prompt, and what its gate showed."""
        entries = self.server.get("/history").values()
        return dict(max(entries, key=lambda entry: entry["prompt"][0]))

    def shown(self) -> dict[str, Any]:
        return dict(self.last()["outputs"][self.gate]["flashvideo_gate"][0])


@pytest.fixture(scope="module")
def bench(rendered: Editor) -> Bench:
    rendered.server.post("/flashvideo/previews/empty", {})
    return Bench(rendered)


@pytest.mark.usefixtures("screenshot")
def test_run_shows_playing_previews_and_stops(bench: Bench) -> None:
    before = bench.saved()
    bench.page.page.get_by_role("button", name="Run", exact=True).first.click()
    bench.page.page.wait_for_timeout(500)
    bench.page.wait_idle()
    bench.show()
    assert bench.cards() == 2
    assert bench.saved() == before, "nothing goes on before Refine is pressed"
    first = bench.page.page.evaluate(_VIDEOS)
    bench.page.page.wait_for_timeout(350)
    assert [width for _, width in first] == [64, 64]
    assert first != bench.page.page.evaluate(_VIDEOS), "the previews play"


@pytest.mark.usefixtures("screenshot")
def test_a_click_refines_that_one_with_the_seed_it_had(bench: Bench) -> None:
    seed = bench.widget(STAGE1, "seed")
    bench.page.page.evaluate(_CONTROL, "randomize")
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
    assert bench.status().startswith("Preview 2 went on.")
    assert "edited" not in bench.status(), "nobody edited the seed: it changes by itself"
    bench.page.page.evaluate(_CONTROL, "fixed")
    bench.widget(STAGE1, "seed", seed)


@pytest.mark.usefixtures("screenshot")
def test_an_edit_since_is_said_and_not_used(bench: Bench) -> None:
    bench.make()
    steps = bench.widget(STAGE1, "steps", 3)
    bench.widget("FlashVideoStage2Refiner", "cfg", 7)
    bench.press(1)
    inputs = bench.last()["prompt"][2]
    assert inputs[bench.sampler]["inputs"]["steps"] == steps
    assert 7 in [node["inputs"].get("cfg") for node in inputs.values()], "after the gate, the graph is as it is now"
    assert "edited since" in bench.status()
    assert "steps" in bench.status()
    bench.widget(STAGE1, "steps", steps)


@pytest.mark.usefixtures("screenshot")
def test_the_keyboard_does_it_too(bench: Bench) -> None:
    bench.make()
    before = len(bench.saved())
    wanted = bench.shown()["previews"][1]["hash"]
    bench.page.page.locator(".flashvideo-gate .refine").first.focus()
    bench.page.page.keyboard.press("ArrowRight")
    bench.page.page.keyboard.press("Enter")
    bench.page.page.wait_for_timeout(500)
    bench.page.wait_idle()
    assert bench.shown()["approved"] == wanted
    assert len(bench.saved()) >= before


@pytest.mark.usefixtures("screenshot")
def test_save_reload_and_restart_bring_them_back(bench: Bench) -> None:
    bench.make()
    saved = bench.page.serialized()
    runs = len(bench.server.get("/history"))
    bench.page.load_data(saved, "again.json")
    bench.page.page.wait_for_selector(".flashvideo-gate .refine")
    assert bench.cards() == 2
    assert len(bench.server.get("/history")) == runs, "nothing was queued"
    bench.server.restart()
    bench.page.reopen()
    bench.page.load_data(saved, "after-restart.json")
    bench.page.page.wait_for_selector(".flashvideo-gate video")
    bench.show()
    assert bench.cards() == 2
    assert not bench.server.get("/history")
    before = len(bench.saved())
    bench.press(2)
    assert len(bench.saved()) == before + 1
    messages = dict(bench.last()["status"]["messages"])
    assert bench.sampler not in messages["execution_cached"]["nodes"], "Stage I was not there"
    assert bench.sampler not in bench.last()["outputs"]


@pytest.mark.usefixtures("screenshot")
def test_the_store_can_be_emptied(bench: Bench) -> None:
    bench.make()
    button = bench.page.page.locator(".flashvideo-gate .empty")
    button.click()
    assert bench.cards() == 2, "one press only asks"
    assert "again" in button.inner_text()
    button.click()
    bench.page.page.wait_for_timeout(500)
    assert bench.cards() == 0
    assert bench.server.get("/flashvideo/previews")["bytes"] == 0
    assert "0.0 MB" in bench.page.page.inner_text(".flashvideo-gate .size")


def test_no_complaints(bench: Bench) -> None:
    assert [problem for problem in bench.page.problems if "WebSocket" not in problem] == []
