"""The tiny demo with the Preview Gate in the middle of the view, and what one does with it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.ui.editor import Editor
from tests.ui.small import editor_file

STAGE1, GATE, EMPTY = "FlashVideoStage1Sampler", "FlashVideoPreviewGate", "FlashVideoEmptyLatent"
_FIND = """(type) => {
  const graphs = [app.rootGraph, ...app.rootGraph.subgraphs.values()];
  return graphs.flatMap((graph) => graph.nodes).find((node) => node.type === type);
}"""
_ID = f"(type) => String(({_FIND})(type).id)"
_SET = f"""([type, name, value]) => {{
  const widget = ({_FIND})(type).widgets.find((w) => w.name === name);
  const before = widget.value;
  if (value !== null) widget.value = value;
  return before;
}}"""
_CONTROL = (
    f"(mode) => {{ ({_FIND})('{STAGE1}').widgets.find((w) => w.name === 'seed').linkedWidgets[0].value = mode; }}"
)
_SUBGRAPH = """async (types) => {
  const nodes = app.canvas.graph.nodes.filter((node) => types.includes(node.type));
  app.canvas.deselectAll();
  for (const node of nodes) app.canvas.select(node);
  await app.extensionManager.command.execute('Comfy.Graph.ConvertToSubgraph');
  return String(app.canvas.graph.nodes.find((node) => node.isSubgraphNode()).id);
}"""
_ENTER = """(id) => {
  const node = app.rootGraph.getNodeById(id);
  app.canvas.openSubgraph(node.subgraph, node);
}"""
_WATCH = """() => {
  window.flashvideoRan = [];
  window.comfyAPI.api.api.addEventListener('executing', ({ detail }) => detail && window.flashvideoRan.push(detail));
}"""


class GateBench:
    """A person before the editor; node ids are those of the workflow file."""

    def __init__(self, page: Editor) -> None:
        self.page, self.server = page, page.server
        page.load(editor_file("tiny-demo"))
        self.make_small()
        self.gate, self.sampler = self.find(GATE), self.find(STAGE1)
        self.watch()
        self.show()

    def make_small(self) -> None:
        """The sizes of the workflow that is open."""
        for kind in (EMPTY, "FlashVideoUpscaleEncode"):
            for name, value in {"size": "custom", "width": 64, "height": 48}.items():
                self.widget(kind, name, value)
        self.widget(EMPTY, "length", 5)
        self.widget(STAGE1, "steps", 2)

    def find(self, kind: str) -> str:
        """The id of the node of a kind, also of one in a subgraph."""
        return str(self.page.page.evaluate(_ID, kind))

    def show(self, scale: float = 1.2) -> None:
        self.page.show(int(self.find(GATE)), scale)

    def watch(self) -> None:
        """Note from now on which nodes run; again after the page was opened anew."""
        self.page.page.evaluate(_WATCH)

    def ran(self) -> list[str]:
        """Ids of the nodes that ran since the last call; what came from ComfyUI's cache is not among them."""
        return list(self.page.page.evaluate("() => window.flashvideoRan.splice(0)"))

    def widget(self, kind: str, name: str, value: Any = None) -> Any:
        """Set a widget, or read it; gives what it was."""
        return self.page.page.evaluate(_SET, [kind, name, value])

    def seed_control(self, mode: str) -> None:
        self.page.page.evaluate(_CONTROL, mode)

    def to_subgraph(self, kinds: Iterable[str]) -> str:
        """Convert nodes to a subgraph; gives the id of its node."""
        made = str(self.page.page.evaluate(_SUBGRAPH, [*kinds]))
        self.page.page.wait_for_timeout(500)
        return made

    def enter(self, subgraph: str) -> None:
        """Open a subgraph, as its button does."""
        self.page.page.evaluate(_ENTER, subgraph)
        self.page.page.wait_for_timeout(700)

    def make(self) -> None:
        """Run the gate alone, as a partial run."""
        self.page.queue([self.gate])
        self.expect_cards(2)
        self.show()

    def press(self, number: int) -> None:
        """A real mouse click on a Refine button, then wait for the run."""
        runs = self.runs()
        self.page.page.locator(".flashvideo-gate .refine").nth(number - 1).click()
        self.page.wait_started(runs)

    def runs(self) -> int:
        """How many runs are over since the server started."""
        return len(self.server.get("/history"))

    def expect_cards(self, number: int) -> None:
        """Wait until the gate shows so many previews."""
        self.page.until(self.cards, number)

    def expect_status(self, part: str) -> None:
        """Wait until the gate says something with these words."""
        self.page.page.locator(".flashvideo-gate .status", has_text=part).wait_for()

    def cards(self) -> int:
        return int(self.page.page.locator(".flashvideo-gate .refine").count())

    def status(self) -> str:
        return str(self.page.page.inner_text(".flashvideo-gate .status"))

    def saved(self) -> list[Path]:
        return sorted((self.server.base / "output").rglob("*.mp4"))

    def last(self) -> dict[str, Any]:
        """The last run: its prompt, and what its gate showed."""
        entries = self.server.get("/history").values()
        return dict(max(entries, key=lambda entry: entry["prompt"][0]))

    def shown(self, gate: str = "") -> dict[str, Any]:
        return dict(self.last()["outputs"][gate or self.gate]["flashvideo_gate"][0])

    def state(self) -> dict[str, Any]:
        """What the gate's node remembers in the workflow."""
        return dict(self.page.page.evaluate(f"(type) => ({_FIND})(type).properties.flashvideo_gate", GATE))
