// The Preview Gate in the editor: previews that play, a Refine button under each, and the store's size.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { prepare, queue } from "./gate_refine.js";
import { GateView } from "./gate_view.js";

const NODE = "FlashVideoPreviewGate";
const STATE = "flashvideo_gate"; // key in node.properties, which the workflow saves
const LIMIT = "FlashVideo.PreviewStore.Limit";
const DEFAULT_LIMIT = 1024; // megabytes, as in preview_store.py
const WIDTH = 400; // two previews side by side
const ROUTE = "/flashvideo/previews";
const views = new Set(); // all gates on screen show the same store

async function store(action = "", body) {
  const options = body ? { method: "POST", body: JSON.stringify(body) } : {};
  const answer = await api.fetchApi(ROUTE + action, options);
  const state = await answer.json();
  if (!answer.ok) throw new Error(state.error);
  return state;
}

async function showStore() {
  const state = await store();
  for (const view of views) view.setStore(state);
}

async function emptyStore() {
  const state = await store("/empty", {});
  for (const view of views) {
    view.setStore(state);
    view.setPreviews([], "The preview store is empty. Run the workflow to make previews.");
  }
}

async function setLimit(megabytes) {
  const now = await store();
  if (now.limit_megabytes !== megabytes) await store("/limit", { megabytes });
  await showStore();
}

/** Show what the workflow remembers, from the store: after a reload, an undo or a restart nothing needs to be queued. */
async function restore(node, view) {
  const state = node.properties?.[STATE];
  if (!state?.signature) return;
  const answer = await api.fetchApi(`${ROUTE}/${state.signature}`);
  if (answer.ok) view.setPreviews((await answer.json()).previews, "", state.approved);
  else view.setPreviews([], "These previews are not in the store any more. Run the workflow to make them again.");
}

function attach(node) {
  const view = new GateView({
    onRefine: (preview, number) => press(node, view, preview, number),
    onEmpty: emptyStore,
  });
  views.add(view);
  const widget = node.addDOMWidget("previews", "FLASHVIDEO_GATE", view.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => view.minHeight,
  });
  widget.serialize = false;
  view.onResize = () => {
    const [width, height] = node.computeSize();
    node.setSize([Math.max(node.size[0], width, WIDTH), Math.max(node.size[1], height)]);
    node.graph?.setDirtyCanvas(true, true);
  };

  node.setSize([Math.max(node.size[0], WIDTH), node.size[1]]);
  const { onConfigure, onExecuted, onRemoved } = node; // of this instance: others keep theirs
  node.onConfigure = function (...args) {
    onConfigure?.apply(this, args);
    restore(node, view).catch((error) => view.setStatus(error.message, true));
  };
  node.onExecuted = function (output, ...rest) {
    onExecuted?.call(this, output, ...rest);
    const shown = output?.flashvideo_gate?.[0];
    if (!shown) return;
    const { signature, node: id, link, ancestors, approved } = shown;
    node.properties[STATE] = { signature, node: id, link, ancestors, approved };
    view.setPreviews(shown.previews, status(shown, view.note), approved);
    showStore().catch((error) => view.setStatus(error.message, true));
  };
  node.onRemoved = function (...args) {
    onRemoved?.apply(this, args);
    views.delete(view);
  };
  store().then((state) => view.setStore(state), (error) => view.setStatus(error.message, true));
}

function status({ approved, stale, previews }, note) {
  if (stale) return "The approved video is not among these previews, so nothing went on. Choose again.";
  const number = previews.findIndex(({ hash }) => hash === approved) + 1;
  return number ? `Preview ${number} went on. ${note}` : "";
}

async function press(node, view, preview, number) {
  view.setStatus(`Queueing preview ${number} …`);
  try {
    const job = await prepare(node, node.properties[STATE], preview.hash);
    view.note = job.edited.length ? `It is refined as it was made; edited since and not used: ${job.edited.join(", ")}.` : "";
    view.setStatus(`Preview ${number} is queued for refinement. ${view.note}`, view.note !== "");
    if (view.note) toast("warn", view.note);
    await queue(job);
  } catch (error) {
    const problem = error.response?.error;
    const text = problem ? [problem.message, problem.details].filter(Boolean).join(": ") : error.message;
    view.setStatus(text, true);
    toast("error", text);
  }
}

function toast(severity, detail) {
  app.extensionManager.toast.add({ severity, summary: "FlashVideo Preview Gate", detail, life: 8000 });
}

app.registerExtension({
  name: "FlashVideo.PreviewGate",
  settings: [
    {
      id: LIMIT,
      name: "Size limit of the preview store (MB)",
      category: ["FlashVideo", "Preview store", "Limit"],
      tooltip: "Previews that were not used for longest are removed first.",
      type: "number",
      defaultValue: DEFAULT_LIMIT,
      attrs: { min: 1, max: 1048576, showButtons: false },
      onChange: (megabytes) => setLimit(Number(megabytes)).catch((error) => console.warn("FlashVideo:", error.message)),
    },
  ],
  commands: [{ id: "FlashVideo.EmptyPreviewStore", label: "FlashVideo: empty the preview store", function: emptyStore }],
  nodeCreated(node) {
    if (node.comfyClass === NODE) attach(node);
  },
});
