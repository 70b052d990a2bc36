"""Compare's wipe follows a real mouse and the keyboard."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ui.editor import Editor
from tests.ui.small import made_small

_AT = "() => Number(document.querySelector('.flashvideo-wipe').getAttribute('aria-valuenow'))"
_NODE = "() => app.rootGraph._nodes.find((node) => node.type === 'FlashVideoCompare').id"


_STATE = "flashvideo_compare"
_NOTE = ".flashvideo-wipe .note"
GONE = "These videos were temporary and are gone. Run the workflow again."


def small_comparison(length: int) -> dict[str, Any]:
    """Compare behind the two stages, without the files that Save Video writes."""
    nodes = made_small("preview-then-refine", approve="always")
    nodes = {key: node for key, node in nodes.items() if node["class_type"] != "SaveVideo"}
    for node in nodes.values():
        if node["class_type"] == "FlashVideoEmptyLatent":
            node["inputs"] |= {"length": length, "batch_size": 1}
    return nodes


def run_comparison(rendered: Editor, length: int) -> None:
    rendered.load_data(small_comparison(length), "compare.json")
    rendered.queue()
    rendered.page.wait_for_selector(".flashvideo-wipe .before", state="attached")  # may be out of view
    rendered.show(int(rendered.page.evaluate(_NODE)))


@pytest.mark.usefixtures("screenshot")
def test_the_wipe_follows_the_mouse_and_the_arrows(rendered: Editor) -> None:
    run_comparison(rendered, 5)
    box = rendered.page.locator(".flashvideo-wipe").bounding_box()
    assert box is not None
    assert min(box["width"], box["height"]) > 100
    for part in (0.25, 0.8):
        rendered.page.mouse.move(box["x"] + part * box["width"], box["y"] + box["height"] / 2)
        assert rendered.page.evaluate(_AT) == pytest.approx(100 * part, abs=2)
    rendered.page.locator(".flashvideo-wipe").focus()
    rendered.page.keyboard.press("ArrowLeft")
    assert rendered.page.evaluate(_AT) == pytest.approx(75, abs=2)
    widths = rendered.page.evaluate(
        "() => [...document.querySelectorAll('.flashvideo-wipe video')].map((v) => v.videoWidth)"
    )
    assert widths == [96, 96]


_PLAYERS = "() => [...document.querySelectorAll('.flashvideo-wipe video')].map((v) => [v.paused, v.currentTime])"


def test_both_pause_and_are_searched_in_step(rendered: Editor) -> None:
    run_comparison(rendered, 5)
    rendered.page.locator(".flashvideo-compare .pause").click()
    rendered.until(lambda: [paused for paused, _ in rendered.page.evaluate(_PLAYERS)], [True, True])
    rendered.page.locator(".flashvideo-compare input[type=range]").fill("0.5")
    rendered.until(lambda: len({time for _, time in rendered.page.evaluate(_PLAYERS)}), 1)
    assert rendered.page.evaluate(_PLAYERS)[0][1] > 0.1
    rendered.page.locator(".flashvideo-compare .pause").click()
    rendered.until(lambda: [paused for paused, _ in rendered.page.evaluate(_PLAYERS)], [False, False])


def is_gone(rendered: Editor) -> bool:
    rendered.page.wait_for_selector(_NOTE, state="attached")
    rendered.show(int(rendered.page.evaluate(_NODE)))
    pictures = rendered.page.locator(".flashvideo-wipe :is(img, video)").count()
    return rendered.page.inner_text(_NOTE) == GONE and pictures == 0


@pytest.mark.usefixtures("screenshot")
@pytest.mark.parametrize("length", [1, 5], ids=["image", "video"])
def test_files_that_are_gone_are_missed_in_words(rendered: Editor, length: int) -> None:
    """ComfyUI's temporary folder was emptied: words instead of a broken picture."""
    run_comparison(rendered, length)
    saved = rendered.serialized()
    shown = next(node for node in saved["nodes"] if node["type"] == "FlashVideoCompare")["properties"][_STATE]
    for side in ("before", "after"):  # under names that the browser has not kept
        shown[side]["filename"] = f"gone_{shown[side]['filename']}"
    rendered.load_data(saved, "gone.json")
    assert is_gone(rendered)
    rendered.page.wait_for_timeout(300)
    assert [problem for problem in rendered.problems if "404" not in problem] == []


@pytest.mark.usefixtures("screenshot")
def test_a_restart_leaves_no_broken_picture(rendered: Editor) -> None:
    run_comparison(rendered, 5)
    saved = rendered.serialized()
    rendered.server.restart()
    rendered.reopen()
    rendered.load_data(saved, "restarted.json")
    assert is_gone(rendered)
    rendered.queue()
    rendered.page.wait_for_selector(".flashvideo-wipe .before", state="attached")
    assert rendered.page.locator(_NOTE).count() == 0, "and the next Run shows them again"
