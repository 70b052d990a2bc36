// The modules of js/ without the editor, before as much of a graph as they look at.

import { register } from "node:module";

register("./hooks.mjs", import.meta.url);

const settings = new Map([["Comfy.Locale", "en"]]);

/** What `scripts/app.js` and `scripts/api.js` export. */
export const editor = {
  app: { rootGraph: undefined, extensionManager: { setting: { get: (id) => settings.get(id) }, workflow: {} } },
  api: {},
  settings,
};
globalThis.editorOfTests = editor;

/** A module of js/ by its name. */
export const load = (name) => import(new URL(`../../js/${name}`, import.meta.url));

/**
 * A graph of nodes `{ id, type, title, inputs, widgets, subgraph }`; links are `{ origin_id, origin_slot }` by their ids.
 * A subgraph is a graph of this kind too, and belongs to the node or nodes that have it.
 */
export function graph(nodes, links = {}) {
  const made = { links, subgraphs: new Map(), getLink: (id) => links[id] };
  made.nodes = nodes.map((node) => ({ ...node, graph: made, isSubgraphNode: () => node.subgraph !== undefined }));
  made.getNodeById = (id) => made.nodes.find((node) => String(node.id) === String(id)) ?? null;
  return made;
}

/** Make a graph the one that is open; it knows all subgraphs, wherever they are. */
export function open(root) {
  const inside = ({ nodes }) => nodes.flatMap(({ subgraph }) => (subgraph ? [subgraph, ...inside(subgraph)] : []));
  root.subgraphs = new Map([...new Set(inside(root))].entries());
  editor.app.rootGraph = root;
}
