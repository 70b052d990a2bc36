// Compare: the small video and the refined one over each other, with a line that follows the pointer or the arrow keys.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { remember } from "./graph_nodes.js";
import { Bar, player } from "./in_step.js";
import { addElement, chain } from "./node_element.js";
import { text } from "./texts.js";

/** @typedef {{ filename: string, subfolder: string, type: string }} SavedFile as /view takes it */
/** @typedef {{ kind: "image" | "video", before: SavedFile, after: SavedFile, width: number, height: number }} Pair */

const NODE = "FlashVideoCompare";
const WIDTH = 400;
const STATE = "flashvideo_compare"; // key in node.properties: what was shown last
const BAR_HEIGHT = 34;
const STYLE = `
.flashvideo-compare { display: flex; flex-direction: column; gap: 6px; width: 100%; height: 100%; min-width: 0;
  font: 12px system-ui, sans-serif; color: var(--input-text, #ddd); }
.flashvideo-compare .pause { font: inherit; color: inherit; cursor: pointer; padding: 3px 6px; line-height: 1; border-radius: 4px;
  border: 1px solid var(--border-color, #555); background: var(--comfy-menu-bg, #333); }
.flashvideo-compare .pause i { font-size: 11px; }
.flashvideo-compare .pause:focus-visible { outline: 2px solid #6cf; }
.flashvideo-wipe { position: relative; flex: 1; min-height: 0; overflow: hidden; background: #000; outline: none;
  touch-action: none; cursor: ew-resize; --at: 50%; font: 12px system-ui, sans-serif; color: #ddd; }
.flashvideo-wipe:focus-visible { box-shadow: inset 0 0 0 2px #6cf; }
.flashvideo-wipe .layer { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.flashvideo-wipe .before { clip-path: inset(0 calc(100% - var(--at)) 0 0); }
.flashvideo-wipe .line { position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 3px #000; pointer-events: none; }
.flashvideo-wipe .note { position: absolute; inset: 0; display: grid; place-items: center; text-align: center; padding: 8px; }
`;

/** @param {SavedFile} file */
const address = ({ filename, subfolder, type }) => api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);

/**
 * @param {string} className
 * @param {SavedFile} file
 */
function picture(className, file) {
  const element = document.createElement("img");
  element.className = `layer ${className}`;
  element.src = address(file);
  return element;
}

/**
 * Below the refined video, above it the small one.
 * @param {Pair} pair
 */
function layers({ kind, before, after }) {
  if (kind === "image") return [picture("after", after), picture("before", before)];
  return [player(address(after), "layer after"), player(address(before), "layer before")];
}

class Wipe {
  constructor() {
    this.at = 0.5;
    this.height = 60;
    this.bar = new Bar(); // both play in step
    this.wipe = document.createElement("div");
    this.wipe.className = "flashvideo-wipe";
    this.wipe.tabIndex = 0;
    this.wipe.setAttribute("role", "slider");
    this.wipe.setAttribute("aria-label", text("wipe"));
    this.wipe.addEventListener("pointermove", (event) => this.#follow(event));
    this.wipe.addEventListener("keydown", (event) => this.#key(event));
    const style = document.createElement("style");
    style.textContent = STYLE;
    this.element = document.createElement("div");
    this.element.className = "flashvideo-compare";
    this.element.append(style, this.wipe, this.bar.element);
    this.bar.element.addEventListener("pointerdown", (event) => event.stopPropagation()); // no start of a drag
    this.say(text("wipeWaiting"));
  }

  /** @param {string} words */
  say(words) {
    const note = document.createElement("div");
    note.className = "note";
    note.setAttribute("role", "status");
    note.textContent = words;
    this.#fill(note);
  }

  /**
   * @param {Pair} pair
   * @param {number} nodeWidth
   */
  show(pair, nodeWidth) {
    const line = document.createElement("div");
    line.className = "line";
    const shown = layers(pair);
    // The files are in ComfyUI's temporary folder, which it empties when it starts.
    for (const layer of shown) {
      layer.addEventListener("error", () => this.wipe.contains(layer) && this.say(text("wipeGone")));
    }
    this.#fill(...shown, line);
    const videos = shown.filter((layer) => layer instanceof HTMLVideoElement);
    this.bar.set(videos);
    this.height = Math.round((nodeWidth * pair.height) / pair.width) + (videos.length ? BAR_HEIGHT : 0);
    this.move(0.5);
  }

  /** @param {number} at */
  move(at) {
    this.at = Math.min(1, Math.max(0, at));
    this.wipe.style.setProperty("--at", `${this.at * 100}%`);
    this.wipe.setAttribute("aria-valuenow", String(Math.round(this.at * 100)));
  }

  /** @param {HTMLElement[]} children */
  #fill(...children) {
    this.bar.set([]);
    this.wipe.replaceChildren(...children);
  }

  /** @param {PointerEvent} event */
  #follow(event) {
    const { left, width } = this.wipe.getBoundingClientRect();
    this.move((event.clientX - left) / width);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const step = event.key === "ArrowLeft" ? -0.05 : event.key === "ArrowRight" ? 0.05 : 0;
    if (!step) return;
    event.stopPropagation(); // the editor would move the node
    event.preventDefault();
    this.move(this.at + step);
  }
}

/** @param {EditorNode} node */
function attach(node) {
  const wipe = new Wipe();
  /** @param {unknown} shown */
  const show = (shown) => {
    const width = Math.max(node.size[0], WIDTH);
    wipe.show(/** @type {Pair} */ (shown), width);
    node.setSize([width, Math.max(node.size[1], node.computeSize()[1])]);
    node.graph?.setDirtyCanvas(true, true);
  };
  addElement(node, wipe.element, {
    name: "wipe",
    minHeight: () => wipe.height,
    show: () => node.properties?.[STATE] && show(node.properties[STATE]),
  });
  chain(node, "onExecuted", (output) => {
    const shown = /** @type {Pair | undefined} */ (output?.flashvideo_compare?.[0]);
    if (!shown) return;
    remember(node, STATE, shown);
    show(shown);
  });
}

app.registerExtension({
  name: "FlashVideo.Compare",
  nodeCreated(node) {
    if (node.comfyClass === NODE) attach(/** @type {EditorNode} */ (node));
  },
});
