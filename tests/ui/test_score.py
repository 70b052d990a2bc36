"""Score Video's numbers on the node: after a run, after opening the workflow again, with and without its picture."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ui.editor import Editor
from tests.unit.scores.clips import moving, write

_NODE = "() => app.rootGraph._nodes.find((node) => node.type === 'FlashVideoScoreVideo').id"
_STATE = "flashvideo_score"
_ROWS = """() => [...document.querySelectorAll('.flashvideo-score tr')].map((row) =>
  [...row.cells].map((cell) => cell.textContent))"""
_PICTURE = ".flashvideo-score img"
_INSIDE = """() => {
  const { bottom, right } = document.querySelector('.flashvideo-score').getBoundingClientRect();
  return [...document.querySelectorAll('.flashvideo-score :is(table, img)')].every((part) => {
    const box = part.getBoundingClientRect();
    return box.width > 200 && box.height > 100 && box.bottom <= bottom + 1 && box.right <= right + 1;
  });
}"""
_CUT_OFF = """() => [...document.querySelectorAll('.flashvideo-score td')]
  .filter((cell) => cell.scrollWidth > cell.clientWidth).map((cell) => cell.textContent)"""


def run_score(page: Editor, name: str, source: bool) -> None:
    """A video with a border in the middle and every fourth frame brighter."""
    video = moving(24) * 0.8
    video[:, ::4] += 0.06
    video[..., 64:] += 0.05
    write(page.server.base / "input" / f"{name}.mp4", video)
    write(page.server.base / "input" / f"{name}-source.mp4", moving(24) * 0.8)
    sockets: dict[str, Any] = {"video": ["1", 0]}
    nodes = {"1": {"class_type": "LoadVideo", "inputs": {"file": f"{name}.mp4"}}}
    if source:
        nodes["2"] = {"class_type": "LoadVideo", "inputs": {"file": f"{name}-source.mp4"}}
        sockets |= {"source": ["2", 0], "reference": ["2", 0]}
    nodes["3"] = {"class_type": "FlashVideoScoreVideo", "inputs": sockets}
    page.load_data(nodes, "score.json")
    page.queue()
    page.page.wait_for_selector(".flashvideo-score table", state="attached")
    show(page)


def show(page: Editor) -> None:
    page.show(int(page.page.evaluate(_NODE)))


def rows(page: Editor) -> dict[str, list[str]]:
    return {name: rest for name, *rest in page.page.evaluate(_ROWS)}


@pytest.mark.usefixtures("screenshot")
def test_numbers_and_their_picture_are_on_the_node(rendered: Editor) -> None:
    run_score(rendered, "both", source=True)
    told = rows(rendered)
    assert list(told) == ["sharpness", "likeness", "drift", "flicker", "seam", "pulse", "PSNR", "SSIM", "PIQE"]
    assert told["likeness"][0].endswith(" dB")
    assert told["seam"][1] == "levels, at column 64"
    assert told["pulse"][1] == "of the mean, every 4 frames"
    assert 0 < float(told["PIQE"][0]) <= 100
    rendered.until(lambda: rendered.page.evaluate(_INSIDE), True)
    assert rendered.page.evaluate(_CUT_OFF) == []
    assert rendered.page.locator(_PICTURE).evaluate("(picture) => picture.naturalWidth") == 960


@pytest.mark.usefixtures("screenshot")
def test_numbers_stay_when_their_picture_is_gone(rendered: Editor) -> None:
    """The workflow keeps the numbers; ComfyUI empties the folder of the picture."""
    run_score(rendered, "alone", source=False)
    before = rows(rendered)
    assert before["likeness"] == ["-", "to the source; above 40 dB hardly told apart"]
    assert "PSNR" not in before
    saved = rendered.serialized()
    (node,) = [node for node in saved["nodes"] if node["type"] == "FlashVideoScoreVideo"]
    node["properties"][_STATE]["plot"]["filename"] = "gone.png"
    rendered.load_data(saved, "gone.json")
    show(rendered)
    rendered.until(lambda: rendered.page.locator(_PICTURE).count(), 0)
    assert rows(rendered) == before
    assert [problem for problem in rendered.problems if "404" not in problem] == []
