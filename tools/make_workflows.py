"""Write ``workflows/*.json`` and ``workflows/api/*.json`` from ``workflow_specs.py``, through the real editor.

The editor itself builds each graph, saves it and converts it, so what is written is what it reads. Run from the
repository root, with a ComfyUI where the tests find it: ``python -m tools.make_workflows [name ...]``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.comfy.server import ComfyServer, find_comfyui
from tests.ui.editor import Editor, editor
from tests.ui.models import add_tiny_models

from .workflow_specs import WORKFLOWS, Workflow

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "workflows"

_BUILD = r"""async (spec) => {
  const [GAP, TITLE, PAD] = [76, 34, 24];  // Vue nodes are taller than those on the canvas
  await app.loadGraphData({ last_node_id: 0, last_link_id: 0, nodes: [], links: [], groups: [], version: 0.4 });
  const made = {};
  let x = 0;
  for (const group of spec.groups) {
    const column = [];
    if (group.note) {
      const note = LiteGraph.createNode('MarkdownNote');
      note.title = 'Note';
      app.rootGraph.add(note);
      note.widgets[0].value = group.note;
      const lines = group.note.split('\n').reduce((n, line) => n + Math.max(1, Math.ceil(line.length / 54)), 0);
      note.setSize([360, 60 + 19 * lines]);
      column.push(note);
    }
    for (const [name, { kind, widgets, title, width, height, room, models }] of Object.entries(group.nodes)) {
      const node = made[name] = LiteGraph.createNode(kind);
      if (!node) throw new Error(`no node ${kind}`);
      app.rootGraph.add(node);
      if (title) node.title = title;
      if (models.length) node.properties.models = models;
      for (const [key, value] of Object.entries(widgets)) {
        const widget = node.widgets.find((w) => w.name === key);
        if (!widget) throw new Error(`${kind} has no widget ${key}`);
        widget.value = value;
      }
      const least = node.computeSize();
      node.setSize([Math.max(node.size[0], least[0], width || 320), Math.max(node.size[1], least[1], height)]);
      column.push(Object.assign(node, { flashvideoRoom: room }));
    }
    const widest = Math.max(...column.map((node) => node.size[0]));
    let y = PAD + TITLE + 30;
    for (const node of column) {
      node.setSize([widest, node.size[1]]);
      node.pos = [x + PAD, y];
      y += node.size[1] + TITLE + GAP + (node.flashvideoRoom ?? 0);
    }
    const frame = new LiteGraph.LGraphGroup(group.title);
    frame.pos = [x, 0];
    frame.size = [widest + 2 * PAD, y - GAP];
    frame.color = group.colour;
    app.rootGraph.add(frame);
    x += widest + 2 * PAD + GAP;
  }
  for (const group of spec.groups) for (const [name, { kind, inputs }] of Object.entries(group.nodes))
    for (const [key, [from, output]] of Object.entries(inputs)) {
      const slot = made[name].inputs.findIndex((input) => input.name === key);
      if (slot < 0) throw new Error(`${kind} has no input ${key}`);
      if (!made[from].connect(output, made[name], slot)) throw new Error(`${from} does not fit ${name}.${key}`);
    }
  app.canvas.ds.scale = 0.6;
  app.canvas.ds.offset = [80, 120];
  const { output, workflow } = await app.graphToPrompt();
  return { output, workflow: JSON.parse(JSON.stringify(workflow)) };
}"""


def write(page: Editor, workflow: Workflow) -> None:
    """Build one workflow in the editor and write both of its files."""
    made = page.page.evaluate(_BUILD, asdict(workflow))
    saved = made["workflow"]
    for key in ("id", "revision"):  # differ from run to run
        saved.pop(key, None)
    saved.setdefault("extra", {}).pop("frontendVersion", None)
    for path, data in ((FOLDER, saved), (FOLDER / "api", made["output"])):
        path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
        (path / f"{workflow.file}.json").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="workflows to write; all by default")
    names = parser.parse_args().names
    comfyui = find_comfyui()
    if comfyui is None:
        parser.error("no ComfyUI found; set COMFYUI_PATH to its folder")
    with tempfile.TemporaryDirectory() as folder:
        server = ComfyServer(comfyui, Path(folder))
        add_tiny_models(server)
        server.start()
        try:
            with editor(server) as page:
                page.open()
                for workflow in WORKFLOWS:
                    if not names or workflow.file in names:
                        write(page, workflow)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
