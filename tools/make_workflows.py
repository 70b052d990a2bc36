"""Write ``workflows/*.json`` and ``workflows/api/*.json`` from ``workflow_specs.py``, through the real editor.

The editor itself builds each graph, saves it and converts it, so what is written is what it reads. Run from the
repository root, with a ComfyUI where the tests find it: ``python -m tools.make_workflows [name ...]``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.comfy.server import ComfyServer, find_comfyui
from tests.ui.editor import Editor, editor
from tests.ui.models import add_tiny_models

from .workflow_notes import NOTE, Words
from .workflow_specs import GROWTH, WORKFLOWS, Workflow

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "workflows"

# The height that each note's text takes at a width, in Vue nodes: they set it wider apart than the canvas does.
_MEASURE = r"""async (notes) => {
  await app.loadGraphData({ last_node_id: 0, last_link_id: 0, nodes: [], links: [], groups: [], version: 0.4 });
  for (const [k, [text, width]] of notes.entries()) {
    const note = LiteGraph.createNode('MarkdownNote');
    app.rootGraph.add(note);
    note.widgets[0].value = text;
    note.pos = [0, 100 * k];
    note.setSize([width, 60]);
  }
  app.canvas.ds.scale = 1;
  app.canvas.setDirty(true, true);
  await new Promise((resolve) => setTimeout(resolve, 2000));
  return app.rootGraph.nodes.map((note) => {
    const text = document.querySelector(`.lg-node[data-node-id="${note.id}"] .comfy-markdown-content`);
    return text.scrollHeight;
  });
}"""

_BUILD = r"""async ([spec, heights, growth, noteTitle]) => {
  const [GAP, TITLE, PAD] = [50, 34, 24];  // Vue nodes are a little taller than those on the canvas
  await app.loadGraphData({ last_node_id: 0, last_link_id: 0, nodes: [], links: [], groups: [], version: 0.4 });
  const made = {};
  let x = 0;
  for (const group of spec.groups) {
    const column = [];
    if (group.note) {
      const note = LiteGraph.createNode('MarkdownNote');
      note.title = noteTitle;
      app.rootGraph.add(note);
      note.widgets[0].value = group.note;
      note.setSize([360, heights[group.note]]);
      column.push(note);
    }
    for (const [name, { kind, widgets, title, width, height, models }] of Object.entries(group.nodes)) {
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
      column.push(node);
    }
    const widest = Math.max(...column.map((node) => node.size[0]));
    let y = PAD + TITLE + 30;
    for (const node of column) {
      node.setSize([widest, node.size[1]]);
      node.pos = [x + PAD, y];
      y += node.size[1] + TITLE + GAP + (growth[node.type] ?? 0);
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
  const { output, workflow } = await app.graphToPrompt();
  return { output, workflow: JSON.parse(JSON.stringify(workflow)) };
}"""
_NOTE_WIDTH, _NOTE_FRAME = 360, 26  # the narrowest that a note becomes; what is around its text


def note_heights(page: Editor, workflows: Sequence[Workflow]) -> dict[str, int]:
    """Heights of the nodes that show the notes of some workflows without scrolling. The page has Vue nodes."""
    notes = list(dict.fromkeys(group.note for workflow in workflows for group in workflow.groups if group.note))
    texts = [text for note in notes for text in (note, note.chinese)]
    heights = page.page.evaluate(_MEASURE, [[text, _NOTE_WIDTH] for text in texts])
    highest = map(max, zip(heights[::2], heights[1::2], strict=True))
    return {note: height + _NOTE_FRAME for note, height in zip(notes, highest, strict=True)}


def words_of(workflow: Workflow) -> list[Words]:
    """All that a workflow says."""
    nodes = [node for group in workflow.groups for node in group.nodes.values()]
    words = [
        NOTE,
        *(text for group in workflow.groups for text in (group.title, group.note)),
        *(n.title for n in nodes),
    ]
    return [text for text in dict.fromkeys(words) if text]


def write(page: Editor, workflow: Workflow, heights: dict[str, int]) -> None:
    """Build one workflow in the editor and write both of its files."""
    made = page.page.evaluate(_BUILD, [asdict(workflow), heights, GROWTH, NOTE])
    saved = made["workflow"]
    for key in ("id", "revision"):  # differ from run to run
        saved.pop(key, None)
    saved.setdefault("extra", {}).pop("frontendVersion", None)
    saved["extra"]["flashvideo_texts"] = {"zh": {words: words.chinese for words in words_of(workflow)}}
    for path, data in (
        (FOLDER / f"{workflow.title}.json", saved),
        (FOLDER / "api" / f"{workflow.name}.json", made["output"]),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="workflows to write; all by default")
    names = parser.parse_args().names
    chosen = [workflow for workflow in WORKFLOWS if not names or workflow.name in names]
    comfyui = find_comfyui()
    if comfyui is None:
        parser.error("no ComfyUI found; set COMFYUI_PATH to its folder")
    with tempfile.TemporaryDirectory() as folder:
        server = ComfyServer(comfyui, Path(folder))
        add_tiny_models(server)
        server.start()
        try:
            with editor(server) as page:
                heights = note_heights(page.open(vue_nodes=True), chosen)
                page.open()
                for workflow in chosen:
                    write(page, workflow, heights)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
