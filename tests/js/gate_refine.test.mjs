// Refine: what is queued is the graph as it is now, with what made the preview as it was.

import assert from "node:assert/strict";
import { test } from "node:test";
import { editor, graph, load, open } from "./editor.mjs";

const { editedSince, prepare, queue } = await load("gate_refine.js");

const GATE = "FlashVideoPreviewGate";
const HASH = "0".repeat(32);
globalThis.LiteGraph = { registered_node_types: { Save: { nodeData: { output_node: true } }, [GATE]: { nodeData: { output_node: true } } } };

/** A sampler, the gate, a refiner and a node that saves; and one that saves something else. */
function prompt(seed) {
  return {
    1: { class_type: "Sample", inputs: { seed } },
    2: { class_type: GATE, inputs: { latent: ["1", 0], vae: ["9", 0], approve: "never" } },
    3: { class_type: "Refine", inputs: { latent: ["2", 0] } },
    4: { class_type: "Save", inputs: { video: ["3", 0] } },
    5: { class_type: "Save", inputs: { video: ["1", 0] } },
  };
}

/** The editor with this prompt's graph open; gives the gate's node and the workflow that would be saved. */
function opened(output, control = "fixed") {
  const linkedWidgets = [{ value: control, options: { values: ["fixed", "randomize"] } }];
  const sampler = { id: 1, title: "Stage I", inputs: [{ name: "seed", label: "Seed" }], widgets: [{ name: "seed", linkedWidgets }] };
  open(graph([sampler, ...[2, 3, 4, 5].map((id) => ({ id }))]));
  const workflow = { nodes: [{ id: 1, type: "Sample", widgets_values: [output["1"]?.inputs.seed] }] };
  editor.app.graphToPrompt = async () => ({ output, workflow });
  return { gate: editor.app.rootGraph.getNodeById(2), workflow };
}

const made = (seed) => ({ node: "2", link: ["1", 0], ancestors: { 1: prompt(seed)["1"] }, signature: "s", approved: "" });

test("the preview's sampler goes in as it was, the gate lets the chosen one through", async () => {
  const { gate, workflow } = opened(prompt(6));
  const job = await prepare(gate, made(5), HASH);
  const { output } = job.prompt;
  assert.equal(output["1"].inputs.seed, 5);
  assert.deepEqual(output["2"].inputs, { latent: ["1", 0], vae: ["9", 0], approve: HASH });
  assert.deepEqual(job.targets, ["2", "4"], "the gate and what needs it, not what saves something else");
  assert.deepEqual(workflow.nodes[0].widgets_values, [5], "the file's workflow shows the seed that made it");
});

test("an edit since then is named as on the screen; a seed that randomises itself is none", async () => {
  assert.deepEqual((await prepare(opened(prompt(6)).gate, made(5), HASH)).edited, ["Stage I: Seed"]);
  assert.deepEqual((await prepare(opened(prompt(6), "randomize").gate, made(5), HASH)).edited, []);
  assert.deepEqual((await prepare(opened(prompt(5)).gate, made(5), HASH)).edited, []);
});

test("a gate that is connected to something else now goes on with what it showed", async () => {
  const output = prompt(5);
  output["2"].inputs.latent = ["7", 0];
  output["7"] = { class_type: "Other", inputs: {} };
  const job = await prepare(opened(output).gate, made(5), HASH);
  assert.deepEqual(job.edited, ["the gate's input"]);
  const [place] = job.prompt.output["2"].inputs.latent;
  assert.equal(job.prompt.output[place].class_type, "Sample");
});

test("what cannot be refined is refused in words", async () => {
  await assert.rejects(prepare(opened(prompt(5)).gate, undefined, HASH), /not known what made this preview/);
  const muted = prompt(5);
  delete muted["2"];
  await assert.rejects(prepare(opened(muted).gate, made(5), HASH), /not in the workflow that would run/);
  const alone = prompt(5);
  delete alone["4"];
  await assert.rejects(prepare(opened(alone).gate, made(5), HASH), /Nothing follows this gate/);
});

test("a gate in a subgraph that is used twice is the one that ran, else nobody knows which", async () => {
  const inner = graph([{ id: 2 }]);
  open(graph([{ id: 12, subgraph: inner }, { id: 13, subgraph: inner }]));
  const output = {};
  for (const host of ["12", "13"]) {
    output[`${host}:2`] = { class_type: GATE, inputs: { latent: ["1", 0] } };
    output[`4${host}`] = { class_type: "Save", inputs: { latent: [`${host}:2`, 0] } };
  }
  editor.app.graphToPrompt = async () => ({ output, workflow: { nodes: [] } });
  const state = { ...made(5), node: "13:2" };
  assert.deepEqual((await prepare(inner.nodes[0], state, HASH)).targets, ["13:2", "413"]);
  await assert.rejects(prepare(inner.nodes[0], { ...state, node: "2" }, HASH), /used several times/);
});

