"""The real editor in a headless Chromium, before a real server; skipped with one line where either is missing."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.comfy.server import ComfyServer, find_comfyui
from tests.conftest import skipped_for
from tests.ui.editor import Editor, chromium, find_chromium, new_editor
from tests.ui.models import add_tiny_models

HERE = Path(__file__).parent
_COMFYUI = "ComfyUI (set COMFYUI_PATH)"
_NEEDED = {
    _COMFYUI: find_comfyui() is not None,
    "Chromium (set CHROMIUM_PATH)": find_chromium() is not None,
    "the playwright package": importlib.util.find_spec("playwright") is not None,
}
_MISSING = [name for name, there in _NEEDED.items() if not there]
_WITHOUT_COMFYUI = {"test_compare_page.py"}  # a page that opens from the disk


def _reason(item: pytest.Item) -> str:
    """Why a test cannot run here; "" if it can."""
    alone = Path(item.path).name in _WITHOUT_COMFYUI
    missing = [name for name in _MISSING if not (alone and name == _COMFYUI)]
    return f"missing: {', '.join(missing)}" if missing else ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in Path(item.path).parents and (reason := _reason(item)):
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for missing in (_MISSING, [name for name in _MISSING if name != _COMFYUI]):
        reason = f"missing: {', '.join(missing)}"
        if skipped := skipped_for(terminalreporter, reason):
            terminalreporter.write_line(f"tests/ui: {skipped} tests skipped, {reason}.")
            break


@pytest.fixture(scope="session")
def ui_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server with the pack and the tiny models under the published files' names."""
    comfyui = find_comfyui()
    assert comfyui is not None
    server = ComfyServer(comfyui, tmp_path_factory.mktemp("comfyui-ui"))
    add_tiny_models(server)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def page(browser: Any, ui_server: ComfyServer) -> Editor:
    return new_editor(browser, ui_server)


@pytest.fixture(scope="module", params=["canvas", "vue"])
def rendered(request: pytest.FixtureRequest, page: Editor) -> Editor:
    """The editor, opened anew in each of its two renderings of nodes."""
    return page.open(vue_nodes=request.param == "vue")


@pytest.fixture
def screenshot(page: Editor, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """A picture of the page when the test ends, in ``FLASHVIDEO_SCREENSHOTS`` or the test's folder."""
    yield
    folder = Path(os.environ.get("FLASHVIDEO_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    name = "".join(c if c.isalnum() else "-" for c in request.node.name).strip("-")
    page.page.screenshot(path=str(folder / f"{name}.png"))
