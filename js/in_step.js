// Videos that play, pause and are searched in step, and the bar that does it.

import { text } from "./texts.js";

const DRIFT = 0.08; // seconds that they may be apart while they play: less than a frame
const BAR_STYLE = `
.flashvideo-bar { display: flex; align-items: center; gap: 6px; flex: none; min-width: 0; }
.flashvideo-bar input { flex: 1; min-width: 0; height: 16px; margin: 0; accent-color: var(--input-text, #ddd); cursor: pointer; }
.flashvideo-bar input:focus-visible { outline: 2px solid #6cf; }
.flashvideo-bar .time { font-variant-numeric: tabular-nums; opacity: .75; white-space: nowrap; font-size: 11px; }
.flashvideo-bar button { flex: none; width: 28px; }
`;

/** @param {string} src */
export function player(src, className = "") {
  const video = document.createElement("video");
  video.className = className;
  Object.assign(video, { loop: true, muted: true, playsInline: true, preload: "auto" });
  video.src = src;
  return video;
}

/** One clock for several videos of the same length: the first one's. */
export class InStep {
  /** @type {HTMLVideoElement[]} */
  videos = [];
  playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;

  /** @param {() => void} onChange called when they move, start or stop */
  constructor(onChange) {
    this.onChange = onChange;
  }

  /** @param {HTMLVideoElement[]} videos take the place of those before */
  set(videos) {
    for (const video of this.videos) video.pause();
    this.videos = videos;
    for (const video of videos) video.addEventListener("loadeddata", () => this.#start(video), { once: true });
    videos[0]?.addEventListener("timeupdate", () => this.#follow());
  }

  get time() {
    return this.videos[0]?.currentTime ?? 0;
  }

  get length() {
    return this.videos[0]?.duration || 0;
  }

  toggle() {
    this.playing = !this.playing;
    for (const video of this.videos) this.#start(video);
    this.seek(this.time);
  }

  /** @param {number} time in seconds */
  seek(time) {
    for (const video of this.videos) video.currentTime = time;
    this.onChange();
  }

  /** @param {HTMLVideoElement} video */
  #start(video) {
    if (!this.playing) return video.pause();
    if (video !== this.videos[0]) video.currentTime = this.time;
    video.play().catch(() => {}); // a browser that plays nothing before the first click shows the first frame
  }

  #follow() {
    if (this.playing) {
      for (const video of this.videos.slice(1)) {
        if (Math.abs(video.currentTime - this.time) > DRIFT) video.currentTime = this.time;
      }
    }
    this.onChange();
  }
}

/** Pause, search and the time, for videos in step. */
export class Bar {
  constructor() {
    this.element = document.createElement("div");
    this.element.className = "flashvideo-bar";
    this.clock = new InStep(() => this.#show());
    this.button = document.createElement("button");
    this.button.type = "button";
    this.button.className = "pause";
    this.button.append(document.createElement("i")); // its pictures are the editor's own
    this.button.addEventListener("click", () => this.clock.toggle());
    this.range = document.createElement("input");
    Object.assign(this.range, { type: "range", min: "0", max: "1", step: "any", value: "0" });
    this.range.setAttribute("aria-label", text("seek"));
    this.range.addEventListener("input", () => this.#seek());
    this.time = document.createElement("span");
    this.time.className = "time";
    const style = document.createElement("style");
    style.textContent = BAR_STYLE;
    this.element.append(style, this.button, this.range, this.time);
    this.element.addEventListener("keydown", (event) => this.#key(event));
    this.set([]);
  }

  /** @param {HTMLVideoElement[]} videos */
  set(videos) {
    this.clock.set(videos);
    this.element.hidden = videos.length === 0;
    this.element.style.display = videos.length ? "" : "none";
    this.#show();
  }

  /** Search pauses: what was searched for is looked at. */
  #seek() {
    if (this.clock.playing) this.clock.toggle();
    this.clock.seek(Number(this.range.value) * this.clock.length);
  }

  #show() {
    const { playing, time, length } = this.clock;
    this.button.firstElementChild?.setAttribute("class", playing ? "pi pi-pause" : "pi pi-play");
    this.button.setAttribute("aria-label", text(playing ? "pause" : "play"));
    this.range.value = String(length ? time / length : 0);
    this.range.setAttribute("aria-valuetext", text("seconds", { time: time.toFixed(1) }));
    this.time.textContent = `${time.toFixed(1)} / ${length.toFixed(1)} s`;
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.target !== this.range || !step) return;
    event.stopPropagation(); // the editor would move the node
    event.preventDefault();
    const { length } = this.clock;
    this.range.value = String(Math.min(1, Math.max(0, Number(this.range.value) + step / Math.max(8 * length, 8)))); // a frame
    this.#seek();
  }
}