/** Two gates, each behind a sampler; one output joins them, another needs the first alone. */
function joined() {
  const output = { ...prompt(5), 4: { class_type: "Save", inputs: { a: ["2", 0], b: ["12", 0] } } };
  output["11"] = { class_type: "Sample", inputs: { seed: 8 } };
  output["12"] = { class_type: GATE, inputs: { latent: ["11", 0], approve: "never" } };
  open(graph([1, 2, 3, 4, 5, 11, 12].map((id) => ({ id, title: `node ${id}` }))));
  editor.app.graphToPrompt = async () => ({ output: structuredClone(output), workflow: { nodes: [] } });
  const ancestors = { 11: { class_type: "Sample", inputs: { seed: 7 } } };
  const state = (approved) => ({ node: "12", link: ["11", 0], ancestors, signature: "t", approved });
  const [gate, other] = ["2", "12"].map((id) => editor.app.rootGraph.getNodeById(id));
  return { gate, output, others: (approved) => [{ node: other, state: approved === undefined ? undefined : state(approved) }] };
}

test("two gates in one output: the second goes on with what was chosen there, as it was made", async () => {
  const { gate, others } = joined();
  const job = await prepare(gate, made(5), HASH, others("1".repeat(32)));
  assert.deepEqual(job.targets, ["2", "4"]);
  assert.equal(job.prompt.output["2"].inputs.approve, HASH);
  assert.equal(job.prompt.output["12"].inputs.approve, "1".repeat(32));
  assert.equal(job.prompt.output["11"].inputs.seed, 7);
  assert.deepEqual(job.edited, ["node 11: seed"]);
  assert.deepEqual(job.waiting, []);
});

test("where nothing is chosen in the second gate, its outputs wait, and it is named", async () => {
  const { gate, output, others } = joined();
  for (const approved of ["", undefined]) {
    const job = await prepare(gate, made(5), HASH, others(approved));
    assert.deepEqual([job.targets, job.waiting], [[], ["node 12"]]);
  }
  output["6"] = { class_type: "Save", inputs: { a: ["2", 0] } };
  const job = await prepare(gate, made(5), HASH, others(""));
  assert.deepEqual([job.targets, job.waiting], [["2", "6"], ["node 12"]], "the other output runs");
  assert.equal(job.prompt.output["12"].inputs.approve, "never");
});

test("a gate behind the gate is an output that shows what comes to it", async () => {
  const { gate, output, others } = joined();
  output["12"].inputs.latent = ["3", 0];
  const job = await prepare(gate, made(5), HASH, others("1".repeat(32)));
  assert.deepEqual(job.targets, ["2", "4", "12"]);
  assert.equal(job.prompt.output["12"].inputs.approve, "never", "what was chosen there was made from something else");
});

test("edits since are found without queueing anything; of a muted gate nothing is known", () => {
  const { gate } = opened(prompt(6));
  assert.deepEqual(editedSince(prompt(6), { node: gate, state: made(5) }), ["Stage I: Seed"]);
  assert.deepEqual(editedSince(prompt(5), { node: gate, state: made(5) }), []);
  assert.deepEqual(editedSince({}, { node: gate, state: made(5) }), []);
  assert.deepEqual(editedSince(prompt(5), { node: gate, state: undefined }), []);
});

test("a job is queued in front of nothing, with its targets", async () => {
  const calls = [];
  editor.api.queuePrompt = async (...call) => (calls.push(call), { prompt_id: "p1" });
  const id = await queue({ edited: [], prompt: { output: {}, workflow: { nodes: [] } }, targets: ["2", "4"] });
  assert.equal(id, "p1");
  assert.deepEqual(calls, [[0, { output: {}, workflow: { nodes: [] } }, { partialExecutionTargets: ["2", "4"] }]]);
});

test("a prompt that the server would run in part is taken back, with its words", async () => {
  const asked = [];
  const node_errors = { 4: { class_type: "Save", errors: [{ message: "not in list" }] } };
  editor.api.queuePrompt = async () => ({ prompt_id: "p2", node_errors });
  editor.api.fetchApi = async (...call) => asked.push(call);
  const job = { edited: [], prompt: { output: {}, workflow: { nodes: [] } }, targets: ["2", "4"], waiting: [] };
  await assert.rejects(queue(job), (error) => error.response.node_errors === node_errors);
  assert.deepEqual(asked, [["/jobs/p2/cancel", { method: "POST" }]]);
});
