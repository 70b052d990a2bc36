"""Every workflow that comes with the pack, in the real editor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ui.editor import Editor

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
_UNTIDY = """() => {
  const TITLE = 30;
  const boxes = app.rootGraph.nodes.map((node) => {
    const [[x, y], [w, h]] = [node.pos, node.size];
    return { type: node.type, left: x, top: y - TITLE, right: x + w, bottom: y + h };
  });
  const overlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  const holds = ({ pos: [x, y], size: [w, h] }, box) =>
    box.left >= x && box.top >= y && box.right <= x + w && box.bottom <= y + h;
  return boxes.flatMap((box, k) => [
    ...boxes.slice(k + 1).filter((other) => overlap(box, other)).map((other) => `${box.type} lies over ${other.type}`),
    ...(app.rootGraph.groups.filter((group) => holds(group, box)).length === 1 ? [] : [`${box.type} is in no group`]),
  ]);
}"""
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_loads_is_its_api_twin_and_saves_unchanged(rendered: Editor, name: str) -> None:
    rendered.problems.clear()
    file = rendered.load(FOLDER / f"{name}.json")
    assert rendered.found_wrong(file) == []
    twin = json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
    prompt = rendered.prompt()
    for node in prompt.values():
        node["inputs"].pop("video-preview", None)  # core's player on Load Video: no input of the node
    assert prompt == twin
    saved = {node["id"]: node.get("widgets_values") for node in rendered.serialized()["nodes"]}
    for node in file["nodes"]:
        assert saved[node["id"]] == node.get("widgets_values"), node["type"]


@pytest.mark.usefixtures("screenshot")
@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_is_tidy(rendered: Editor, name: str) -> None:
    """No node lies over another, each is in one group, also when previews of input files have appeared."""
    rendered.load(FOLDER / f"{name}.json")
    rendered.page.wait_for_timeout(1000)
    assert rendered.page.evaluate(_UNTIDY) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_is_complete(name: str) -> None:
    """What the templates browser and a reader need."""
    file = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    kinds = [node["type"] for node in file["nodes"]]
    assert (FOLDER / f"{name}.jpg").is_file(), "every workflow has a thumbnail"
    assert (FOLDER / "api" / f"{name}.json").is_file()
    assert len(file["groups"]) >= 5
    assert kinds.count("MarkdownNote") >= 4


def test_the_templates_browser_lists_them_all(page: Editor) -> None:
    listed = page.server.get("/api/workflow_templates")["ComfyUI-FlashVideo"]
    assert sorted(listed) == NAMES
    assert page.server.request(f"/api/workflow_templates/ComfyUI-FlashVideo/{NAMES[0]}.jpg")[:2] == b"\xff\xd8"
