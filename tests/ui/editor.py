"""The real ComfyUI editor in a headless Chromium."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.comfy.server import ComfyServer

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # only the server under test may be asked
)
_SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.EnableWorkflowViewRestore": False}
_READY = """() => window.app?.extensionManager && window.app?.rootGraph && !document.querySelector('#splash-loader')
  && LiteGraph.registered_node_types.FlashVideoPreviewGate
  && window.comfyAPI.api.api.clientId && window.comfyAPI.api.api.socket?.readyState === WebSocket.OPEN"""
_STORES = """() => {
  const stores = document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s;
  const plain = (value) => value == null ? null : JSON.parse(JSON.stringify(value));
  return {
    missing: plain(stores.get('missingNodesError')?.missingNodesError)?.nodeTypes ?? [],
    errors: plain(stores.get('executionError')?.lastNodeErrors),
    dialogs: [...document.querySelectorAll('[role=dialog]')].map((e) => e.innerText.trim().slice(0, 500)),
  };
}"""
_DANGLING = """(file) => {
  const wrong = [];
  for (const node of file.nodes) {
    const live = app.rootGraph.getNodeById(node.id);
    if (!live) wrong.push(`node ${node.id} ${node.type} was dropped`);
    else if (live.has_errors) wrong.push(`node ${node.id} ${node.type} is shown with an error`);
  }
  for (const [id, from, output, to, input, type] of file.links) {
    const link = app.rootGraph.links.get(id);
    if (!link) { wrong.push(`link ${id} was dropped`); continue; }
    const a = app.rootGraph.getNodeById(link.origin_id)?.outputs[link.origin_slot]?.type;
    const b = app.rootGraph.getNodeById(link.target_id)?.inputs[link.target_slot]?.type;
    if (!a || !b || !LiteGraph.isValidConnection(a, b)) wrong.push(`link ${id} joins ${a} to ${b}`);
  }
  return wrong;
}"""
_LOAD = """async ([name, text]) => {
  await app.handleFile(new File([text], name, { type: 'application/json' }));
  await new Promise((resolve) => setTimeout(resolve, 300));
}"""
_NOTE_RUNS = """() => {
  window.flashvideoOver = new Set();
  for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
    window.comfyAPI.api.api.addEventListener(kind, ({ detail }) => window.flashvideoOver.add(detail.prompt_id));
}"""
_HEARD_OF = """(runs) => runs.every(([id, client]) =>
  client !== window.comfyAPI.api.api.clientId || window.flashvideoOver.has(id))"""
_CLOSE_SOCKET = """() => new Promise((resolve) => {
  const api = window.comfyAPI?.api.api;
  if (!api?.socket || api.socket.readyState === WebSocket.CLOSED) return resolve();
  api.createSocket = () => {};  // it would connect again
  api.socket.addEventListener('close', () => resolve());
  api.socket.close();
})"""
_GONE = re.compile(r".*\b404\b.*/flashvideo/previews/[0-9a-f]{32}")  # how a gate learns that a batch was removed
_QUIET = ("user.css", "userdata", "net::ERR_NAME_NOT_RESOLVED", "net::ERR_INTERNET_DISCONNECTED")


def find_chromium() -> str | None:
    return os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("chromium-browser")


class Editor:
    """One page. ``problems`` collects what the console and the page complain about."""

    def __init__(self, page: Any, server: ComfyServer) -> None:
        self.page, self.server, self.problems, self.vue_nodes = page, server, [], False
        self._runs_before: set[str] = set()
        page.on("console", lambda message: self._complaint(message) if message.type == "error" else None)
        page.on("pageerror", lambda error: self._note(str(error)))

    def _complaint(self, message: Any) -> None:
        if not _GONE.fullmatch(f"{message.text} {message.location.get('url', '')}"):
            self._note(message.text)

    def _note(self, text: str) -> None:
        if not any(quiet in text for quiet in _QUIET):
            self.problems.append(text[:500])

    def open(self, vue_nodes: bool = False, locale: str = "en") -> Editor:
        self.vue_nodes = vue_nodes
        for key, value in {**_SETTINGS, "Comfy.VueNodes.Enabled": vue_nodes, "Comfy.Locale": locale}.items():
            self.server.request(f"/settings/{urllib.parse.quote(key)}", value)
        # The last page's socket has the same id as the next one's. A server that sees the old one closed after the new
        # one was opened forgets the new one, and the page hears of nothing.
        self.page.evaluate(_CLOSE_SOCKET)
        self.page.goto("about:blank")
        self.page.goto(f"http://127.0.0.1:{self.server.port}", wait_until="domcontentloaded", timeout=120_000)
        self.page.wait_for_function(_READY, timeout=120_000)
        self.page.wait_for_timeout(500)
        self._runs_before = set(self.server.get("/history"))
        self.page.evaluate(_NOTE_RUNS)
        self.problems.clear()  # the editor's own complaints at boot: user files that do not exist yet
        return self

    def reopen(self) -> Editor:
        """After the server was restarted; whatever the page complained about meanwhile is forgotten."""
        return self.open(self.vue_nodes)

    def load(self, file: Path) -> dict[str, Any]:
        """Open a workflow file as "Open" does; gives what is in the file."""
        text = file.read_text(encoding="utf-8")
        self.page.evaluate(_LOAD, [file.name, text])
        return dict(json.loads(text))

    def load_data(self, data: dict[str, Any], name: str = "test.json") -> None:
        self.page.evaluate(_LOAD, [name, json.dumps(data)])

    def found_wrong(self, file: dict[str, Any]) -> list[str]:
        """Missing nodes, dropped links, error dialogs, console errors."""
        stores = self.page.evaluate(_STORES)
        wrong = [*self.problems, *self.page.evaluate(_DANGLING, file)]
        return wrong + [f"{kind}: {value}" for kind, value in stores.items() if value]

    def prompt(self) -> dict[str, Any]:
        return dict(self.page.evaluate("async () => (await app.graphToPrompt()).output"))

    def serialized(self) -> dict[str, Any]:
        return dict(self.page.evaluate("() => JSON.parse(JSON.stringify(app.rootGraph.serialize()))"))

    def command(self, name: str) -> None:
        """One of the editor's commands, as from its menu; gives its task time to end."""
        self.page.evaluate("(name) => app.extensionManager.command.execute(name)", name)
        self.page.wait_for_timeout(500)

    def capture(self) -> None:
        """Let the editor take notice of what changed, as after every click: one step for undo."""
        self.page.evaluate("() => app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState()")
        self.page.wait_for_timeout(200)  # it gathers what follows at once

    def fit(self) -> None:
        self.command("Comfy.Canvas.FitView")

    def show(self, node: int, scale: float = 1.0) -> None:
        """Bring one node to the middle of the view, so that a mouse can reach it."""
        self.page.evaluate(
            """([id, scale]) => {
              const node = app.canvas.graph.getNodeById(id), ds = app.canvas.ds;
              ds.scale = scale;
              const [x, y] = node.pos, [w, h] = node.size;
              ds.offset = [innerWidth / 2 / scale - x - w / 2, innerHeight / 2 / scale - y - h / 2];
              app.canvas.setDirty(true, true);
            }""",
            [node, scale],
        )
        self.page.wait_for_timeout(500)

    def choose(self, menu: str, item: str) -> None:
        """Choose an item of a submenu of the main menu, with the mouse. Where the menu closes on the way, once more."""
        from playwright.sync_api import TimeoutError as TooLate

        target = self.page.get_by_role("menuitem", name=item)
        for attempt in range(5):
            try:
                self.page.locator(".comfy-menu-button-wrapper").click()
                self.page.get_by_role("menuitem", name=menu).hover(timeout=5000)
                target.click(timeout=5000)
                return
            except TooLate:
                if attempt == 4:
                    raise
                self.page.keyboard.press("Escape")
                self.page.mouse.move(5, 5)
                self.page.wait_for_timeout(500)

    def until(self, read: Callable[[], Any], wanted: Any, timeout: float = 60) -> None:
        """Wait until what is read is what is wanted; for whatever follows a click by itself, soon but not at once."""
        deadline = time.monotonic() + timeout
        while (found := read()) != wanted:
            assert time.monotonic() < deadline, f"{found!r} instead of {wanted!r} after {timeout} s"
            self.page.wait_for_timeout(100)

    def wait_started(self, runs: int, timeout: float = 60) -> None:
        """Wait until a run after so many finished ones has begun or is over, then until the server is idle."""

        def begun() -> bool:
            queue = self.server.get("/queue")
            return bool(queue["queue_running"] or queue["queue_pending"]) or len(self.server.get("/history")) > runs

        self.until(begun, True, timeout)
        self.wait_idle()

    def queue(self, nodes: list[str] | None = None) -> None:
        """Press Run (or run some output nodes only) and wait until the server is idle again."""
        self.page.evaluate("(nodes) => app.queuePrompt(0, 1, nodes ?? undefined)", nodes)
        self.wait_idle()

    def wait_idle(self, timeout: float = 120) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            queue = self.server.get("/queue")
            if (
                not queue["queue_running"]
                and not queue["queue_pending"]
                and self.page.evaluate(_HEARD_OF, self._runs())
            ):
                self.page.wait_for_timeout(500)  # what the page does about the last message
                return
            self.page.wait_for_timeout(100)
        raise TimeoutError(f"the queue is not empty, or the page has not heard of it, after {timeout} s")

    def _runs(self) -> list[tuple[str, str]]:
        """Runs that are over since the page was opened, and which client asked for each."""
        history = self.server.get("/history").items()
        return [(key, run["prompt"][3].get("client_id", "")) for key, run in history if key not in self._runs_before]


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser, of which a process may have one at a time."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def new_editor(browser: Any, server: ComfyServer, size: tuple[int, int] = (1600, 1000)) -> Editor:
    """A page of its own in a browser; nothing is opened yet."""
    page = browser.new_context(viewport={"width": size[0], "height": size[1]}).new_page()
    return Editor(page, server)


@contextmanager
def editor(server: ComfyServer, size: tuple[int, int] = (1600, 1000)) -> Iterator[Editor]:
    """A browser with one page; nothing is opened yet."""
    with chromium() as browser:
        yield new_editor(browser, server, size)
