// What the gate shows. Plain elements: they look the same on the canvas and in Vue nodes.

import { api } from "../../scripts/api.js";
import { enlarge } from "./enlarged.js";
import { address, inWords, jobOf } from "./gate_jobs.js";
import { STYLE } from "./gate_style.js";
import { Bar, player } from "./in_step.js";
import { text } from "./texts.js";

/** @typedef {{ hash: string, frames: number, width: number, height: number, video: string }} Preview */
/** @typedef {{ bytes: number, limit_megabytes: number }} StoreState */
/** @typedef {{ number: number, count: number }} Page which batch of how many */
/**
 * @typedef {object} Actions
 * @property {(chosen: { preview: Preview, number: number }[]) => void} onRefine
 * @property {() => Promise<void>} onEmpty
 * @property {(step: number) => void} onPage
 */
/** @typedef {{ status?: string, approved?: string, seeds?: string[], page?: Page }} More */

const CARD_HEIGHT = 172;
const FIXED_HEIGHT = 90; // status and foot
const BAR_HEIGHT = 30;
const WORDS_HEIGHT = 40; // what was edited since, a longer status: they come without the node growing, which undo would notice
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

/** @param {string} className @param {() => void} act */
function button(className, content = "", label = content, act = () => {}) {
  const made = make("button", className, content);
  made.type = "button";
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

/** @param {string} className @param {string} picture @param {string} label @param {() => void} act */
function iconButton(className, picture, label, act) {
  const made = button(`icon ${className}`, "", label, act);
  made.title = label;
  made.append(make("i", `pi ${picture}`));
  return made;
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
  const { target, currentTarget } = event;
  if (!step || !(currentTarget instanceof Element) || !(target instanceof Element) || !target.matches(".refine")) return;
  event.preventDefault();
  const buttons = [...currentTarget.querySelectorAll(".refine")];
  const next = buttons[(buttons.indexOf(target) + step + buttons.length) % buttons.length];
  if (next instanceof HTMLElement) next.focus({ preventScroll: true });
}

export class GateView {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #armed;
  /** @type {Preview[]} */
  #previews = [];
  /** @type {Set<string>} */
  #picked = new Set();
  /** @type {string[]} */
  #seeds = [];

  /** @param {Actions} actions */
  constructor(actions) {
    this.actions = actions;
    this.onResize = () => {};
    /** @type {Map<string, string>} */
    this.notes = new Map(); // on the refinements that were queued, by preview
    /** @type {Map<string, string>} */
    this.refused = new Map(); // why the last refinement of a preview was not queued
    this.element = make("div", "flashvideo-gate");
    this.cards = make("div", "cards");
    this.status = make("div", "status", text("waiting"));
    this.status.setAttribute("role", "status");
    this.changed = make("div", "changed");
    this.bar = new Bar();
    this.place = make("span", "place");
    this.pages = make("div", "pages");
    this.pages.append(
      iconButton("earlier", "pi-chevron-left", text("earlier"), () => this.actions.onPage(-1)),
      this.place,
      iconButton("later", "pi-chevron-right", text("later"), () => this.actions.onPage(1)),
    );
    this.tools = make("div", "tools");
    this.tools.append(this.bar.element, this.pages);
    this.size = make("span", "size");
    this.many = button("many", "", "", () => this.#refine(this.#previews.filter(({ hash }) => this.#picked.has(hash))));
    this.empty = button("empty", text("emptyStore"), text("emptyStore"), () => this.#pressEmpty());
    this.empty.title = text("emptyTitle");
    const foot = make("div", "foot");
    foot.append(this.size, this.many, this.empty);
    this.element.append(make("style", "", STYLE), this.cards, this.tools, this.changed, this.status, foot);
    this.element.addEventListener("keydown", keepKeys);
    // A press on a button must not start dragging or selecting the node below it.
    this.element.addEventListener("pointerdown", (event) => {
      if (event.target instanceof Element && event.target.closest("button, input, a, label")) event.stopPropagation();
    });
    this.setPreviews([]);
  }

  get count() {
    return this.#previews.length;
  }

  get minHeight() {
    const rows = Math.min(Math.ceil(this.count / this.columns), MOST_ROWS);
    return FIXED_HEIGHT + CARD_HEIGHT * rows + (this.count ? BAR_HEIGHT + WORDS_HEIGHT : 0);
  }

  get columns() {
    return this.count > 4 ? 3 : Math.max(1, Math.min(this.count, 2));
  }

  /**
   * @param {Preview[]} previews
   * @param {More} [more]
   */
  setPreviews(previews, { status = "", approved = "", seeds = [], page = { number: 1, count: 1 } } = {}) {
    const same = this.count > 0 && JSON.stringify([previews, seeds]) === JSON.stringify([this.#previews, this.#seeds]);
    this.#previews = previews;
    this.#seeds = seeds;
    if (!same) {
      this.#picked.clear();
      this.element.style.setProperty("--columns", String(this.columns));
      this.cards.replaceChildren(...previews.map((preview, k) => this.#card(preview, k)));
      this.bar.set([...this.cards.querySelectorAll("video")]);
    }
    this.pages.hidden = page.count < 2;
    this.tools.hidden = !previews.length && this.pages.hidden;
    this.place.textContent = text("page", page);
    this.setApproved(approved);
    this.setChanged([]);
    this.showJobs();
    this.#showPicked();
    this.setStatus(status || text(previews.length ? "choose" : "waiting"));
    this.onResize();
  }

  /** @param {string} hash */
  setApproved(hash) {
    this.#previews.forEach((preview, k) => {
      const card = this.cards.children[k];
      const words = text(preview.hash === hash ? "refineAgain" : "refine", { number: k + 1 });
      card?.classList.toggle("approved", preview.hash === hash);
      const refine = card?.querySelector(".refine");
      if (refine) refine.textContent = words;
    });
  }

  /** @param {string} words */
  setStatus(words, warning = false) {
    this.status.textContent = words;
    this.status.classList.toggle("warning", warning);
  }

  /**
   * Mark the cards as made by settings that are not the workflow's any more.
   * @param {string[]} edits what was edited
   */
  setChanged(edits) {
    this.cards.classList.toggle("old", edits.length > 0);
    this.changed.textContent = this.changed.title = edits.length ? text("changed", { edits: edits.join(", ") }) : "";
  }

  /** @param {StoreState} state */
  setStore({ bytes, limit_megabytes: limit }) {
    this.size.textContent = text("storeSize", { used: size(bytes), limit: size(limit * 2 ** 20) });
  }

  /** What became of the refinements, on their cards. */
  showJobs() {
    this.#previews.forEach(({ hash }, k) => {
      const [job, card] = [jobOf(hash), this.cards.children[k]];
      const line = card?.querySelector(".job");
      if (!card || !line) return;
      line.className = `job ${job?.state ?? ""}`;
      line.replaceChildren(job ? inWords(job) : "");
      line.setAttribute("title", line.textContent ?? "");
      for (const file of job?.files ?? []) {
        const link = make("a", "", file.filename);
        Object.assign(link, { href: address(file), target: "_blank", title: file.filename });
        line.append(" ", link);
      }
      card.setAttribute("style", `--part: ${job?.state === "running" ? job.part : 0}`);
    });
  }

  /** @param {number} k */
  #title(k) {
    const { frames = 0, width = 0, height = 0, hash = "" } = this.#previews[k] ?? {};
    const parts = [this.#seed(k), text("frames", { frames }), `${width} × ${height}`, hash];
    return text("about", { number: k + 1, parts: parts.filter(Boolean).join(", ") });
  }

  /** @param {number} k */
  #seed(k) {
    return this.#seeds[k] ? text("seed", { seed: this.#seeds[k] ?? "" }) : "";
  }

  /** @param {Preview[]} previews */
  #refine(previews) {
    const hashes = this.#previews.map(({ hash }) => hash);
    this.actions.onRefine(previews.map((preview) => ({ preview, number: hashes.indexOf(preview.hash) + 1 })));
    this.#picked.clear();
    this.#showPicked();
  }

  /**
   * @param {Preview} preview
   * @param {number} k
   */
  #card(preview, k) {
    const number = k + 1;
    const card = make("div", "card");
    const picture = make("div", "picture");
    if (preview.video) {
      const video = player(api.apiURL(preview.video));
      video.title = this.#title(k);
      video.addEventListener("dblclick", () => this.#enlarge(k));
      picture.append(video, iconButton("enlarge", "pi-window-maximize", text("enlarge", { number }), () => this.#enlarge(k)));
    }
    const pick = make("input", "pick");
    pick.type = "checkbox";
    pick.title = text("pick", { number });
    pick.setAttribute("aria-label", pick.title);
    pick.addEventListener("change", () => {
      if (pick.checked) this.#picked.add(preview.hash);
      else this.#picked.delete(preview.hash);
      this.#showPicked();
    });
    const caption = make("div", "caption");
    caption.append(pick, make("span", "seed", this.#seed(k) || String(number)), make("span", "mark", text("old")));
    const refine = button("refine", "", text("refineLabel", { number }), () => this.#refine([preview]));
    card.append(picture, caption, make("div", "job"), refine);
    return card;
  }

  #showPicked() {
    const picks = [...this.cards.querySelectorAll(".pick")].filter((pick) => pick instanceof HTMLInputElement);
    picks.forEach((pick, k) => (pick.checked = this.#picked.has(this.#previews[k]?.hash ?? "")));
    const count = this.#picked.size;
    this.many.hidden = count === 0;
    this.size.hidden = count > 0;
    this.many.textContent = text("refineMany", { count });
    this.many.setAttribute("aria-label", this.many.textContent);
  }

  /** @param {number} at */
  #enlarge(at) {
    const onRefine = (/** @type {number} */ k) => this.#refine(this.#previews.slice(k, k + 1));
    enlarge({ previews: this.#previews, at, title: (k) => this.#title(k), onRefine, clock: this.bar.clock });
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
