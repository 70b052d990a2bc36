// What the gate shows. Plain elements: they look the same on the canvas and in Vue nodes.

import { api } from "../../scripts/api.js";
import { text } from "./texts.js";

/** @typedef {{ hash: string, frames: number, width: number, height: number, video: string }} Preview */
/** @typedef {{ bytes: number, limit_megabytes: number }} StoreState */
/** @typedef {{ onRefine: (preview: Preview, number: number) => void, onEmpty: () => Promise<void> }} Actions */

const STYLE = `
.flashvideo-gate { display: flex; flex-direction: column; gap: 6px; height: 100%; box-sizing: border-box; padding: 4px;
  font: 12px/1.35 system-ui, sans-serif; color: var(--input-text, #ddd); overflow: hidden; }
.flashvideo-gate .cards { flex: 1; min-height: 0; display: grid; gap: 6px; overflow: auto;
  grid-template-columns: repeat(var(--columns, 1), minmax(0, 1fr)); grid-auto-rows: minmax(130px, 1fr); }
.flashvideo-gate .card { display: flex; flex-direction: column; min-height: 0; border-radius: 6px; overflow: hidden;
  background: var(--comfy-input-bg, #222); border: 2px solid transparent; }
.flashvideo-gate .card.approved { border-color: #4caf50; }
.flashvideo-gate video { flex: 1; min-height: 0; width: 100%; object-fit: contain; background: #000; }
.flashvideo-gate button { font: inherit; color: inherit; cursor: pointer; padding: 4px 8px; border-radius: 4px;
  border: 1px solid var(--border-color, #555); background: var(--comfy-menu-bg, #333); }
.flashvideo-gate button:hover { filter: brightness(1.3); }
.flashvideo-gate button:focus-visible { outline: 2px solid #6cf; outline-offset: -2px; }
.flashvideo-gate .card button { border: 0; border-radius: 0; border-top: 1px solid var(--border-color, #555); }
.flashvideo-gate .foot { display: flex; gap: 8px; align-items: center; justify-content: space-between; opacity: .85;
  white-space: nowrap; font-size: 11px; }
.flashvideo-gate .status.warning { color: #ffb74d; }
.flashvideo-gate .status:empty { display: none; }
`;

const CARD_HEIGHT = 136;
const FIXED_HEIGHT = 84; // status and foot
const MOST_ROWS = 3; // more are reached by scrolling, or by making the node larger
const ARM_SECONDS = 4;
/** @type {Record<string, number>} */
const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {string} className
 */
function make(tag, className, content = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = content;
  return element;
}

/** @param {number} bytes */
function size(bytes) {
  return bytes < 1e9 ? `${(bytes / 2 ** 20).toFixed(1)} MB` : `${(bytes / 2 ** 30).toFixed(2)} GB`;
}

/** Keys that work on a focused button must not reach the editor: Enter or an arrow would act on the graph as well. */
/** @type {(event: KeyboardEvent) => void} */
function keepKeys(event) {
  const step = STEPS[event.key];
  if (!step && !["Enter", " "].includes(event.key)) return;
  event.stopPropagation();
  if (!step || !(event.currentTarget instanceof Element)) return;
  event.preventDefault();
  const buttons = [...event.currentTarget.querySelectorAll("button")];
  const at = buttons.findIndex((button) => button === event.target);
  buttons[(at + step + buttons.length) % buttons.length]?.focus({ preventScroll: true });
}

export class GateView {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #armed;

  /** @param {Actions} actions */
  constructor(actions) {
    this.actions = actions;
    this.onResize = () => {};
    this.count = 0;
    this.note = ""; // on the refinement that was queued last
    this.element = make("div", "flashvideo-gate");
    this.cards = make("div", "cards");
    this.status = make("div", "status", text("waiting"));
    this.status.setAttribute("role", "status");
    this.size = make("span", "size");
    this.empty = make("button", "empty", text("emptyStore"));
    this.empty.type = "button";
    this.empty.title = text("emptyTitle");
    this.empty.addEventListener("click", () => this.#pressEmpty());
    const foot = make("div", "foot");
    foot.append(this.size, this.empty);
    this.element.append(make("style", "", STYLE), this.cards, this.status, foot);
    this.element.addEventListener("keydown", keepKeys);
    // A press on a button must not start dragging or selecting the node below it.
    this.element.addEventListener("pointerdown", (event) => {
      if (event.target instanceof Element && event.target.closest("button")) event.stopPropagation();
    });
  }

  get minHeight() {
    return FIXED_HEIGHT + CARD_HEIGHT * Math.min(Math.ceil(this.count / this.columns), MOST_ROWS);
  }

  get columns() {
    return this.count > 4 ? 3 : Math.max(1, Math.min(this.count, 2));
  }

  /** @param {Preview[]} previews */
  setPreviews(previews, status = "", approved = "") {
    this.count = previews.length;
    this.element.style.setProperty("--columns", String(this.columns));
    this.cards.replaceChildren(...previews.map((preview, k) => this.#card(preview, k + 1, preview.hash === approved)));
    this.setStatus(status || text(previews.length ? "choose" : "waiting"));
    this.onResize();
  }

  /** @param {string} words */
  setStatus(words, warning = false) {
    this.status.textContent = words;
    this.status.classList.toggle("warning", warning);
  }

  /** @param {StoreState} state */
  setStore({ bytes, limit_megabytes: limit }) {
    this.size.textContent = text("storeSize", { used: size(bytes), limit: size(limit * 2 ** 20) });
  }

  /**
   * @param {Preview} preview
   * @param {number} number
   * @param {boolean} approved
   */
  #card(preview, number, approved) {
    const card = make("div", approved ? "card approved" : "card");
    if (preview.video) {
      const video = make("video", "");
      Object.assign(video, { loop: true, muted: true, autoplay: true, playsInline: true });
      video.src = api.apiURL(preview.video);
      const { frames, width, height, hash } = preview;
      video.title = text("about", { number, frames, width, height, hash });
      card.append(video);
    }
    const button = make("button", "refine", text(approved ? "refineAgain" : "refine", { number }));
    button.type = "button";
    button.setAttribute("aria-label", text("refineLabel", { number }));
    button.addEventListener("click", () => this.actions.onRefine(preview, number));
    card.append(button);
    return card;
  }

  /** Emptying cannot be undone: the first press asks, the second within a few seconds does it. */
  async #pressEmpty() {
    clearTimeout(this.#armed);
    const disarm = () => {
      this.#armed = undefined;
      this.empty.textContent = text("emptyStore");
    };
    if (!this.#armed) {
      this.empty.textContent = text("emptyAgain");
      this.#armed = setTimeout(disarm, ARM_SECONDS * 1000);
      return;
    }
    disarm();
    await this.actions.onEmpty();
  }
}
