"""What may happen between making previews and pressing Refine, in the editor."""

from __future__ import annotations

import pytest

from tests.ui.editor import Editor
from tests.ui.gate_bench import GATE, STAGE1, GateBench
from tests.ui.small import editor_file

_TITLE = """(id) => {
  const { pos: [x, y] } = app.rootGraph.getNodeById(id), { scale, offset } = app.canvas.ds;
  return [(x + 120 + offset[0]) * scale, (y - 15 + offset[1]) * scale];
}"""
_DRAFT = "(text) => Object.keys(localStorage).some((key) => localStorage.getItem(key).includes(text))"


@pytest.fixture(scope="module")
def bench(rendered: Editor) -> GateBench:
    rendered.server.post("/flashvideo/previews/empty", {})
    return GateBench(rendered)


@pytest.mark.usefixtures("screenshot")
def test_another_workflow_and_freed_memory(bench: GateBench) -> None:
    """Another tab is opened and run, memory is freed; back in the first tab, Refine goes on without Stage I."""
    bench.make()
    wanted = bench.shown()["previews"][1]["hash"]
    bench.page.load(editor_file("two-stage-text-to-video"))
    bench.make_small()
    bench.page.queue()
    bench.server.free()
    bench.page.page.evaluate("() => app.extensionManager.command.execute('Workspace.PreviousOpenedWorkflow')")
    bench.page.page.wait_for_selector(".flashvideo-gate video")
    bench.show()
    bench.expect_cards(2)
    bench.ran()
    before = len(bench.saved())
    bench.press(2)
    assert len(bench.saved()) == before + 1
    assert bench.shown()["approved"] == wanted
    ran = bench.ran()
    assert bench.gate in ran
    assert bench.sampler not in ran


@pytest.mark.usefixtures("screenshot")
def test_a_changed_prompt_makes_new_previews_and_old_approvals_void(bench: GateBench) -> None:
    bench.make()
    old = [preview["hash"] for preview in bench.shown()["previews"]]
    words = bench.widget("PrimitiveStringMultiline", "value", "A green kite over the dunes.")
    bench.make()
    assert not {preview["hash"] for preview in bench.shown()["previews"]} & set(old)
    assert bench.sampler in bench.ran()
    before = len(bench.saved())
    bench.widget(GATE, "approve", old[0])
    bench.page.queue()
    bench.show()
    assert len(bench.saved()) == before
    bench.expect_cards(2)
    bench.expect_status("not among these previews, so nothing went on")
    bench.widget(GATE, "approve", "never")
    bench.widget("PrimitiveStringMultiline", "value", words)


@pytest.mark.usefixtures("screenshot")
def test_the_nodes_own_run_button_makes_previews_only(bench: GateBench) -> None:
    """ComfyUI's partial run, by the button above a selected output node."""
    before, runs = bench.saved(), len(bench.server.get("/history"))
    bench.widget(STAGE1, "seed", 77)
    bench.page.page.mouse.click(*bench.page.page.evaluate(_TITLE, bench.gate))
    bench.page.page.locator(".selection-toolbox").get_by_role("button", name="Execute to selected").click()
    bench.page.wait_started(runs)
    assert len(bench.server.get("/history")) == runs + 1
    assert bench.last()["prompt"][2][bench.sampler]["inputs"]["seed"] == 77
    bench.expect_cards(2)
    assert bench.saved() == before


@pytest.mark.usefixtures("screenshot")
def test_the_page_is_loaded_again(bench: GateBench) -> None:
    """The editor restores its tabs by itself; the previews are there without a run."""
    bench.make()
    runs = len(bench.server.get("/history"))
    shown = bench.shown()["previews"][0]["video"]
    bench.page.page.wait_for_function(_DRAFT, arg=bench.shown()["signature"])  # the editor keeps one now and then
    bench.page.reopen()
    bench.page.page.wait_for_selector(".flashvideo-gate video", state="attached")
    bench.watch()
    bench.show()
    bench.expect_cards(2)
    assert shown in str(bench.page.page.locator(".flashvideo-gate video").first.get_attribute("src"))
    assert len(bench.server.get("/history")) == runs


def test_no_complaints(bench: GateBench) -> None:
    assert bench.page.problems == []
