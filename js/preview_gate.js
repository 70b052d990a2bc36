// The Preview Gate in the editor: previews that play, a Refine button under each, and the store's size.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { follow, listen, onJobs, recall, refuse } from "./gate_jobs.js";
import { editedSince, prepare, queue } from "./gate_refine.js";
import { GateView } from "./gate_view.js";
import { remember } from "./graph_nodes.js";
import { addElement, chain } from "./node_element.js";
import { seedsOf } from "./prompt_graph.js";
import { text } from "./texts.js";

/** @typedef {import("./gate_refine.js").GateState} GateState */
/** @typedef {import("./gate_view.js").Preview} Preview */
/** @typedef {import("./gate_view.js").StoreState} StoreState */
/** @typedef {GateState & { stale: boolean, previews: Preview[] }} Shown what the node's run gives to the editor */
/** @typedef {{ node: EditorNode, view: GateView }} Gate */

const NODE = "FlashVideoPreviewGate";
const STATE = "flashvideo_gate"; // key in node.properties, which the workflow saves
const BATCHES = "flashvideo_gate_batches"; // states of all its batches, the one that is shown among them
const MOST_BATCHES = 8;
const SETTLED = 400; // milliseconds after the last edit
const LIMIT = "FlashVideo.PreviewStore.Limit";
const EMPTY = "FlashVideo.EmptyPreviewStore";
const DEFAULT_LIMIT = 8192; // megabytes, as in kept/store.py
const CHANGED = /** @type {any} */ ("flashvideo.previews"); // an event of the server's; the types know the editor's own
const WIDTH = 400; // two previews side by side
const ROUTE = "/flashvideo/previews";
/** @type {Set<Gate>} */
const gates = new Set(); // all gates on screen show the same store

/**
 * @param {string} action
 * @param {unknown} [body]
 * @returns {Promise<StoreState>}
 */
async function store(action = "", body) {
  const options = body ? { method: "POST", body: JSON.stringify(body) } : {};
  const answer = await api.fetchApi(ROUTE + action, options);
  const state = await answer.json();
  if (!answer.ok) throw new Error(state.error);
  return state;
}

async function showStore(state = store()) {
  const now = await state;
  for (const { view } of gates) view.setStore(now);
}

/** After the store changed, here or in another tab: a gate whose previews are gone says so. */
async function showWhatIsLeft() {
  await Promise.all([showStore(), ...[...gates].map((gate) => restore(gate, true))]);
}

async function emptyStore() {
  try {
    await store("/empty", {});
    toast("info", text("emptied"));
  } catch (error) {
    toast("error", message(error));
  }
}

async function confirmAndEmpty() {
  const asked = { title: text("emptyStore"), message: text("emptyQuestion"), type: /** @type {const} */ ("delete") };
  if (await app.extensionManager.dialog.confirm(asked)) await emptyStore();
}

/** The server keeps the limit; the setting shows it and changes it. */
async function readLimit() {
  const { limit_megabytes: limit } = await store();
  if (app.extensionManager.setting.get(LIMIT) !== limit) app.extensionManager.setting.set(LIMIT, limit);
}

/** @param {unknown} megabytes */
async function setLimit(megabytes) {
  try {
    if ((await store()).limit_megabytes === megabytes) return;
    await store("/limit", { megabytes });
  } catch {
    toast("error", text("limitRefused"));
    await readLimit();
  }
}

/** @param {EditorNode} node */
const stateOf = (node) => /** @type {GateState | undefined} */ (/** @type {unknown} */ (node.properties?.[STATE]));

/**
 * Show what the workflow remembers, from the store: after a reload, an undo or a restart nothing needs to be queued.
 * @param {Gate} gate
 * @param {boolean} [again] what is shown is still right if it is there
 */
