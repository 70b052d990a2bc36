// Score Video: the numbers of the last run as a table, and over time as a picture.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { remember } from "./graph_nodes.js";
import { addElement, chain } from "./node_element.js";
import { text } from "./texts.js";

/** @typedef {import("./texts.js").Key} Key */
/**
 * @typedef {object} Scores
 * @property {{ width: number, height: number, frames: number }} video
 * @property {{ filename: string, subfolder: string, type: string }} plot
 * @property {{ seam: { axis: string, place: number, period: number | null } | null, pulse: { period: number } | null }} details
 */
/** @typedef {{ name: Key, form: (value: number) => string }} Row */

const NODE = "FlashVideoScoreVideo";
const WIDTH = 520; // so that no row is cut off
const STATE = "flashvideo_score"; // key in node.properties: what was shown last
const ROW = 22;
const STYLE = `
.flashvideo-score { display: flex; flex-direction: column; gap: 6px; width: 100%; height: 100%; min-width: 0; overflow: hidden;
  box-sizing: border-box; padding: 4px; font: 12px/1.35 system-ui, sans-serif; color: var(--input-text, #ddd); }
.flashvideo-score table { flex: none; width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
.flashvideo-score :is(th, td) { height: ${ROW}px; padding: 0 6px; text-align: left; font-weight: normal; white-space: nowrap;
  border-bottom: 1px solid var(--border-color, #555); }
.flashvideo-score td.value { text-align: right; font-weight: 600; }
.flashvideo-score td.note { width: 100%; max-width: 0; overflow: hidden; text-overflow: ellipsis; color: var(--descrip-text, #999); }
.flashvideo-score img { flex: 1; min-height: 0; width: 100%; object-fit: contain; }
.flashvideo-score .note-only { flex: 1; display: grid; place-items: center; text-align: center; padding: 8px; }
`;

/** @param {number} digits @param {string} [unit] */
const fixed = (digits, unit = "") => (/** @type {number} */ value) => value.toFixed(digits) + unit;
/** @type {Row[]} */
const ROWS = [
  { name: "sharpness", form: fixed(2) },
  { name: "likeness", form: fixed(1, " dB") },
  { name: "drift", form: fixed(2) },
  { name: "flicker", form: fixed(2) },
  { name: "seam", form: fixed(2) },
  { name: "pulse", form: (value) => `${(100 * value).toFixed(1)} %` },
  { name: "psnr", form: fixed(2, " dB") },
  { name: "ssim", form: fixed(4) },
  { name: "piqe", form: fixed(1) },
];

/**
 * Where a fault is, or else what the number means.
 * @param {Key} name
 * @param {Scores} scores
 */
function note(name, { details }) {
  const { seam, pulse } = details;
  if (name === "seam" && seam) {
    const { axis, place, period } = seam;
    return text(`${axis === "x" ? "seamColumn" : "seamRow"}${period ? "s" : ""}`, { place, period: period ?? "" });
  }
  if (name === "pulse" && pulse) return text("pulseEvery", { period: pulse.period });
  return text(/** @type {Key} */ (`${name}Means`));
}

class ScoreTable {
  constructor() {
    this.element = document.createElement("div");
    this.element.className = "flashvideo-score";
    this.style = document.createElement("style");
    this.style.textContent = STYLE;
    this.height = 60;
    const words = document.createElement("div");
    words.className = "note-only";
    words.textContent = text("scoreWaiting");
    this.#fill(words);
  }

  /**
   * @param {Scores} scores
   * @param {number} nodeWidth
   */
  show(scores, nodeWidth) {
    const table = document.createElement("table");
    table.setAttribute("aria-label", text("scores"));
    const numbers = /** @type {Record<string, unknown>} */ (/** @type {unknown} */ (scores));
    const rows = ROWS.filter(({ name }) => name in numbers);
    for (const { name, form } of rows) {
      const value = numbers[name];
      const row = table.insertRow();
      row.title = text(/** @type {Key} */ (`${name}Means`));
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = text(name);
      row.append(head);
      const cell = row.insertCell();
      cell.className = "value";
      cell.textContent = typeof value === "number" ? form(value) : "-";
      const behind = row.insertCell();
      behind.className = "note";
      behind.textContent = note(name, scores);
    }
    const plot = document.createElement("img");
    plot.alt = text("scorePlot");
    plot.src = api.apiURL(`/view?${new URLSearchParams(scores.plot)}`);
    this.height = rows.length * (ROW + 1) + 16;
    const room = this.height;
    // The file is in ComfyUI's temporary folder, which it empties when it starts: the numbers stay.
    plot.addEventListener("error", () => plot.remove());
    plot.addEventListener("load", () => (this.height = room + Math.round((nodeWidth * plot.naturalHeight) / plot.naturalWidth)));
    this.#fill(table, plot);
    return plot;
  }

  /** @param {HTMLElement[]} children */
  #fill(...children) {
    this.element.replaceChildren(this.style, ...children);
  }
}

/** @param {EditorNode} node */
function attach(node) {
  const table = new ScoreTable();
  /** @param {unknown} scores */
  const show = (scores) => {
    const width = Math.max(node.size[0], WIDTH);
    const fit = () => {
      node.setSize([width, Math.max(node.size[1], node.computeSize()[1])]);
      node.graph?.setDirtyCanvas(true, true);
    };
    table.show(/** @type {Scores} */ (scores), width).addEventListener("load", fit);
    fit();
  };
  addElement(node, table.element, {
    name: "scores",
    minHeight: () => table.height,
    show: () => node.properties?.[STATE] && show(node.properties[STATE]),
  });
  chain(node, "onExecuted", (output) => {
    const scores = output?.flashvideo_score?.[0];
    if (!scores) return;
    remember(node, STATE, scores);
    show(scores);
  });
}

app.registerExtension({
  name: "FlashVideo.Score",
  nodeCreated(node) {
    if (node.comfyClass === NODE) attach(/** @type {EditorNode} */ (node));
  },
});
