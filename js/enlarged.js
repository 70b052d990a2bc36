// One preview over the whole page, with the others a key away.

import { api } from "../../scripts/api.js";
import { Bar, player } from "./in_step.js";
import { text } from "./texts.js";

/** @typedef {import("./gate_view.js").Preview} Preview */

const STYLE = `
.flashvideo-large { width: 92vw; height: 92vh; max-width: none; max-height: none; padding: 12px; border-radius: 8px;
  box-sizing: border-box; border: 1px solid var(--border-color, #555); background: var(--comfy-menu-bg, #222);
  color: var(--input-text, #ddd); font: 13px/1.4 system-ui, sans-serif; }
.flashvideo-large[open] { display: flex; flex-direction: column; gap: 8px; }
.flashvideo-large::backdrop { background: #000a; }
.flashvideo-large video { flex: 1; min-height: 0; width: 100%; object-fit: contain; background: #000; border-radius: 4px; }
.flashvideo-large .row { display: flex; gap: 8px; align-items: center; }
.flashvideo-large .title { flex: 1; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.flashvideo-large button { font: inherit; color: inherit; cursor: pointer; padding: 4px 12px; border-radius: 4px; min-height: 28px;
  border: 1px solid var(--border-color, #555); background: var(--comfy-input-bg, #333); }
.flashvideo-large .pause { padding: 4px; width: 36px; }
.flashvideo-large button:hover { filter: brightness(1.15); }
.flashvideo-large button:focus-visible { outline: 2px solid #6cf; }
`;

/** @param {string} name @param {string} label @param {string} icon @param {() => void} act */
function button(name, label, icon, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = name;
  made.setAttribute("aria-label", label);
  made.title = label;
  made.innerHTML = `<i class="pi ${icon}"></i>`;
  made.addEventListener("click", act);
  return made;
}

/**
 * @param {object} shown
 * @param {Preview[]} shown.previews
 * @param {number} shown.at which one is shown first
 * @param {(at: number) => string} shown.title
 * @param {(at: number) => void} shown.onRefine
 * @param {import("./in_step.js").InStep} shown.clock of the cards: it goes on from their time, and pauses as they do
 */
export function enlarge({ previews, at, title, onRefine, clock }) {
  const dialog = document.createElement("dialog");
  dialog.className = "flashvideo-large";
  const style = document.createElement("style");
  style.textContent = STYLE;
  const head = document.createElement("div");
  const words = document.createElement("div");
  const foot = document.createElement("div");
  head.className = foot.className = "row";
  words.className = "title";
  const bar = new Bar();
  bar.clock.playing = clock.playing;
  let video = document.createElement("video");
  const refine = document.createElement("button");
  refine.type = "button";
  refine.className = "refine";
  refine.addEventListener("click", () => {
    dialog.close();
    onRefine(at);
  });
  /** @param {number} to */
  const show = (to) => {
    const time = bar.clock.videos.length ? bar.clock.time : clock.time;
    at = (to + previews.length) % previews.length;
    const next = player(api.apiURL(previews[at]?.video ?? ""));
    video.replaceWith(next);
    video = next;
    bar.set([video]);
    video.addEventListener("loadeddata", () => bar.clock.seek(time), { once: true });
    words.textContent = title(at);
    refine.textContent = text("refine", { number: at + 1 });
  };
  head.append(words, button("close", text("close"), "pi-times", () => dialog.close()));
  const [before, after] = [
    button("before", text("before"), "pi-chevron-left", () => show(at - 1)),
    button("after", text("after"), "pi-chevron-right", () => show(at + 1)),
  ];
  before.hidden = after.hidden = previews.length < 2;
  bar.element.style.flex = "1";
  foot.append(before, bar.element, refine, after);
  dialog.append(style, head, video, foot);
  show(at);
  dialog.addEventListener("keydown", (event) => {
    event.stopPropagation(); // the editor's keys would act on the graph below
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && previews.length > 1) show(at + step);
  });
  dialog.addEventListener("close", () => {
    bar.set([]);
    dialog.remove();
  });
  document.body.append(dialog);
  dialog.showModal();
  refine.focus();
  return dialog;
}