async function restore({ node, view }, again = false) {
  const state = stateOf(node);
  if (!state?.signature) return;
  const answer = await api.fetchApi(`${ROUTE}/${state.signature}`);
  if (stateOf(node) !== state) return; // it ran meanwhile
  const page = pageOf(node);
  if (!answer.ok) view.setPreviews([], { status: text("gone"), page });
  else if (!again || !view.count) showBatch(node, view, (await answer.json()).previews, state);
}

/** @param {EditorNode} node */
const batchesOf = (node) => /** @type {GateState[]} */ (/** @type {unknown} */ (node.properties?.[BATCHES] ?? []));

/** @param {EditorNode} node */
function pageOf(node) {
  const batches = batchesOf(node);
  const at = batches.findIndex(({ signature }) => signature === stateOf(node)?.signature);
  return { number: at + 1 || 1, count: Math.max(1, batches.length) };
}

/**
 * @param {EditorNode} node
 * @param {GateView} view
 * @param {Preview[]} previews
 * @param {GateState} state
 */
function showBatch(node, view, previews, state, words = "") {
  const seeds = state.ancestors ? seedsOf(state.ancestors, state.link, previews.length) : [];
  view.setPreviews(previews, { status: words, approved: state.approved, seeds, page: pageOf(node) });
  markChanged();
}

/**
 * Remember a batch as the one that is shown; those before it stay within reach.
 * @param {EditorNode} node
 * @param {GateState} state
 */
function keep(node, state) {
  const others = batchesOf(node).filter(({ signature }) => signature !== state.signature);
  const place = batchesOf(node).findIndex(({ signature }) => signature === state.signature);
  others.splice(place < 0 ? others.length : place, 0, state);
  Object.assign(node.properties, { [BATCHES]: others.slice(-MOST_BATCHES) });
  remember(node, STATE, state);
}

/**
 * @param {Gate} gate
 * @param {number} step to an earlier or a later batch
 */
async function turn(gate, step) {
  const batches = batchesOf(gate.node);
  const state = batches[pageOf(gate.node).number - 1 + step];
  if (!state) return;
  remember(gate.node, STATE, state);
  await restore(gate);
}

/** @type {ReturnType<typeof setTimeout> | undefined} */
let settling;

/** Mark previews that the workflow, as it is by now, would not make. */
function markChanged() {
  clearTimeout(settling);
  settling = setTimeout(async () => {
    const shown = [...gates].filter(({ view }) => view.count);
    if (!shown.length) return;
    const { output } = /** @type {{ output: import("./prompt_graph.js").Prompt }} */ (await app.graphToPrompt());
    for (const { node, view } of shown) view.setChanged(editedSince(output, { node, state: stateOf(node) }));
  }, SETTLED);
}

/** @param {EditorNode} node */
function attach(node) {
  const view = new GateView({
    onRefine: (chosen) => press(node, view, chosen),
    onEmpty: emptyStore,
    onPage: (step) => turn(gate, step).catch(complain),
  });
  const gate = { node, view };
  /** @param {unknown} error */
  const complain = (error) => view.setStatus(message(error), true);
  addElement(node, view.element, {
    name: "previews",
    minHeight: () => view.minHeight,
    show: () => restore(gate).catch(complain),
  });
  view.onResize = () => {
    const [width, height] = node.computeSize();
    node.setSize([Math.max(node.size[0], width, WIDTH), Math.max(node.size[1], height)]);
    node.graph?.setDirtyCanvas(true, true);
  };

  node.setSize([Math.max(node.size[0], WIDTH), node.size[1]]);
  chain(node, "onExecuted", (output) => {
    const shown = /** @type {Shown | undefined} */ (output?.flashvideo_gate?.[0]);
    if (!shown) return;
    const { signature, node: id, link, ancestors, approved } = shown;
    const state = { signature, node: id, link, ancestors, approved };
    keep(node, state);
    showBatch(node, view, shown.previews, state, status(shown, view.notes.get(approved) ?? ""));
    const refused = view.refused.get(approved); // the server may have run the gate before it was told to stop
    if (refused) view.setStatus(refused, true);
    showStore().catch(complain);
  });
  let forget = () => {};
  chain(node, "onAdded", () => {
    gates.add(gate);
    forget = onJobs(() => view.showJobs());
  });
  chain(node, "onRemoved", () => {
    gates.delete(gate);
    forget();
  });
  showStore().catch(complain);
}

