// Refine: the graph as it is now, with the gate's ancestors as they were in the prompt that made the preview.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { executionIds, hasControl, nodeAt, saveWidget } from "./graph_nodes.js";
import { ancestorsOf, counterparts, editsBetween, isLink, putRecorded } from "./prompt_graph.js";
import { text } from "./texts.js";

/** @typedef {import("./prompt_graph.js").Prompt} Prompt */
/** @typedef {import("./prompt_graph.js").Edit} Edit */
/** @typedef {import("./graph_nodes.js").SavedWorkflow} SavedWorkflow */
/** @typedef {{ signature: string, node: string, link: unknown, ancestors: Prompt, approved: string }} GateState */
/** @typedef {{ edited: string[], prompt: { output: Prompt, workflow: SavedWorkflow }, targets: string[] }} Job */

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
 * Output nodes that need the gate.
 * @param {Prompt} output
 * @param {string} gate
 */
function targetsAfter(output, gate) {
  return Object.entries(output)
    .filter(([, node]) => {
      if (!LiteGraph.registered_node_types[node.class_type]?.nodeData?.output_node) return false;
      return Object.values(node.inputs).some((value) => ancestorsOf(output, value).has(gate));
    })
    .map(([id]) => id);
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
 * What refining one preview would queue, and what was edited since the preview was made.
 * @param {LGraphNode} node
 * @param {GateState | undefined} state
 * @param {string} hash of the preview
 * @returns {Promise<Job>}
 */
export async function prepare(node, state, hash) {
  if (!state?.ancestors) throw new Error(text("unknownOrigin"));
  const { output, workflow } = /** @type {Job["prompt"]} */ (await app.graphToPrompt());
  const gate = gateId(output, node, state.node);
  const targets = targetsAfter(output, gate);
  if (!targets.length) throw new Error(text("nothingFollows"));
  const inputs = output[gate]?.inputs ?? {};
  const then = { prompt: state.ancestors, link: state.link };
  const now = { prompt: output, link: inputs.latent };
  const pairs = counterparts(then, now);
  const edited = inWords(editsBetween(then, now, pairs));
  const recorded = { latent: putRecorded(output, then, pairs), approve: hash };
  output[gate] = { class_type: GATE, inputs: { ...inputs, ...recorded } };
  withWidgets(workflow, state.ancestors, pairs);
  return { edited, prompt: { output, workflow }, targets: [gate, ...targets] };
}

/** @param {Job} job */
export async function queue({ prompt, targets }) {
  const data = /** @type {Parameters<typeof api.queuePrompt>[1]} */ (/** @type {unknown} */ (prompt));
  await api.queuePrompt(0, data, { partialExecutionTargets: targets });
}
