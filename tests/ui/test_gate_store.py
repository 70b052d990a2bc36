"""The store as a person meets it: size, limit among the settings, emptying on the node and from the menu."""

from __future__ import annotations

import pytest

from tests.ui.editor import Editor
from tests.ui.gate_bench import GateBench

LIMIT = "FlashVideo.PreviewStore.Limit"
GONE = "not in the store any more"
_FIELD = "input[inputmode=numeric], input[role=spinbutton]"


@pytest.fixture(scope="module")
def bench(rendered: Editor) -> GateBench:
    rendered.server.post("/flashvideo/previews/limit", {"megabytes": 8192})
    rendered.server.post("/flashvideo/previews/empty", {})
    return GateBench(rendered)


def limit(bench: GateBench) -> int:
    return int(bench.server.get("/flashvideo/previews")["limit_megabytes"])


def setting(bench: GateBench) -> object:
    return bench.page.page.evaluate("(id) => app.extensionManager.setting.get(id)", LIMIT)


@pytest.mark.usefixtures("screenshot")
def test_the_store_can_be_emptied_on_the_node(bench: GateBench) -> None:
    bench.make()
    button = bench.page.page.locator(".flashvideo-gate .empty")
    button.click()
    assert bench.cards() == 2, "one press only asks"
    assert "again" in button.inner_text()
    button.click()
    bench.expect_cards(0)
    bench.expect_status(GONE)
    assert bench.server.get("/flashvideo/previews")["bytes"] == 0
    bench.page.page.locator(".flashvideo-gate .size", has_text="0.0 MB").wait_for()


def test_it_is_emptied_from_another_tab(bench: GateBench) -> None:
    bench.make()
    bench.server.post("/flashvideo/previews/empty", {})
    bench.expect_cards(0)
    bench.expect_status(GONE)
    bench.make()  # and comes back


@pytest.mark.usefixtures("screenshot")
def test_the_menu_empties_it_after_a_question(bench: GateBench) -> None:
    bench.make()
    page = bench.page.page
    for answer, cards in (("Cancel", 2), ("Delete", 0)):
        bench.page.choose("FlashVideo", "Empty the store")
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name=answer).click()
        dialog.wait_for(state="detached")
        bench.expect_cards(cards)
    bench.expect_status(GONE)
    assert bench.server.get("/flashvideo/previews")["bytes"] == 0


def open_settings(bench: GateBench) -> None:
    page = bench.page.page
    page.evaluate("() => app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    page.get_by_role("dialog").get_by_text("FlashVideo", exact=True).first.click()
    page.get_by_role("dialog").locator(_FIELD).first.wait_for()


@pytest.mark.usefixtures("screenshot")
def test_the_limit_is_a_setting(bench: GateBench) -> None:
    bench.make()
    open_settings(bench)
    field = bench.page.page.get_by_role("dialog").locator(_FIELD).first
    bench.page.until(lambda: field.input_value().replace(",", ""), "8192")
    field.click()
    field.press("Control+a")
    field.press_sequentially("2048")
    field.press("Tab")
    bench.page.until(lambda: limit(bench), 2048)
    bench.page.page.keyboard.press("Escape")
    bench.expect_cards(2)
    bench.page.page.locator(".flashvideo-gate .size", has_text="of 2.00 GB").wait_for()


def test_the_setting_shows_what_the_server_keeps(bench: GateBench) -> None:
    """The limit may be set over the API as well; opening the editor does not set it back."""
    bench.server.post("/flashvideo/previews/limit", {"megabytes": 77})
    bench.page.reopen()
    bench.page.until(lambda: setting(bench), 77)
    assert limit(bench) == 77


@pytest.mark.usefixtures("screenshot")
def test_previews_that_a_lower_limit_removes_are_said_to_be_gone(bench: GateBench) -> None:
    bench = GateBench(bench.page)
    bench.make()
    store = next((bench.server.base / "user").rglob(bench.state()["signature"]))
    (store / "filler.mp4").write_bytes(bytes(3 << 20))  # tiny previews would fit into the least limit
    bench.page.page.evaluate("(id) => app.extensionManager.setting.set(id, 2)", LIMIT)
    bench.page.until(lambda: limit(bench), 2)
    bench.expect_cards(0)
    assert not store.exists()
    bench.expect_status(GONE)
    bench.page.page.evaluate("(id) => app.extensionManager.setting.set(id, 8192)", LIMIT)
    bench.make()
    bench.expect_cards(2)  # the next Run makes them again


def test_an_impossible_limit_is_refused_in_words(bench: GateBench) -> None:
    bench.page.problems.clear()
    bench.page.page.evaluate("(id) => app.extensionManager.setting.set(id, 0)", LIMIT)
    bench.page.page.get_by_text("it takes 1 to 1048576 megabytes").wait_for()
    bench.page.until(lambda: setting(bench), 8192)
    assert limit(bench) == 8192
    assert all("400" in problem for problem in bench.page.problems)
