"""Refine where the numbers of the nodes that made a preview belong to other nodes by now."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.ui.editor import Editor
from tests.ui.gate_bench import EMPTY, GATE, STAGE1, GateBench


@pytest.fixture
def bench(rendered: Editor) -> GateBench:
    rendered.server.post("/flashvideo/previews/empty", {})
    rendered.server.free()
    bench = GateBench(rendered)
    bench.make()
    return bench


def renumbered(workflow: dict[str, Any], keep: str) -> dict[str, Any]:
    """The same graph; every node but one has the number of its neighbour."""
    changed = copy.deepcopy(workflow)
    old = [str(node["id"]) for node in changed["nodes"] if str(node["id"]) != keep]
    new = {keep: int(keep), **{a: int(b) for a, b in zip(old, old[1:] + old[:1], strict=True)}}
    for node in changed["nodes"]:
        node["id"] = new[str(node["id"])]
    for link in changed["links"]:
        link[1], link[3] = new[str(link[1])], new[str(link[3])]
    return changed


def open_again(bench: GateBench, workflow: dict[str, Any]) -> None:
    bench.page.load_data(workflow, "again.json")
    bench.page.page.wait_for_selector(".flashvideo-gate video")
    bench.show()
    bench.ran()


@pytest.mark.usefixtures("screenshot")
def test_new_numbers_are_no_edit(bench: GateBench) -> None:
    wanted = bench.shown()["previews"][1]["hash"]
    open_again(bench, renumbered(bench.page.serialized(), bench.gate))
    assert bench.find(STAGE1) != bench.sampler
    assert bench.sampler in bench.page.prompt(), "its number belongs to another node"
    before = len(bench.saved())
    bench.press(2)
    assert len(bench.saved()) == before + 1
    assert bench.shown()["approved"] == wanted
    assert bench.find(STAGE1) not in bench.ran()
    bench.page.until(bench.status, "Preview 2 went on.")
    prompt = bench.last()["prompt"][2]
    assert sorted(prompt) == sorted(bench.page.prompt()), "no node twice"


_REPLACE = """([gate, sampler, empty]) => {
  const graph = app.rootGraph;
  for (const type of [sampler, empty]) graph.remove(graph.nodes.find((node) => node.type === type));
  const core = LiteGraph.createNode('EmptyHunyuanLatentVideo');
  graph.add(core);
  core.connect(0, graph.nodes.find((node) => node.type === gate), 0);
}"""


@pytest.mark.usefixtures("screenshot")
def test_what_made_the_preview_is_queued_under_free_numbers(bench: GateBench) -> None:
    """The nodes are deleted, and others have their numbers: both previews can still be refined."""
    wanted = [preview["hash"] for preview in bench.shown()["previews"]]
    bench.page.page.evaluate(_REPLACE, [GATE, STAGE1, EMPTY])
    open_again(bench, renumbered(bench.page.serialized(), bench.gate))
    now = bench.page.prompt()
    assert set(bench.state()["ancestors"]) & set(now), "some numbers are taken"
    before = len(bench.saved())
    for number in (1, 2):
        bench.press(number)
        assert len(bench.saved()) == before + number
        assert bench.shown()["approved"] == wanted[number - 1]
        prompt = bench.last()["prompt"][2]
        for name, node in now.items():
            if name != bench.gate:
                assert prompt[name] == node, "the nodes on screen are queued as they are"
        kinds = {name: prompt[name]["class_type"] for name in bench.ran()}
        assert STAGE1 not in kinds.values()
        bench.expect_status("edited since and not used: the gate's input")


@pytest.mark.usefixtures("screenshot")
def test_a_gate_pasted_into_another_workflow(bench: GateBench) -> None:
    """Copy and paste keep the previews; the copy refines without the original."""
    data = bench.page.serialized()
    wanted = bench.shown()["previews"][1]["hash"]
    gate = next(node for node in data["nodes"] if node["type"] == GATE)
    gate["id"] = 99
    for link in data["links"]:
        link[1], link[3] = (99 if str(end) == bench.gate else end for end in (link[1], link[3]))
    data["last_node_id"] = 99
    open_again(bench, data)
    bench.press(2)
    assert bench.shown("99")["approved"] == wanted
    assert bench.sampler not in bench.ran()


def test_no_complaints(rendered: Editor) -> None:
    assert rendered.problems == []
