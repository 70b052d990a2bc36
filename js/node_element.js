// An element of ours in a node, whatever the editor does with the node: undo, paste, subgraphs, replacement.

/**
 * @typedef {object} Place
 * @property {string} name of the widget
 * @property {() => number} minHeight
 * @property {() => void} show called when the node has its place and what it remembers
 */

/** @type {Map<string, HTMLElement>} of nodes that are gone, by their numbers, until the editor has drawn once more */
const left = new Map();

/**
 * Do something more where the node does something of its own; this instance alone, others keep theirs.
 * @template {"onAdded" | "onConfigure" | "onExecuted" | "onRemoved"} Name
 * @param {EditorNode} node
 * @param {Name} name
 * @param {(...args: Parameters<NonNullable<EditorNode[Name]>>) => void} more
 */
export function chain(node, name, more) {
  const before = /** @type {((...args: unknown[]) => void) | undefined} */ (node[name]);
  Object.assign(node, {
    /** @param {Parameters<NonNullable<EditorNode[Name]>>} args */
    [name](...args) {
      before?.apply(this, args);
      more(...args);
    },
  });
}

/**
 * In Vue nodes the editor puts an element in once for each number of a node. Undo and redo make all nodes anew under their
 * old numbers, within one step: the element of the node that is gone would stay.
 * @param {EditorNode} node
 * @param {HTMLElement} element
 */
function takeOver(node, element) {
  const old = left.get(String(node.id));
  // Later, when the editor has drawn; it may have put the new one in by itself.
  if (old) setTimeout(() => old.isConnected && !element.isConnected && old.replaceWith(element));
}

/**
 * @param {EditorNode} node
 * @param {HTMLElement} element
 * @param {Place} place
 */
export function addElement(node, element, { name, minHeight, show }) {
  const widget = node.addDOMWidget(name, `FLASHVIDEO_${name.toUpperCase()}`, element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: minHeight,
  });
  widget.serialize = false;
  let added = false;
  chain(node, "onAdded", () => {
    added = true;
    takeOver(node, element);
  });
  chain(node, "onConfigure", show);
  chain(node, "onRemoved", () => {
    const id = String(node.id);
    left.set(id, element);
    for (const video of element.querySelectorAll("video")) video.pause(); // one that plays is never freed
    setTimeout(() => left.get(id) === element && left.delete(id));
  });
  // A node that replaces one of a missing kind is put into the graph without being added or configured.
  setTimeout(() => {
    if (added || !node.graph) return;
    node.onAdded?.(node.graph);
    show();
  });
}
