"""The page of ``flashvideo compare``, opened from the disk in a real Chromium: every control does what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flashvideo.scores.page import Entry, write_page
from flashvideo.scores.page.votes import read_session
from flashvideo.video.files import write_video
from tests.coded_videos import write_coded
from tests.ui.compare_page import CONTRASTS, FPS, FRAMES, HEIGHT, NAMES, TIMES, VIDEOS, WIDTH, Page, numbered, shade


def made_up_scores(path: Path) -> dict[str, Any]:
    place = NAMES.index(path.stem) + 1
    seconds = [index / FPS for index in range(FRAMES)]
    series = {
        "seconds": seconds,
        "sharpness": [place + index / 10 for index in range(FRAMES)],
        "flicker": [place] * FRAMES,
    }
    return {"sharpness": place / 10, "likeness": 40.0, "flicker": place / 7, "series": series, "remarks": []}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of three videos and their source, which is smaller."""
    folder = tmp_path_factory.mktemp("page")
    for place, name in enumerate(NAMES):
        write_video(folder / f"{name}.mp4", numbered(FRAMES, 0.2 + 0.3 * place), FPS, crf=1)
    write_video(folder / "source.mp4", numbered(FRAMES, 0.5, HEIGHT // 2, WIDTH // 2), FPS, crf=1)
    return folder


@pytest.fixture(scope="module")
def index(folder: Path) -> Path:
    entries = [Entry(folder / f"{name}.mp4") for name in NAMES]
    return write_page(folder / "page", entries, source=Entry(folder / "source.mp4"), scores=made_up_scores)[0]


@pytest.fixture
def opened(browser: Any, index: Path) -> Iterator[Page]:
    page = Page(browser, index)
    yield page
    assert page.problems == []
    page.context.close()


def test_frames_are_stepped_exactly_in_all_players(opened: Page) -> None:
    opened.press("g")
    assert opened.frames() == [0, 0, 0, 0]
    opened.click("#forth")
    assert opened.frames() == [1, 1, 1, 1]
    for expected in (2, 3, 4):
        opened.press(".")
        assert opened.frames() == [expected] * 4
    assert len(set(opened.page.evaluate(TIMES))) == 1
    opened.click("#back")
    assert opened.frames() == [3] * 4
    opened.press(">")
    assert opened.frames() == [13] * 4
    opened.press("End")
    assert opened.frames() == [FRAMES - 1] * 4
    opened.press(".")
    assert opened.frames() == [FRAMES - 1] * 4
    opened.press("Home", ",")
    assert opened.frames() == [0] * 4
    opened.page.locator("#seek").fill("7")
    assert opened.frames() == [7] * 4
    assert "8 of 20" in opened.texts("#time")[0]


def test_those_that_come_into_sight_are_at_the_same_frame(opened: Page) -> None:
    opened.press(".", ".", ".", "g")
    assert opened.frames() == [3] * 4
    opened.press("2")
    assert opened.seen() == ["second"]
    assert opened.frames() == [3]


def test_all_play_in_step_loop_and_pause_at_one_frame(opened: Page) -> None:
    opened.press("g")
    opened.click("#play")
    assert opened.value("#play", "aria-label") == "Pause"
    opened.page.wait_for_function("() => Number(document.querySelector('#seek').value) > 5")
    opened.page.locator("#stage").focus()
    opened.press(" ")
    assert len(set(opened.frames())) == 1
    assert opened.frames()[0] > 3
    opened.press("End")
    opened.click("#play")
    opened.page.wait_for_function(
        "() => { const at = Number(document.querySelector('#seek').value); return at > 2 && at < 15; }"
    )
    opened.click("#play")
    opened.click("#loop")
    assert opened.value("#loop", "aria-pressed") == "false"
    opened.page.locator("#speed").select_option("2")
    opened.click("#play")
    opened.page.wait_for_function("() => !document.body.classList.contains('playing')", timeout=20_000)
    assert opened.frames() == [FRAMES - 1] * 4


def test_the_wipe_follows_pointer_and_keys(opened: Page) -> None:
    assert opened.seen() == ["first", "second"]
    box = opened.page.locator("#cells").bounding_box()
    handle = opened.page.locator("#handle").bounding_box()
    assert handle["x"] + handle["width"] / 2 == pytest.approx(box["x"] + box["width"] / 2, abs=1)
    middle = box["y"] + box["height"] / 2
    opened.page.mouse.move(box["x"] + box["width"] / 2, middle)
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + box["width"] * 0.25, middle, steps=4)
    opened.page.mouse.up()
    assert opened.value("#handle", "aria-valuenow") == "25"
    clip = "() => [...document.querySelectorAll('.cell:not(.away)')].map((e) => getComputedStyle(e).clipPath)"
    assert opened.page.evaluate(clip) == ["inset(0px 75% 0px 0px)", "inset(0px 0px 0px 25%)"]
    opened.page.locator("#handle").focus()
    opened.press("ArrowRight", "ArrowRight")
    assert opened.value("#handle", "aria-valuenow") == "29"
    opened.press("Home")
    assert opened.value("#handle", "aria-valuenow") == "0"
    opened.press("End", "ArrowLeft")
    assert opened.value("#handle", "aria-valuenow") == "98"
    opened.click("#swap")
    assert opened.page.locator("#left").input_value() == opened.value(".cell:nth-child(2)", "data-id")
    opened.page.locator("#right").select_option(label="third")
    assert opened.seen() == ["second", "third"]


def test_the_wipe_shows_the_left_one_left_and_the_right_one_right(opened: Page) -> None:
    """By the pixels of a screenshot: the clips differ in their right halves."""
    opened.page.locator("#right").select_option(label="third")
    opened.page.locator("#handle").focus()
    shades = []
    for key in ("End", "Home"):
        opened.press(key)
        opened.settle()
        shades.append(shade(opened, 0.75, 0.75))
    assert shades == [pytest.approx(0.2 * 255, abs=6), pytest.approx(0.8 * 255, abs=6)]


def test_the_difference_is_amplified(opened: Page) -> None:
    opened.press("d")
    opened.page.locator("#gain").fill("1")
    opened.settle()
    assert shade(opened, 0.25, 0.75) == pytest.approx(0, abs=3), "both show the same frame"
    assert shade(opened, 0.75, 0.75) == pytest.approx(0.3 * 255, abs=6)
    opened.page.locator("#gain").fill("3")
    assert opened.texts("#gain-value") == ["3 ×"]
    assert shade(opened, 0.75, 0.75) == pytest.approx(0.9 * 255, abs=18)


def test_all_look_at_the_same_spot(opened: Page) -> None:
    opened.press("g")
    box = opened.page.locator(".cell:nth-child(2)").bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 4)
    before = opened.page.evaluate("() => scrollY")
    opened.page.mouse.wheel(0, -300)
    opened.page.wait_for_function("() => document.querySelector('.frame').style.transform.match(/scale\\(1\\.[1-9]/)")
    assert opened.page.evaluate("() => scrollY") == before
    scale = opened.scale()
    (transform,) = opened.transforms()
    x, y = (float(part) for part in re.findall(r"(-?[\d.]+)%", transform))
    assert x == pytest.approx(-75 * (1 - 1 / scale), abs=0.5), "what is under the pointer stays"
    assert y == pytest.approx(-25 * (1 - 1 / scale), abs=0.5)
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + box["width"] * 0.75 + 20, box["y"] + box["height"] / 4, steps=3)
    opened.page.mouse.up()
    (moved,) = opened.transforms()
    assert float(re.findall(r"(-?[\d.]+)%", moved)[0]) == pytest.approx(x + 100 * 20 / box["width"] / scale, abs=0.5)
    opened.click("#zoom-fit")
    assert opened.scale() == 1
    opened.click("#zoom-in")
    assert opened.scale() == pytest.approx(1.25)
    opened.click("#zoom-out")
    assert opened.scale() == 1
    opened.page.locator("#stage").focus()
    opened.press("+", "+", "ArrowRight")
    assert len(opened.transforms()) == 1


