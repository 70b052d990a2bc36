"""The gate and Compare in the language of the editor."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.ui.editor import Editor
from tests.ui.gate_bench import STAGE1, GateBench
from tests.ui.small import editor_file

_ENGLISH = re.compile(r"[A-Za-z]{3,}")
_TITLES = "() => [...app.rootGraph.nodes, ...app.rootGraph.groups].map((thing) => thing.title)"
_NOTES = """() => app.rootGraph.nodes
  .filter((node) => node.type === 'MarkdownNote').map((node) => node.widgets[0].value)"""
_MENUS = """() => app.rootGraph.nodes.flatMap((node) => (node.widgets ?? [])
  .filter((widget) => widget.type === 'combo' && widget.options.getOptionLabel)
  .map((widget) => [widget.name, widget.value, widget.options.getOptionLabel(widget.value)]))"""


@pytest.fixture(scope="module", params=["canvas", "vue"])
def bench(request: pytest.FixtureRequest, page: Editor) -> Iterator[GateBench]:
    page.server.post("/flashvideo/previews/empty", {})
    yield GateBench(page.open(vue_nodes=request.param == "vue", locale="zh"))
    page.open()


def text(bench: GateBench, selector: str) -> str:
    return str(bench.page.page.inner_text(f".flashvideo-gate {selector}"))


@pytest.mark.usefixtures("screenshot")
def test_the_gate_speaks_chinese(bench: GateBench) -> None:
    assert text(bench, ".status").startswith("运行工作流")
    bench.make()
    labels = bench.page.page.locator(".flashvideo-gate .refine")
    assert labels.all_inner_texts() == ["精修 1", "精修 2"]
    assert labels.first.get_attribute("aria-label") == "精修预览 1"
    assert text(bench, ".status") == "在要继续的预览下按“精修”。"
    assert text(bench, ".empty") == "清空存储"
    assert text(bench, ".size").startswith("存储：")
    bench.widget(STAGE1, "steps", 3)
    bench.press(2)
    assert "预览 2 已继续。" in text(bench, ".status")
    assert "之后修改且未采用的有" in text(bench, ".status")
    assert "第一阶段采样器: 步数" in text(bench, ".status"), "nodes and inputs are called as on the screen"
    assert labels.nth(1).inner_text() == "再次精修 2"
    said = text(bench, "").replace("FlashVideo", "")
    for file in bench.page.page.locator(".flashvideo-gate .job a").all_inner_texts():
        said = said.replace(file, "")
    left = _ENGLISH.findall(said)
    assert not left, f"not translated: {left}"


@pytest.mark.usefixtures("screenshot")
def test_menu_and_settings_speak_chinese(bench: GateBench) -> None:
    page = bench.page.page
    bench.page.choose("FlashVideo", "清空存储")
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("从磁盘删除所有工作流的预览，").wait_for()
    page.keyboard.press("Escape")
    page.evaluate("() => app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    dialog.get_by_text("FlashVideo", exact=True).first.click()
    dialog.get_by_text("存储", exact=True).wait_for()
    dialog.get_by_text("存储的大小上限（MB）").wait_for()
    page.keyboard.press("Escape")


@pytest.mark.usefixtures("screenshot")
def test_another_language_takes_effect_at_once(bench: GateBench) -> None:
    bench.page.page.evaluate("async () => await app.extensionManager.setting.set('Comfy.Locale', 'en')")
    bench.page.page.locator(".flashvideo-gate").get_by_text("Empty store").wait_for()
    bench.page.page.evaluate("async () => await app.extensionManager.setting.set('Comfy.Locale', 'zh')")
    bench.page.page.locator(".flashvideo-gate").get_by_text("清空存储").wait_for()
    assert bench.page.page.locator(".flashvideo-gate").count() == 1


@pytest.mark.usefixtures("screenshot")
def test_a_workflow_speaks_chinese_and_keeps_what_was_written(bench: GateBench) -> None:
    """Titles, frames, notes and menus; English again in English. Prompts and files keep the values."""
    page = bench.page.page
    file = json.loads(editor_file("preview-then-refine").read_text(encoding="utf-8"))
    file["groups"][0]["title"] = "mine"
    bench.page.load_data(file)
    assert "mine" in page.evaluate(_TITLES)
    left = [title for title in page.evaluate(_TITLES) if not re.search(r"[\u4e00-\u9fff]", title)]
    assert left == ["mine"]
    assert page.evaluate(_NOTES)[1].startswith("**两个阶段共用一个提示词。**")
    menus = page.evaluate(_MENUS)
    assert ["stage", "Stage II", "第二阶段"] in menus
    assert ["size", "270p (480x256)", "270p (480x256)"] in menus
    stages = {node["inputs"].get("stage") for node in bench.page.prompt().values()}
    assert stages == {None, "Stage I", "Stage II"}
    page.evaluate("async () => await app.extensionManager.setting.set('Comfy.Locale', 'en')")
    bench.page.until(lambda: page.evaluate(_NOTES)[1].startswith("**One prompt for both stages.**"), True)
    assert ["stage", "Stage II", "Stage II"] in page.evaluate(_MENUS)


def test_no_complaints(bench: GateBench) -> None:
    assert bench.page.problems == []
