// Refine: the graph as it is now, with the gate's ancestors as they were in the prompt that made the preview.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { executionIds, hasControl, nodeAt, saveWidget } from "./graph_nodes.js";
import { ancestorsOf, counterparts, editsBetween, isLink, putRecorded, Taken } from "./prompt_graph.js";
import { text } from "./texts.js";

/** @typedef {import("./prompt_graph.js").Prompt} Prompt */
/** @typedef {import("./prompt_graph.js").Edit} Edit */
/** @typedef {import("./graph_nodes.js").SavedWorkflow} SavedWorkflow */
/** @typedef {{ signature: string, node: string, link: unknown, ancestors: Prompt, approved: string }} GateState */
/** @typedef {{ node: LGraphNode, state: GateState | undefined }} Gate */
/** @typedef {{ output: Prompt, workflow: SavedWorkflow }} Queueable */
/**
 * @typedef {object} Job
 * @property {string[]} edited
 * @property {Queueable} prompt
 * @property {string[]} targets the gate and the outputs that follow it; empty where all of them wait for other gates
 * @property {string[]} waiting titles of gates where a choice is needed too
 */

const GATE = "FlashVideoPreviewGate";

/**
 * The gate's id in a prompt; inside a subgraph it is a path such as "12:5".
 * @param {Prompt} output
 * @param {LGraphNode} node
 * @param {string} remembered its id when it ran
 */
function gateId(output, node, remembered) {
  const found = executionIds(node).filter((id) => output[id]?.class_type === GATE);
  if (found.includes(remembered)) return remembered;
  const [id, ...more] = found;
  if (id === undefined) throw new Error(text("notInWorkflow"));
  if (more.length) throw new Error(text("usedTwice"));
  return id;
}

/**
 * All nodes that a node depends on.
 * @param {Prompt} output
 * @param {string} id
 */
function needs(output, id) {
  return new Set(Object.values(output[id]?.inputs ?? {}).flatMap((value) => [...ancestorsOf(output, value)]));
}

/**
 * Output nodes that need the gate, each with the gates beside it that it needs too.
 * @param {Prompt} output
 * @param {string} gate
 * @returns {Map<string, string[]>}
 */
function targetsAfter(output, gate) {
  /** @type {Map<string, string[]>} */
  const targets = new Map();
  for (const [id, node] of Object.entries(output)) {
    const needed = needs(output, id);
    if (!LiteGraph.registered_node_types[node.class_type]?.nodeData?.output_node || !needed.has(gate)) continue;
    const others = [...needed].filter((other) => other !== gate && output[other]?.class_type === GATE);
    targets.set(id, others.filter((other) => !needs(output, other).has(gate) && !needs(output, gate).has(other)));
  }
  return targets;
}

/**
 * An input as it is called on the screen.
 * @param {Edit} edit
 */
function nameOf({ id, input }) {
  const node = nodeAt(id);
  const slot = node?.inputs?.find(({ name }) => name === input);
  return `${node?.title ?? id}: ${slot?.label ?? slot?.localized_name ?? input}`;
}

/**
 * What was edited, for people to read. A seed that is set to randomise was not edited by anyone.
 * @param {Edit[]} edits
 */
function inWords(edits) {
  const found = edits.filter(({ id, input }) => !hasControl(nodeAt(id), input));
  return found.map((edit) => (edit.id ? nameOf(edit) : text("editedInput")));
}

/**
 * The workflow that goes into the result's file shows the widgets that made it, such as the seed from then.
 * @param {SavedWorkflow} workflow changed in place
 * @param {Prompt} recorded
 * @param {Map<string, string>} pairs ids then and now
 */
function withWidgets(workflow, recorded, pairs) {
  for (const [old, id] of pairs) {
    for (const [name, value] of Object.entries(recorded[old]?.inputs ?? {})) {
      if (!isLink(value)) saveWidget(workflow, id, name, value);
    }
  }
}

/**
 * What a gate's previews were made from, what it is connected to now, and which nodes play the same part in both.
 * @param {Prompt} output
 * @param {string} gate
 * @param {GateState} state
 */
function compared(output, gate, state) {
  const then = { prompt: state.ancestors, link: state.link };
  const now = { prompt: output, link: output[gate]?.inputs.latent };
  const pairs = counterparts(then, now);
  return { then, pairs, edited: inWords(editsBetween(then, now, pairs)) };
}

/**
 * What was edited since the previews were made, for people to read.
 * @param {Prompt} output of the workflow as it is now
 * @param {Gate} gate
 */
export function editedSince(output, { node, state }) {
  if (!state?.ancestors) return [];
  const id = executionIds(node).find((path) => output[path]?.class_type === GATE);
  return id === undefined ? [] : compared(output, id, state).edited; // muted: nothing is known
}

/**
 * What refining one preview would queue, and what was edited since the preview was made. Outputs that need other gates too
 * go on with what was chosen there.
 * @param {LGraphNode} node
 * @param {GateState | undefined} state
 * @param {string} hash of the preview
 * @param {Gate[]} others all other gates
 * @returns {Promise<Job>}
 */
export async function prepare(node, state, hash, others = []) {
  if (!state?.ancestors) throw new Error(text("unknownOrigin"));
  const { output, workflow } = /** @type {Queueable} */ (await app.graphToPrompt());
  const gate = gateId(output, node, state.node);
  const targets = targetsAfter(output, gate);
  if (!targets.size) throw new Error(text("nothingFollows"));
  /** @param {string} id */
  const at = (id) => others.find((other) => executionIds(other.node).includes(id));
  /** @param {string} id */
  const isChosen = (id) => Boolean(at(id)?.state?.approved);
  const beside = [...new Set([...targets.values()].flat())];
  const ready = [...targets].filter(([, needed]) => needed.every(isChosen)).map(([id]) => id);
  const waiting = beside.filter((id) => !isChosen(id)).map((id) => nodeAt(id)?.title ?? id);
  const going = [{ id: gate, state: { ...state, approved: hash } }];
  for (const id of beside.filter(isChosen)) going.push({ id, state: /** @type {GateState} */ (at(id)?.state) });
  const plans = going.map(({ id, state: made }) => ({ id, approve: made.approved, ...compared(output, id, made) }));
  const taken = new Taken();
  for (const { id, approve, then, pairs } of plans) {
    const recorded = { latent: putRecorded(output, then, pairs, taken), approve };
    output[id] = { class_type: GATE, inputs: { ...output[id]?.inputs, ...recorded } };
    withWidgets(workflow, then.prompt, pairs);
  }
  const edited = plans.flatMap((plan) => plan.edited);
  return { edited, prompt: { output, workflow }, targets: ready.length ? [gate, ...ready] : [], waiting };
}

/**
 * Queue it whole or not at all: the server would leave out the outputs that it refuses, and run the rest.
 * @param {Job} job
 * @returns {Promise<string>} the id of what was queued
 */
export async function queue({ prompt, targets }) {
  const data = /** @type {Parameters<typeof api.queuePrompt>[1]} */ (/** @type {unknown} */ (prompt));
  const response = await api.queuePrompt(0, data, { partialExecutionTargets: targets });
  const id = String(response.prompt_id);
  if (!Object.keys(response.node_errors ?? {}).length) return id;
  await api.fetchApi(`/jobs/${id}/cancel`, { method: "POST" });
  throw Object.assign(new Error(text("refused")), { response });
}
