// The editor's nodes by the ids that prompts use, which lead through subgraphs: "12:5" is node 5 in subgraph node 12.

import { app } from "../../scripts/app.js";

/**
 * @typedef {object} SavedNode
 * @property {string | number} id
 * @property {string} type
 * @property {unknown} [widgets_values]
 * @property {Record<string, unknown>} [widgets_values_named]
 */
/** @typedef {{ nodes: SavedNode[], definitions?: { subgraphs?: { id: string, nodes: SavedNode[] }[] } }} SavedWorkflow */

const SUBGRAPH_INPUT = -10; // origin of a link that comes from outside of a subgraph

/** @param {LGraphNode | null | undefined} node */
const inside = (node) => (node?.isSubgraphNode() ? node.subgraph : undefined);

/**
 * @param {string} id as in a prompt
 * @returns {LGraphNode | undefined}
 */
export function nodeAt(id) {
  /** @type {LGraph | undefined} */
  let graph = app.rootGraph;
  /** @type {LGraphNode | undefined} */
  let node;
  for (const part of id.split(":")) {
    node = graph?.getNodeById(part) ?? undefined;
    graph = inside(node);
  }
  return node;
}

/**
 * All ids that a node has in a prompt: several where its subgraph is used more than once.
 * @param {LGraphNode} node
 * @returns {string[]}
 */
export function executionIds(node) {
  const root = app.rootGraph;
  if (node.graph === root) return [String(node.id)];
  const graphs = [root, ...root.subgraphs.values()];
  const hosts = graphs.flatMap((graph) => graph.nodes.filter((host) => inside(host) === node.graph));
  return hosts.flatMap((host) => executionIds(host).map((path) => `${path}:${node.id}`));
}

/**
 * @param {LGraphNode} node
 * @param {string} name of an input
 */
const linkInto = (node, name) => node.graph?.getLink(node.inputs?.find((input) => input.name === name)?.link);

/**
 * Whether an input changes by itself between runs, such as a seed that is set to randomise.
 * @param {LGraphNode | undefined} node
 * @param {string} name
 */
export function hasControl(node, name) {
  if (!node) return false;
  const widget = node.widgets?.find((w) => w.name === name);
  const source = node.graph?.getNodeById(linkInto(node, name)?.origin_id);
  const primitive = source?.isVirtualNode ? (source.widgets ?? []) : []; // it holds the widget that it drives
  // Found by what it offers: a node's schema may give the control any name.
  const control = [...(widget?.linkedWidgets ?? []), ...primitive].find(({ options }) => {
    const values = options?.values;
    return Array.isArray(values) && values.includes("randomize");
  });
  return control !== undefined && control.value !== "fixed";
}

/**
 * @param {SavedWorkflow} workflow
 * @param {string} id
 */
function savedNode(workflow, id) {
  let nodes = workflow.nodes;
  /** @type {SavedNode | undefined} */
  let found;
  for (const part of id.split(":")) {
    const node = nodes.find((n) => String(n.id) === part);
    nodes = workflow.definitions?.subgraphs?.find((graph) => graph.id === node?.type)?.nodes ?? [];
    found = node;
  }
  return found;
}

/**
 * Write a widget's value into a saved workflow. What a subgraph shows outside is kept with the subgraph's node.
 * @param {SavedWorkflow} workflow changed in place
 * @param {string} id
 * @param {string} name
 * @param {unknown} value
 */
export function saveWidget(workflow, id, name, value) {
  const node = nodeAt(id);
  const link = node && linkInto(node, name);
  if (link && Number(link.origin_id) === SUBGRAPH_INPUT) {
    const outside = inside(nodeAt(hostOf(id)))?.inputs[link.origin_slot]?.name;
    if (outside !== undefined) saveWidget(workflow, hostOf(id), outside, value);
    return;
  }
  const place = node?.widgets?.findIndex((w) => w.name === name) ?? -1;
  const { widgets_values: values, widgets_values_named: named } = savedNode(workflow, id) ?? {};
  if (place >= 0 && Array.isArray(values) && place < values.length) values[place] = value;
  if (named && name in named) named[name] = value;
}

/** @param {string} id */
const hostOf = (id) => id.split(":").slice(0, -1).join(":");

/**
 * Keep what a run gave to a node in its properties, which the workflow saves. The editor notices only what people edit;
 * without being told, it would restore the page without these.
 * @param {LGraphNode} node
 * @param {string} key
 * @param {object} value
 */
export function remember(node, key, value) {
  Object.assign(node.properties, { [key]: value });
  app.extensionManager.workflow.activeWorkflow?.changeTracker?.captureCanvasState();
}
