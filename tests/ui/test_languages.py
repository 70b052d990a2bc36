"""The gate and Compare in the language of the editor."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.ui.editor import Editor
from tests.ui.gate_bench import STAGE1, GateBench

_ENGLISH = re.compile(r"[A-Za-z]{3,}")


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
    (file,) = bench.page.page.locator(".flashvideo-gate .job a").all_inner_texts()
    left = _ENGLISH.findall(text(bench, "").replace("FlashVideo", "").replace(file, ""))
    assert not left, f"not translated: {left}"


@pytest.mark.usefixtures("screenshot")
def test_menu_and_settings_speak_chinese(bench: GateBench) -> None:
    page = bench.page.page
    bench.page.choose("FlashVideo", "清空预览存储")
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("从磁盘删除所有工作流的预览？").wait_for()
    page.keyboard.press("Escape")
    page.evaluate("() => app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    dialog.get_by_text("FlashVideo", exact=True).first.click()
    dialog.get_by_text("预览存储", exact=True).wait_for()
    dialog.get_by_text("预览存储的大小上限（MB）").wait_for()
    page.keyboard.press("Escape")


@pytest.mark.usefixtures("screenshot")
def test_another_language_takes_effect_at_once(bench: GateBench) -> None:
    bench.page.page.evaluate("async () => await app.extensionManager.setting.set('Comfy.Locale', 'en')")
    bench.page.page.locator(".flashvideo-gate").get_by_text("Empty store").wait_for()
    bench.page.page.evaluate("async () => await app.extensionManager.setting.set('Comfy.Locale', 'zh')")
    bench.page.page.locator(".flashvideo-gate").get_by_text("清空存储").wait_for()
    assert bench.page.page.locator(".flashvideo-gate").count() == 1


def test_no_complaints(bench: GateBench) -> None:
    assert bench.page.problems == []
