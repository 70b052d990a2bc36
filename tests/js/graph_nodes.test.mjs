// The editor's nodes by the ids of prompts, through subgraphs; widgets that are saved, and those that change by themselves.

import assert from "node:assert/strict";
import { test } from "node:test";
import { editor, graph, load, open } from "./editor.mjs";

const { executionIds, hasControl, nodeAt, remember, saveWidget } = await load("graph_nodes.js");

const SUBGRAPH_INPUT = -10;
const seed = (control) => ({ name: "seed", linkedWidgets: [{ value: control, options: { values: ["fixed", "randomize"] } }] });

/** Node 1; node 5 inside of subgraph node 12; node 7 inside of 6, inside of 12. */
function nested() {
  const innermost = graph([{ id: 7, type: "Deep" }]);
  const inner = graph([{ id: 5, type: "Sample" }, { id: 6, type: "sub-2", subgraph: innermost }]);
  open(graph([{ id: 1, type: "Load" }, { id: 12, type: "sub-1", subgraph: inner }]));
  return { inner, innermost };
}

test("an id leads through subgraphs", () => {
  nested();
  assert.equal(nodeAt("1").type, "Load");
  assert.equal(nodeAt("12:5").type, "Sample");
  assert.equal(nodeAt("12:6:7").type, "Deep");
  for (const id of ["5", "1:5", "12:7", "99", ""]) assert.equal(nodeAt(id), undefined, id);
});

test("a node's ids in a prompt are all ways to it", () => {
  const { inner, innermost } = nested();
  assert.deepEqual(executionIds(editor.app.rootGraph.nodes[0]), ["1"]);
  assert.deepEqual(executionIds(innermost.nodes[0]), ["12:6:7"]);
  open(graph([{ id: 12, type: "sub-1", subgraph: inner }, { id: 13, type: "sub-1", subgraph: inner }]));
  assert.deepEqual(executionIds(innermost.nodes[0]), ["12:6:7", "13:6:7"]);
});

test("a seed that is set to randomise changes by itself, a fixed one does not", () => {
  const [random, fixed] = graph([{ widgets: [seed("randomize")] }, { widgets: [seed("fixed"), { name: "steps" }] }]).nodes;
  assert.equal(hasControl(random, "seed"), true);
  assert.equal(hasControl(fixed, "seed"), false);
  assert.equal(hasControl(fixed, "steps"), false);
  assert.equal(hasControl(random, "steps"), false);
  assert.equal(hasControl(undefined, "seed"), false);
  const other = { name: "size", linkedWidgets: [{ value: "crop", options: { values: ["crop", "pad"] } }] };
  assert.equal(hasControl(graph([{ widgets: [other] }]).nodes[0], "size"), false);
});

test("a primitive node that drives the input may change by itself, a real node's widgets say nothing", () => {
  const control = { value: "increment", options: { values: ["fixed", "increment", "randomize"] } };
  const driven = (isVirtualNode) =>
    graph(
      [{ id: 1, isVirtualNode, widgets: [{ name: "value" }, control] }, { id: 2, inputs: [{ name: "seed", link: 9 }] }],
      { 9: { origin_id: 1, origin_slot: 0 } },
    ).nodes[1];
  assert.equal(hasControl(driven(true), "seed"), true);
  assert.equal(hasControl(driven(false), "seed"), false);
});

test("a widget is saved by its place and by its name", () => {
  open(graph([{ id: 3, widgets: [{ name: "seed" }, { name: "steps" }] }]));
  const saved = { id: 3, type: "Sample", widgets_values: [1, 51], widgets_values_named: { seed: 1, steps: 51 } };
  saveWidget({ nodes: [saved] }, "3", "steps", 4);
  assert.deepEqual(saved.widgets_values, [1, 4]);
  assert.deepEqual(saved.widgets_values_named, { seed: 1, steps: 4 });
  saveWidget({ nodes: [saved] }, "3", "unknown", 4);
  assert.deepEqual(saved.widgets_values, [1, 4]);
  assert.deepEqual(saved.widgets_values_named, { seed: 1, steps: 4 });
});

test("older workflows save no names, and a place that was not saved is not made", () => {
  open(graph([{ id: 3, widgets: [{ name: "seed" }, { name: "new" }] }]));
  const saved = { id: 3, type: "Sample", widgets_values: [1] };
  saveWidget({ nodes: [saved] }, "3", "new", 4);
  assert.deepEqual(saved.widgets_values, [1]);
});

test("what a subgraph shows outside is saved with the subgraph's node", () => {
  const inner = graph([{ id: 5, widgets: [{ name: "seed" }], inputs: [{ name: "seed", link: 2 }] }], {
    2: { origin_id: SUBGRAPH_INPUT, origin_slot: 1 },
  });
  inner.inputs = [{ name: "prompt" }, { name: "the seed" }];
  open(graph([{ id: 12, subgraph: inner, widgets: [{ name: "prompt" }, { name: "the seed" }] }]));
  const workflow = {
    nodes: [{ id: 12, type: "sub", widgets_values: ["a ball", 1] }],
    definitions: { subgraphs: [{ id: "sub", nodes: [{ id: 5, type: "Sample", widgets_values: [1] }] }] },
  };
  saveWidget(workflow, "12:5", "seed", 8);
  assert.deepEqual(workflow.nodes[0].widgets_values, ["a ball", 8]);
  assert.deepEqual(workflow.definitions.subgraphs[0].nodes[0].widgets_values, [1]);
});

test("what does not come from outside is saved inside of the subgraph", () => {
  open(graph([{ id: 12, subgraph: graph([{ id: 5, widgets: [{ name: "seed" }] }]) }]));
  const workflow = {
    nodes: [{ id: 12, type: "sub", widgets_values: [3] }],
    definitions: { subgraphs: [{ id: "sub", nodes: [{ id: 5, type: "Sample", widgets_values: [1] }] }] },
  };
  saveWidget(workflow, "12:5", "seed", 8);
  assert.deepEqual(workflow.definitions.subgraphs[0].nodes[0].widgets_values, [8]);
  assert.deepEqual(workflow.nodes[0].widgets_values, [3]);
});

test("what is remembered goes into the node's properties, and the editor is told of the change", () => {
  let noted = 0;
  editor.app.extensionManager.workflow.activeWorkflow = { changeTracker: { captureCanvasState: () => noted++ } };
  const node = { properties: { other: 1 } };
  remember(node, "flashvideo", { a: 1 });
  assert.deepEqual(node.properties, { other: 1, flashvideo: { a: 1 } });
  assert.equal(noted, 1);
});
