"""Every workflow that comes with the pack, in the real editor."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flashvideo.loading.published import PUBLISHED
from tests.comfy.server import PACK_FOLDER
from tests.ui.editor import Editor
from tests.ui.small import api_workflow, editor_file, workflows
from tools.make_workflows import words_of
from tools.workflow_notes import INTERPOLATOR
from tools.workflow_specs import WORKFLOWS

ROOT = Path(__file__).resolve().parents[2]
_PAGES = "https://github.com/comfyui-flashvideo/ComfyUI-FlashVideo/blob/main/"
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
_NOTES = "() => app.rootGraph.nodes.filter((node) => node.type === 'MarkdownNote').map((node) => node.id)"
_NOTE = """(id) => {
  const vue = document.querySelector(`.lg-node[data-node-id="${id}"] .comfy-markdown-content`);
  const text = vue ?? app.rootGraph.getNodeById(id).widgets[0].element;
  return {
    hidden: text.scrollHeight - text.clientHeight,
    shown: text.clientHeight,
    code: text.querySelectorAll('code').length,
    links: [...text.querySelectorAll('a')].map((link) => link.href),
  };
}"""
_SMALL = """(sizes) => {
  for (const node of app.rootGraph.nodes) for (const widget of node.widgets ?? [])
    widget.value = sizes[node.type]?.[widget.name] ?? widget.value;
}"""
_SMALL_SIZES = {
    "FlashVideoEmptyLatent": {"size": "custom", "width": 112, "height": 64, "length": 5},  # nearly the shape of 270p
    "FlashVideoUpscaleEncode": {"size": "custom", "width": 112, "height": 64},
    "FlashVideoRefineVideo": {"size": "custom", "width": 96, "height": 64},
    "FlashVideoStage1Sampler": {"steps": 2},
    "FlashVideoPreviewGate": {"approve": "always"},
}
_SHOWN_PICTURE = """(title) =>
  [...document.querySelectorAll('img')].some((image) => image.alt === title && image.naturalWidth > 0)"""
NAMES = workflows()


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_loads_is_its_api_twin_and_saves_unchanged(rendered: Editor, name: str) -> None:
    rendered.problems.clear()
    file = rendered.load(editor_file(name))
    assert rendered.found_wrong(file) == []
    twin = api_workflow(name)
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
    rendered.load(editor_file(name))
    rendered.page.wait_for_timeout(1000)
    assert rendered.page.evaluate(_UNTIDY) == []


@pytest.mark.usefixtures("screenshot")
@pytest.mark.parametrize("name", ["preview-then-refine", "parameter-grid", "restore-footage"])
def test_nodes_that_grow_stay_in_their_groups(rendered: Editor, name: str) -> None:
    """Pictures while sampling, cards, players, comparisons and lines of text have come."""
    rendered.load(editor_file(name))
    rendered.page.evaluate(_SMALL, _SMALL_SIZES)
    rendered.fit()
    rendered.queue()
    rendered.page.wait_for_timeout(1500)
    assert rendered.page.evaluate(_UNTIDY) == []


@pytest.mark.usefixtures("screenshot")
@pytest.mark.parametrize("name", NAMES)
def test_notes_are_read_without_scrolling(rendered: Editor, name: str) -> None:
    """In both renderings; code is blue on the notes' brown in Vue nodes, so there is none."""
    rendered.load(editor_file(name))
    notes = rendered.page.evaluate(_NOTES)
    assert len(notes) >= 4
    for note in notes:
        rendered.show(note)
        seen = rendered.page.evaluate(_NOTE, note)
        assert seen["shown"] > 30
        assert seen["hidden"] <= 1
        assert seen["code"] == 0
        for link in seen["links"]:
            if link.startswith(_PAGES):
                assert (ROOT / link.removeprefix(_PAGES).partition("#")[0]).is_file(), link
            else:
                assert link in {file.page for file in (*PUBLISHED.values(), INTERPOLATOR)}


def test_a_notes_link_opens(rendered: Editor) -> None:
    rendered.load(editor_file("preview-then-refine"))
    rendered.show(rendered.page.evaluate(_NOTES)[0])
    link = rendered.page.get_by_role("link", name=PUBLISHED["stage1"].repository)
    with rendered.page.context.expect_page() as opened:
        link.click()
    opened.value.close()


def test_the_editor_offers_to_download_what_is_missing(page: Editor, tmp_path: Path) -> None:
    files = [page.server.base / "models" / file.folder / file.name for file in PUBLISHED.values()]
    for file in files:
        file.rename(tmp_path / file.name)
    try:
        page.open()
        page.load(editor_file("two-stage-text-to-video"))
        page.page.get_by_text("View details").click()
        page.page.get_by_role("button", name="Download all").wait_for()
        assert page.page.get_by_text("Download", exact=True).count() == len(files)
        for file in PUBLISHED.values():
            assert page.page.get_by_role("button", name=file.name).count()
    finally:
        for file in files:
            (tmp_path / file.name).rename(file)
        page.open()


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_is_complete(name: str) -> None:
    """What the templates browser and a reader need."""
    file = json.loads(editor_file(name).read_text(encoding="utf-8"))
    kinds = [node["type"] for node in file["nodes"]]
    assert len(file["groups"]) >= 5
    assert kinds.count("MarkdownNote") >= 4
    (workflow,) = [workflow for workflow in WORKFLOWS if workflow.name == name]
    texts = {words: words.chinese for words in words_of(workflow)}
    assert file["extra"]["flashvideo_texts"] == {"zh": texts}
    assert not [words for words, chinese in texts.items() if not re.search(r"[\u4e00-\u9fff]", chinese)]


@pytest.mark.usefixtures("screenshot")
def test_the_templates_browser_finds_them_all(page: Editor) -> None:
    """By "flashvideo", each with a picture of its own."""
    titles = [editor_file(name).stem for name in NAMES]
    assert sorted(page.server.get("/api/workflow_templates")[PACK_FOLDER]) == sorted(titles)
    pictures = {editor_file(name, ".jpg").read_bytes() for name in NAMES}
    assert len(pictures) == len(NAMES)
    page.open()
    page.page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    dialog = page.page.get_by_role("dialog")
    dialog.get_by_placeholder("Search").first.fill("flashvideo")
    for title in titles:
        heading = dialog.get_by_role("heading", name=title, exact=True)
        heading.wait_for()
        heading.scroll_into_view_if_needed()  # pictures are there while they are in sight
        page.until(lambda title=title: page.page.evaluate(_SHOWN_PICTURE, title), True)
    page.page.keyboard.press("Escape")
