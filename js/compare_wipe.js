// Compare: the small video and the refined one over each other, with a line that follows the pointer or the arrow keys.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const NODE = "FlashVideoCompare";
const WIDTH = 400;
const STATE = "flashvideo_compare"; // key in node.properties: what was shown last
const DRIFT = 0.08; // seconds that the two videos may be apart
const STYLE = `
.flashvideo-wipe { position: relative; width: 100%; height: 100%; overflow: hidden; background: #000; outline: none;
  touch-action: none; cursor: ew-resize; --at: 50%; font: 12px system-ui, sans-serif; color: #ddd; }
.flashvideo-wipe:focus-visible { box-shadow: inset 0 0 0 2px #6cf; }
.flashvideo-wipe .layer { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.flashvideo-wipe .before { clip-path: inset(0 calc(100% - var(--at)) 0 0); }
.flashvideo-wipe .line { position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 3px #000; pointer-events: none; }
.flashvideo-wipe .note { position: absolute; inset: 0; display: grid; place-items: center; text-align: center; padding: 8px; }
`;

const address = ({ filename, subfolder, type }) => api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);

function layer(kind, className, file) {
  const element = document.createElement(kind === "image" ? "img" : "video");
  element.className = `layer ${className}`;
  if (kind !== "image") Object.assign(element, { loop: true, muted: true, autoplay: true, playsInline: true });
  element.src = address(file);
  return element;
}

class Wipe {
  constructor() {
    this.element = document.createElement("div");
    this.element.className = "flashvideo-wipe";
    this.element.tabIndex = 0;
    this.element.setAttribute("role", "slider");
    this.element.setAttribute("aria-label", "Wipe between before and after");
    this.element.addEventListener("pointermove", (event) => this.#follow(event));
    this.element.addEventListener("keydown", (event) => this.#key(event));
    this.height = 60;
    this.say("Run the workflow: both videos appear here.");
  }

  say(text) {
    const note = document.createElement("div");
    note.className = "note";
    note.textContent = text;
    this.#fill(note);
  }

  show({ kind, before, after, width, height }, nodeWidth) {
    const line = document.createElement("div");
    line.className = "line";
    const below = layer(kind, "after", after);
    const above = layer(kind, "before", before);
    // Both play at the pace of the refined one; a browser may start them at different times.
    if (kind !== "image") {
      below.addEventListener("timeupdate", () => {
        if (Math.abs(above.currentTime - below.currentTime) > DRIFT) above.currentTime = below.currentTime;
      });
    }
    below.addEventListener("error", () => this.say("These videos were temporary and are gone. Run the workflow again."));
    this.#fill(below, above, line);
    this.height = Math.round((nodeWidth * height) / width);
    this.move(0.5);
  }

  move(at) {
    this.at = Math.min(1, Math.max(0, at));
    this.element.style.setProperty("--at", `${this.at * 100}%`);
    this.element.setAttribute("aria-valuenow", String(Math.round(this.at * 100)));
  }

  #fill(...children) {
    const style = document.createElement("style");
    style.textContent = STYLE;
    this.element.replaceChildren(style, ...children);
  }

  #follow(event) {
    const { left, width } = this.element.getBoundingClientRect();
    this.move((event.clientX - left) / width);
  }

  #key(event) {
    const step = { ArrowLeft: -0.05, ArrowRight: 0.05 }[event.key];
    if (!step) return;
    event.stopPropagation(); // the editor would move the node
    event.preventDefault();
    this.move(this.at + step);
  }
}

function attach(node) {
  const wipe = new Wipe();
  const widget = node.addDOMWidget("wipe", "FLASHVIDEO_WIPE", wipe.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => wipe.height,
  });
  widget.serialize = false;
  const show = (shown) => {
    const width = Math.max(node.size[0], WIDTH);
    wipe.show(shown, width);
    node.setSize([width, Math.max(node.size[1], node.computeSize()[1])]);
    node.graph?.setDirtyCanvas(true, true);
  };
  const { onConfigure, onExecuted } = node; // of this instance: others keep theirs
  node.onConfigure = function (...args) {
    onConfigure?.apply(this, args);
    if (node.properties?.[STATE]) show(node.properties[STATE]);
  };
  node.onExecuted = function (output, ...rest) {
    onExecuted?.call(this, output, ...rest);
    const shown = output?.flashvideo_compare?.[0];
    if (!shown) return;
    node.properties[STATE] = shown;
    show(shown);
  };
}

app.registerExtension({
  name: "FlashVideo.Compare",
  nodeCreated(node) {
    if (node.comfyClass === NODE) attach(node);
  },
});
