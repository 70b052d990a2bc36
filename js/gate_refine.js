// Refine: the graph as it is now, with the gate's ancestors as they were in the prompt that made the preview.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const GATE = "FlashVideoPreviewGate";

const isLink = (value) => Array.isArray(value) && value.length === 2 && typeof value[0] === "string";
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/** The gate's id in a prompt; inside a subgraph it is a path such as "12:5". */
function gateId(output, node, remembered) {
  for (const id of [String(node.id), remembered]) if (output[id]?.class_type === GATE && last(id) === String(node.id)) return id;
  const found = Object.keys(output).filter((id) => output[id].class_type === GATE && last(id) === String(node.id));
  if (found.length !== 1) throw new Error("This gate is not in the workflow that would run. Is it muted or bypassed?");
  return found[0];
}

const last = (id) => String(id).split(":").at(-1);

/** Ids of everything that a link depends on. */
export function ancestorsOf(output, link) {
  const found = new Set();
  const left = isLink(link) ? [link[0]] : [];
  while (left.length) {
    const id = left.pop();
    if (found.has(id) || !output[id]) continue;
    found.add(id);
    for (const value of Object.values(output[id].inputs)) if (isLink(value)) left.push(value[0]);
  }
  return found;
}

/** Output nodes that need the gate. */
function targetsAfter(output, gate) {
  const isOutput = (id) => LiteGraph.registered_node_types[output[id].class_type]?.nodeData?.output_node;
  return Object.keys(output).filter((id) => {
    if (id === gate || !isOutput(id)) return false;
    return Object.values(output[id].inputs).some((value) => isLink(value) && (value[0] === gate || ancestorsOf(output, value).has(gate)));
  });
}

/** Whether a widget changes by itself between runs: a seed that is set to randomise was not edited by anyone. */
function changesItself(id, name) {
  const widget = app.rootGraph.getNodeById(Number(id))?.widgets?.find((w) => w.name === name);
  // Found by what it offers: a node's schema may give the control any name.
  const control = widget?.linkedWidgets?.find((w) => w.options?.values?.includes?.("randomize"));
  return control !== undefined && control.value !== "fixed";
}

/** What differs between the ancestors then and now, for people to read. */
export function editsSince(then, now, link, linkNow) {
  const edits = same(link, linkNow) ? [] : ["the gate's input"];
  for (const [id, node] of Object.entries(then)) {
    const title = app.rootGraph.getNodeById(Number(id))?.title ?? node.class_type;
    if (now[id]?.class_type !== node.class_type) {
      edits.push(`${title} (removed)`);
      continue;
    }
    const names = new Set([...Object.keys(node.inputs), ...Object.keys(now[id].inputs)]);
    for (const name of names) {
      if (!same(node.inputs[name], now[id].inputs[name]) && !changesItself(id, name)) edits.push(`${title}: ${name}`);
    }
  }
  return edits;
}

/** Put recorded nodes into a prompt. A number that another kind of node has by now is replaced by a new one. */
export function withRecorded(output, recorded, link) {
  const taken = (id) => output[id] && output[id].class_type !== recorded[id].class_type;
  const fresh = Object.fromEntries(Object.keys(recorded).map((id) => [id, taken(id) ? `flashvideo-${id}` : id]));
  const moved = (value) => (isLink(value) && value[0] in fresh ? [fresh[value[0]], value[1]] : value);
  for (const [id, { class_type, inputs }] of Object.entries(recorded)) {
    const entries = Object.entries(inputs).map(([name, value]) => [name, moved(value)]);
    output[fresh[id]] = { ...output[fresh[id]], class_type, inputs: Object.fromEntries(entries) };
  }
  return moved(link);
}

/** The workflow that goes into the result's file shows the widgets that made it, such as the seed from then. */
function withWidgets(workflow, recorded) {
  for (const [id, { class_type, inputs }] of Object.entries(recorded)) {
    const saved = workflow.nodes.find((node) => String(node.id) === id && node.type === class_type);
    const widgets = app.rootGraph.getNodeById(Number(id))?.widgets ?? [];
    if (!Array.isArray(saved?.widgets_values)) continue;
    widgets.forEach(({ name }, k) => {
      if (k >= saved.widgets_values.length || !(name in inputs) || isLink(inputs[name])) return;
      saved.widgets_values[k] = inputs[name];
      if (saved.widgets_values_named?.[name] !== undefined) saved.widgets_values_named[name] = inputs[name];
    });
  }
}

/** What refining one preview would queue, and what was edited since the preview was made. */
export async function prepare(node, state, hash) {
  if (!state?.ancestors) throw new Error("It is not known what made this preview. Run the workflow, then press Refine.");
  const { output, workflow } = await app.graphToPrompt();
  const gate = gateId(output, node, state.node);
  const targets = targetsAfter(output, gate);
  if (!targets.length) throw new Error("Nothing follows this gate. Connect its latent to Stage II and save the result.");
  const edited = editsSince(state.ancestors, output, state.link, output[gate].inputs.latent);
  output[gate].inputs.latent = withRecorded(output, state.ancestors, state.link);
  output[gate].inputs.approve = hash;
  withWidgets(workflow, state.ancestors);
  return { edited, prompt: { output, workflow }, targets: [gate, ...targets] };
}

export async function queue({ prompt, targets }) {
  await api.queuePrompt(0, prompt, { partialExecutionTargets: targets });
}
