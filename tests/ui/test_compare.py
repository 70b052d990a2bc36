"""Compare's wipe follows a real mouse and the keyboard."""

from __future__ import annotations

import pytest

from tests.ui.editor import Editor
from tests.ui.small import made_small

_AT = "() => Number(document.querySelector('.flashvideo-wipe').getAttribute('aria-valuenow'))"
_NODE = "() => app.rootGraph._nodes.find((node) => node.type === 'FlashVideoCompare').id"


@pytest.mark.usefixtures("screenshot")
def test_the_wipe_follows_the_mouse_and_the_arrows(rendered: Editor) -> None:
    nodes = made_small("preview-then-refine", approve="always")
    nodes = {key: node for key, node in nodes.items() if node["class_type"] != "SaveVideo"}
    for node in nodes.values():
        if node["class_type"] == "FlashVideoEmptyLatent":
            node["inputs"] |= {"length": 5, "batch_size": 1}
    rendered.load_data(nodes, "compare.json")
    rendered.queue()
    rendered.page.wait_for_selector(".flashvideo-wipe .before", state="attached")  # may be out of view
    rendered.show(int(rendered.page.evaluate(_NODE)))
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