/** @param {Shown} shown @param {string} note */
function status({ approved, stale, previews }, note) {
  if (stale) return text("stale");
  const number = previews.findIndex(({ hash }) => hash === approved) + 1;
  return number ? text("wentOn", { number, note }) : "";
}

/**
 * @param {EditorNode} node
 * @param {GateView} view
 * @param {{ preview: Preview, number: number }[]} chosen each is queued by itself
 */
async function press(node, view, chosen) {
  const others = [...gates].filter((gate) => gate.node !== node).map((gate) => ({ node: gate.node, state: stateOf(gate.node) }));
  for (const { preview, number } of chosen) {
    view.refused.delete(preview.hash);
    view.setStatus(text("queueing", { number }));
    try {
      const state = stateOf(node);
      const job = await prepare(node, state, preview.hash, others);
      const gatesLeft = job.waiting.join(", ");
      if (!job.targets.length && state) {
        keep(node, { ...state, approved: preview.hash });
        view.setApproved(preview.hash);
        view.setStatus(text("chosen", { number, gates: gatesLeft }));
        continue;
      }
      const note = job.edited.length ? text("edited", { edits: job.edited.join(", ") }) : "";
      view.notes.set(preview.hash, note);
      view.setStatus(text("queued", { number, note }), note !== "");
      if (note) toast("warn", note);
      await follow(await queue(job), preview.hash);
    } catch (error) {
      view.refused.set(preview.hash, message(error));
      refuse(preview.hash, message(error));
      view.setStatus(message(error), true);
      toast("error", message(error));
    }
  }
}

/**
 * What an error says; a refused prompt names the nodes that are wrong.
 * @param {unknown} error
 */
function message(error) {
  const { response } = /** @type {Refusal} */ (error);
  const refused = Object.values(response?.node_errors ?? {}).flatMap(({ class_type, errors }) =>
    errors.map((problem) => [class_type, problem.message, problem.details].filter(Boolean).join(": ")),
  );
  const whole = typeof response?.error === "string" ? response.error : response?.error?.message;
  return refused.join(" · ") || whole || (error instanceof Error ? error.message : String(error));
}

/** @param {"info" | "warn" | "error"} severity @param {string} detail */
function toast(severity, detail) {
  app.extensionManager.toast.add({ severity, summary: text("gate"), detail, life: 8000 });
}

app.registerExtension({
  name: "FlashVideo.PreviewGate",
  settings: [
    {
      id: /** @type {any} */ (LIMIT), // the editor's type knows its own settings only
      name: "Size limit of the store (MB)",
      category: ["FlashVideo", "Store", "Limit"],
      tooltip: "Of previews, and of what Refine Video keeps to go on with. What was not used for longest is removed first.",
      type: "number",
      defaultValue: DEFAULT_LIMIT,
      attrs: { min: 1, max: 1048576, showButtons: false },
      // Called once without an old value when the editor starts: nobody has changed anything then.
      onChange: (megabytes, before) => (before === undefined ? undefined : setLimit(megabytes)),
    },
  ],
  commands: [
    {
      id: EMPTY,
      label: "FlashVideo: empty the store",
      menubarLabel: "Empty the store",
      function: confirmAndEmpty,
    },
  ],
  menuCommands: [{ path: ["FlashVideo"], commands: [EMPTY] }],
  setup: async () => {
    /** @param {unknown} error */
    const warn = (error) => console.warn("FlashVideo:", message(error));
    api.addEventListener(CHANGED, () => showWhatIsLeft().catch(warn));
    api.addEventListener(/** @type {any} */ ("graphChanged"), markChanged);
    listen();
    await Promise.all([readLimit(), recall()]).catch(warn);
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) attach(/** @type {EditorNode} */ (node));
  },
});