def test_pixels_are_shown_as_they_are_from_twice_their_size_on(opened: Page) -> None:
    rendering = "() => getComputedStyle(document.querySelector('.frame video')).imageRendering"
    percent = lambda: int(opened.texts("#zoom-value")[0].removesuffix(" %"))  # noqa: E731
    opened.page.set_viewport_size({"width": 150, "height": 900})
    opened.page.wait_for_function("() => parseInt(document.querySelector('#zoom-value').textContent) <= 200")
    assert opened.page.evaluate(rendering) == "auto"
    opened.press("+", "+", "+", "+")
    assert percent() > 200
    assert opened.page.evaluate(rendering) == "pixelated"


def test_two_fingers_look_closer(browser: Any, index: Path) -> None:
    opened = Page(browser, index, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    box = opened.page.locator("#cells").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = opened.context.new_cdp_session(opened.page)
    for kind, apart in (("touchStart", 20), ("touchMove", 40), ("touchMove", 60)):
        points = [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    opened.page.wait_for_function("() => !document.querySelector('.frame').style.transform.startsWith('scale(1)')")
    assert opened.scale() == pytest.approx(3, abs=0.3)
    assert opened.page.evaluate("() => document.documentElement.scrollWidth") <= 390
    assert opened.problems == []
    opened.context.close()


def test_scores_stand_in_a_table_with_the_best_marked(opened: Page) -> None:
    head = [text.split("\n")[0] for text in opened.texts("#score-table thead th")]
    assert head == ["Video", "Sharpness ↑", "Likeness ↑", "Flicker ↓"]
    rows = [row.split("\t") for row in opened.texts("#score-table tbody tr")]
    assert [row[0].strip() for row in rows] == list(NAMES)
    assert [["★" in cell for cell in row[1:]] for row in rows] == [
        [False, False, True],
        [False] * 3,
        [True, False, False],
    ]


def test_the_plot_follows_the_clock_and_is_searched_by_clicks(opened: Page) -> None:
    head = "() => Number(document.querySelector('#plot .head').getAttribute('x1'))"
    start = opened.page.evaluate(head)
    opened.press(".", ".", ".")
    assert opened.page.evaluate(head) > start
    assert opened.texts("#legend .value") == ["1.300", "2.300", "3.300"]
    box = opened.page.locator("#plot").bounding_box()
    opened.page.locator("#plot").click(position={"x": (52 + (box["width"] - 64) / 2) + 1, "y": 60})
    assert opened.frames() == [10, 10]
    opened.page.locator("#plot").focus()
    opened.press("ArrowRight")
    assert opened.frames() == [11, 11]
    opened.page.locator("#measure").select_option("flicker")
    assert opened.texts("#legend .value") == ["1.00", "2.00", "3.00"]


def judged(opened: Page, choose: Callable[[str, str], str]) -> None:
    """Vote on all pairs, by what is under the letters."""
    names = dict(zip([f"{letter}" for letter in "ABC"], opened.page.evaluate(_BEHIND), strict=True))
    for _ in range(3):
        title = opened.texts("#voting-title")[0]
        left, right = re.findall(r"\b([ABC])\b(?: or |\?)", title)
        opened.click(f"[data-choice={choose(names[left], names[right])}]")


_BEHIND = """() => {
  const { videos } = JSON.parse(document.querySelector('#data').textContent);
  const name = (id) => videos.find((video) => video.id === id).name;
  return [...document.querySelectorAll('.cell')].slice(0, 3).map((cell) => name(cell.dataset.id));
}"""


def test_a_blind_test_hides_names_and_keeps_votes(opened: Page, tmp_path: Path) -> None:
    opened.click("#blind")
    assert opened.page.locator(".name").all_text_contents() == ["A", "B", "C", "Source"]
    visible = opened.page.inner_text("body")
    assert not [name for name in (*NAMES, "Scores", "Files", "Over time") if name in visible]
    assert opened.texts("#left option") == ["A", "B", "C", "Source"]
    assert opened.page.locator("#download").is_disabled()
    opened.page.locator("#note").fill('sharper, but "rings" <b>')
    preference = lambda left, right: "left" if NAMES.index(left) > NAMES.index(right) else "right"  # noqa: E731
    judged(opened, preference)
    assert opened.page.locator("#all-judged").is_visible()
    opened.page.reload()
    opened.settle()
    opened.click("#blind")
    assert opened.page.locator("#all-judged").is_visible(), "votes are kept in the browser"
    with opened.page.expect_download() as download:
        opened.click("#download")
    file = tmp_path / "votes.json"
    download.value.save_as(file)
    session = read_session(file)
    assert sorted(session.names.values()) == sorted(NAMES)
    named = {(session.names[left], session.names[right]): choice for (left, right), choice in session.votes.items()}
    assert len(named) == 3
    assert all(choice == preference(*pair) for pair, choice in named.items())
    assert [vote["note"] for vote in json.loads(file.read_text())["votes"]].count('sharper, but "rings" <b>') == 1
    opened.page.on("dialog", lambda dialog: dialog.accept())
    opened.click("#restart")
    assert "0 judged" in opened.texts("#progress")[0]
    opened.press("Shift+ArrowDown")
    assert "1 judged" in opened.texts("#progress")[0]
    opened.click("#blind")
    assert opened.page.locator(".name").all_text_contents() == [*NAMES, "Source: source"]


def test_the_order_differs_from_session_to_session(opened: Page) -> None:
    opened.page.on("dialog", lambda dialog: dialog.accept())
    opened.click("#blind")
    orders = set()
    for _ in range(12):
        orders.add(tuple(opened.page.evaluate(_BEHIND)))
        opened.click("#restart")
    assert len(orders) > 1  # 12 equal ones of 6: once in 360 million


def test_votes_come_back_as_a_table(browser: Any, folder: Path, opened: Page, tmp_path: Path) -> None:
    opened.click("#blind")
    judged(opened, lambda left, right: "left" if left == "first" else "right" if right == "first" else "same")
    with opened.page.expect_download() as download:
        opened.click("#download")
    download.value.save_as(tmp_path / "votes.json")
    entries = [Entry(folder / f"{name}.mp4") for name in NAMES]
    file, _ = write_page(tmp_path / "page", entries, votes=[tmp_path / "votes.json"])
    again = Page(browser, file)
    rows = [row.split("\t") for row in again.texts("#tally-table tbody tr")]
    assert [row[:4] for row in rows[:3]] == [
        ["first or second", "1", "0", "0"],
        ["first or third", "1", "0", "0"],
        ["second or third", "0", "1", "0"],
    ]
    assert "100 % (21 to 100)" in rows[0][4]
    again.click("#blind")
    assert not again.page.locator("#tally").is_visible()
    assert again.problems == []
    again.context.close()


def test_keys_are_listed_and_every_control_has_a_name(opened: Page) -> None:
    opened.press("?")
    assert opened.page.locator("#keys").is_visible()
    opened.press("Escape")
    assert not opened.page.locator("#keys").is_visible()
    nameless = """() => [...document.querySelectorAll('button, select, input, textarea, [role=slider]')]
      .filter((e) => !e.getAttribute('aria-label') && !e.textContent.trim() && !e.labels?.[0]?.textContent.trim())
      .map((e) => e.outerHTML)"""
    opened.click("#blind")
    assert opened.page.evaluate(nameless) == []


def test_full_screen_shows_the_player_alone(opened: Page) -> None:
    opened.click("#fullscreen")
    opened.page.wait_for_function("() => document.fullscreenElement?.className === 'player'")
    opened.press("f")
    opened.page.wait_for_function("() => !document.fullscreenElement")


def test_videos_beside_the_page_and_of_other_rates_play_too(browser: Any, folder: Path, tmp_path: Path) -> None:
    """Ten and twenty frames a second, one shorter, one of odd sides that browsers do not play: by their times."""
    write_video(tmp_path / "fast.mp4", numbered(40, 0.3), 20, crf=1)
    write_video(tmp_path / "short.mp4", numbered(FRAMES, 0.3)[:, :, :8], FPS, crf=1)
    write_coded(tmp_path / "odd.mkv", numbered(FRAMES, 0.3, 47, 63), "ffv1", "bgr0", FPS)
    entries = [Entry(folder / "first.mp4"), *(Entry(tmp_path / name) for name in ("fast.mp4", "short.mp4", "odd.mkv"))]
    file, _ = write_page(tmp_path / "page", entries, embed_up_to=0)
    assert len(list((tmp_path / "page" / "videos").iterdir())) == 4
    opened = Page(browser, file)
    opened.press("g")
    opened.page.locator("#seek").fill("21")  # of the fast one: 1.05 s
    opened.settle()
    times = opened.page.evaluate(TIMES)
    assert times == pytest.approx([1.05, 21.5 / 20, 0.75, 1.05], abs=1e-3)
    assert opened.page.evaluate(f"() => {VIDEOS}[3].videoWidth") == 64
    ratio = "() => document.querySelector('.cell:nth-child(4) video').style.width"
    assert float(opened.page.evaluate(ratio).removesuffix("%")) == pytest.approx(100 * 64 / 63, rel=1e-4)
    assert opened.problems == []
    opened.context.close()


def test_frames_are_exact_in_webm_and_at_uneven_times(browser: Any, tmp_path: Path) -> None:
    """By their pixels, after each step."""
    video, times = numbered(FRAMES, 0.3), [0, 100, 150, *(350 + 100 * number for number in range(FRAMES - 3))]
    even = write_coded(tmp_path / "even.webm", video, "libvpx-vp9", "yuv420p", FPS)
    uneven = write_coded(tmp_path / "uneven.mp4", video, "libx264", "yuv420p", FPS, times)
    file, _ = write_page(tmp_path / "page", [Entry(even), Entry(uneven)])
    opened = Page(browser, file)
    opened.press("g")
    for number in range(FRAMES):
        shown = max(index for index, time in enumerate(times) if time <= 100 * number)
        assert opened.frames() == [number, shown]
        opened.press(".")
    assert opened.problems == []
    opened.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_are_told_from_the_ground_in_both_schemes(browser: Any, index: Path, scheme: str) -> None:
    """WCAG's 4.5 to 1 for words."""
    opened = Page(browser, index, color_scheme=scheme)
    ratios = opened.page.evaluate(CONTRASTS)
    assert len(ratios) > 20
    assert [(words, round(ratio, 2)) for words, ratio in ratios if ratio < 4.5] == []
    opened.context.close()
