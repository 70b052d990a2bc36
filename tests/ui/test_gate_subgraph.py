"""The Preview Gate inside a subgraph, where nodes have paths for ids, in both renderings."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ui.editor import Editor
from tests.ui.gate_bench import EMPTY, GATE, STAGE1, GateBench


@pytest.fixture
def bench(rendered: Editor) -> GateBench:
    rendered.server.post("/flashvideo/previews/empty", {})
    rendered.page.evaluate("() => app.canvas.setGraph(app.rootGraph)")  # the test before may have left it inside
    rendered.server.free()
    return GateBench(rendered)


def host_of(workflow: dict[str, Any], path: str) -> dict[str, Any]:
    """The subgraph's node in a saved workflow."""
    return dict(next(node for node in workflow["nodes"] if str(node["id"]) == path))


@pytest.mark.usefixtures("screenshot")
def test_refine_inside_a_subgraph(bench: GateBench) -> None:
    bench.seed_control("randomize")
    host = bench.to_subgraph([EMPTY, STAGE1, GATE])
    gate, sampler = (f"{host}:{node}" for node in (bench.gate, bench.sampler))
    before = bench.saved()
    bench.page.queue()
    assert sampler in bench.ran()
    assert bench.saved() == before
    seed = bench.last()["prompt"][2][sampler]["inputs"]["seed"]
    now = bench.page.prompt()[sampler]["inputs"]["seed"]
    assert now != seed, "the editor has moved on to another seed"
    bench.enter(host)
    bench.show()
    wanted = bench.shown(gate)["previews"][1]["hash"]
    bench.press(2)
    ran = bench.ran()
    assert sampler not in ran
    assert any(node.endswith("18") for node in ran), "Stage II ran"
    assert len(bench.saved()) == len(before) + 1
    assert bench.shown(gate)["approved"] == wanted
    bench.page.until(bench.status, "Preview 2 went on.")
    assert bench.last()["prompt"][2][sampler]["inputs"]["seed"] == seed
    written = bench.last()["prompt"][3]["extra_pnginfo"]["workflow"]
    assert host_of(written, host)["widgets_values"] == [seed], "the seed that the subgraph shows outside"


@pytest.mark.usefixtures("screenshot")
def test_previews_stay_when_their_nodes_move_into_a_subgraph(bench: GateBench) -> None:
    bench.make()
    wanted = bench.shown()["previews"][0]["hash"]
    host = bench.to_subgraph([STAGE1, GATE])
    bench.enter(host)
    bench.show()
    bench.expect_cards(2)
    bench.ran()
    before = len(bench.saved())
    bench.press(1)
    assert not [node for node in bench.ran() if node.endswith(bench.sampler)]
    assert len(bench.saved()) == before + 1
    assert bench.shown(f"{host}:{bench.gate}")["approved"] == wanted
    bench.page.until(bench.status, "Preview 1 went on.")  # moving nodes is no edit


@pytest.mark.usefixtures("screenshot")
def test_a_subgraph_is_saved_and_opened_again(bench: GateBench) -> None:
    host = bench.to_subgraph([EMPTY, STAGE1, GATE])
    bench.page.queue()
    bench.page.load_data(bench.page.serialized(), "again.json")
    bench.enter(host)
    bench.show()
    bench.expect_cards(2)
    bench.widget(STAGE1, "steps", 3)
    bench.press(1)
    bench.expect_status("Stage I Sampler: steps")


def test_no_complaints(rendered: Editor) -> None:
    assert rendered.problems == []
