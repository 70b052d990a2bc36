"""Two gates whose latents meet in one output: a choice in each, then it is finished."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ui.editor import Editor
from tests.ui.gate_bench import GATE, STAGE1
from tests.ui.small import api_workflow

_SECOND = """(id) => {
  const widget = app.rootGraph.getNodeById(id).widgets.find(({ name }) => name === 'previews');
  return widget.element.querySelectorAll('.refine')[1];
}"""


def joined() -> tuple[dict[str, Any], list[str]]:
    """The tiny demo's first stage twice, with another seed; core adds the latents and saves them."""
    demo = api_workflow("tiny-demo")
    kinds = {node["class_type"]: name for name, node in demo.items()}
    gate, sampler = kinds[GATE], kinds[STAGE1]
    kept, left = {gate: demo[gate]}, [gate]
    while left:
        for value in kept[left.pop()]["inputs"].values():
            if isinstance(value, list) and value[0] not in kept:
                kept[value[0]] = demo[value[0]]
                left.append(value[0])
    for node in kept.values():
        if node["class_type"] == "FlashVideoEmptyLatent":
            node["inputs"] |= {"size": "custom", "width": 64, "height": 48, "length": 5}
    kept[sampler]["inputs"] |= {"steps": 2, "seed": 31}
    kept["101"] = {**kept[sampler], "inputs": {**kept[sampler]["inputs"], "seed": 61}}
    kept["102"] = {**kept[gate], "inputs": {**kept[gate]["inputs"], "latent": ["101", 0]}}
    kept["103"] = {"class_type": "LatentAdd", "inputs": {"samples1": [gate, 0], "samples2": ["102", 0]}}
    kept["104"] = {"class_type": "SaveLatent", "inputs": {"samples": ["103", 0], "filename_prefix": "joined"}}
    return kept, [gate, "102"]


@pytest.mark.usefixtures("screenshot")
def test_two_gates_in_one_output(rendered: Editor) -> None:
    workflow, gates = joined()
    rendered.server.post("/flashvideo/previews/empty", {})
    rendered.load_data(workflow, "joined.json")
    rendered.queue(gates)
    rendered.until(rendered.page.locator(".flashvideo-gate .refine").count, 4)

    def press(gate: str) -> None:
        rendered.show(int(gate))
        rendered.page.evaluate_handle(_SECOND, gate).as_element().focus()  # the nodes may lie over each other
        rendered.page.keyboard.press("Enter")

    def files() -> int:
        return len(list((rendered.server.base / "output").glob("joined*.latent")))

    before, runs = files(), len(rendered.server.get("/history"))
    press(gates[0])
    rendered.page.get_by_text("needs a choice in FlashVideo Preview Gate too").wait_for()
    assert len(rendered.server.get("/history")) == runs, "nothing is run in vain"
    press(gates[1])
    rendered.wait_started(runs)
    assert files() == before + 1
    last = max(rendered.server.get("/history").values(), key=lambda run: run["prompt"][0])
    for gate in gates:
        shown = last["outputs"][gate]["flashvideo_gate"][0]
        assert shown["approved"] == shown["previews"][1]["hash"]


def test_no_complaints(rendered: Editor) -> None:
    assert rendered.problems == []
