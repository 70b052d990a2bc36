"""A page of ``flashvideo compare`` in a real Chromium, and clips whose pixels tell their frames."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FRAMES, FPS, HEIGHT, WIDTH = 20, 10, 48, 80
NAMES = ("first", "second", "third")
VIDEOS = "[...document.querySelectorAll('.cell:not(.away) video')]"
SETTLED = f"() => {VIDEOS}.every((video) => video.paused && !video.seeking && video.readyState >= 2)"
TIMES = f"() => {VIDEOS}.map((video) => video.currentTime)"
# The level of the left edge, which tells the frame, as the player shows it.
LEVELS = f"""() => {VIDEOS}.map((video) => {{
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const context = canvas.getContext('2d');
  context.drawImage(video, 0, 0);
  return context.getImageData(4, Math.floor(canvas.height / 2), 1, 1).data[1];
}})"""
# [words, contrast to what lies under them] of what is written outside of the pictures.
CONTRASTS = """() => {
  const rgb = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const linear = (part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const ground = (e) => {
    const colour = rgb(getComputedStyle(e).backgroundColor);
    return colour.length === 3 ? colour : ground(e.parentElement);
  };
  return [...document.querySelectorAll('h1, h2, p, th, td, dt, dd, button:not(:disabled), label, output, .key')]
    .filter((e) => e.innerText?.trim() && !e.closest('#stage') && e.offsetParent)
    .map((e) => {
      const [dark, bright] = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((a, b) => a - b);
      return [e.innerText, (bright + 0.05) / (dark + 0.05)];
    });
}"""


def numbered(count: int, tint: float, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """A clip whose left half tells the number of the frame by its level, and whose right half tells the clip."""
    video = torch.full((1, 3, count, height, width), tint)
    video[..., : width // 2] = torch.linspace(0.1, 0.9, count)[None, None, :, None, None]
    return video


def frame_of(level: int, count: int = FRAMES) -> int:
    return round((level / 255 - 0.1) / 0.8 * (count - 1))


class Page:
    """A page that was opened and stands at its first frame; ``problems`` is what the browser complains about."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **options}
        )
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on(
            "console",
            lambda message: self.problems.append(message.text) if message.type in ("error", "warning") else None,
        )
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.asked(request.url))
        self.page.goto(file.as_uri())
        self.settle()

    def asked(self, url: str) -> None:
        if not url.startswith(("file:", "blob:", "data:")):
            self.problems.append(f"asked for {url}")

    def settle(self) -> None:
        self.page.wait_for_function(SETTLED, timeout=20_000)

    def click(self, selector: str) -> None:
        self.page.locator(selector).click()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def frames(self) -> list[int]:
        """Which frame each player that is seen shows, by its pixels."""
        self.settle()
        return [frame_of(level) for level in self.page.evaluate(LEVELS)]

    def value(self, selector: str, name: str) -> str:
        return str(self.page.locator(selector).get_attribute(name))

    def texts(self, selector: str) -> list[str]:
        return [str(text) for text in self.page.locator(selector).all_inner_texts()]

    def seen(self) -> list[str]:
        return [str(text) for text in self.page.locator(".cell:not(.away) .name").all_text_contents()]

    def transforms(self) -> set[str]:
        return set(self.page.evaluate("() => [...document.querySelectorAll('.frame')].map((e) => e.style.transform)"))

    def scale(self) -> float:
        (transform,) = self.transforms()
        return float(transform.partition("scale(")[2].partition(")")[0])


def shade(opened: Page, x: float, y: float) -> int:
    """Level of the screen at a place of the stage, in parts of it."""
    import av

    picture = opened.page.locator("#cells").screenshot(type="png")
    with av.open(BytesIO(picture), format="png_pipe") as container:
        pixels = next(container.decode(video=0)).to_ndarray(format="rgb24")
    return int(pixels[int(y * pixels.shape[0]), int(x * pixels.shape[1]), 1])
