// The pictures: one cell a video, shown as a wipe, a grid, a difference or one at a time; the same spot of all of them.

const VIEWS = ["wipe", "grid", "difference", "single"];
const CLOSEST = 64;
const PIXELS_FROM = 2; // pixels of the screen for one of the video from which these are shown as they are
const player = document.querySelector(".player");
const stage = element("stage");
const cells = element("cells");
const handle = element("handle");

/** The part of the picture that is seen: `scale` times as large as the whole, from `x` and `y` on, in parts of its sides. */
const spot = { scale: 1, x: 0, y: 0 };
const shown = { view: "wipe", left: videos[0], right: videos[1] ?? videos[0], wipe: 0.5, gain: 8 };
/** How videos are called and in which order they lie; the blind test changes both. */
const naming = { name: (video) => video.name, order: () => videos, blind: false };

function makeCell(video) {
  const media = make("video", { playsinline: "", preload: "auto", disablepictureinpicture: "", tabindex: "-1" });
  media.muted = true;
  // A picture of odd sides was given one more column or row, which lies outside of the frame.
  media.style.width = `${(100 * video.coded[0]) / video.size[0]}%`;
  media.style.height = `${(100 * video.coded[1]) / video.size[1]}%`;
  media.addEventListener("error", () => say(`${naming.name(video)} cannot be shown: ${media.error?.message || "this browser does not play it"}.`));
  media.src = address(video);
  const label = make("span");
  const caption = make("figcaption", { class: "name" }, make("i", { class: "dot" }), label);
  const frame = make("div", { class: "frame" }, media);
  const cell = make("figure", { class: "cell", "data-id": video.id }, make("div", { class: "picture" }, frame), caption);
  return { video, media, label, frame, cell, player: { video: media, frames: video.frames } };
}

function say(words) {
  element("trouble").textContent = words;
  element("trouble").hidden = false;
}

const made = videos.map(makeCell);
const cellOf = (video) => made[video.index];

/** Colours follow the place in the order, so that they do not give a video away in the blind test. */
function colour(video) {
  return `var(--c${naming.order().indexOf(video) % 8})`;
}

const BRIGHT = ["#8ab0ff", "#f0a05e", "#5fd3ad", "#d69af0", "#ff8fa8", "#c5d05e", "#6fcbe8", "#d0ab98"]; // on pictures, in any scheme

function show(changes = {}) {
  Object.assign(shown, changes);
  const { view, left, right } = shown;
  player.dataset.view = view;
  const seen = view === "grid" ? naming.order() : view === "single" ? [left] : [left, right];
  naming.order().forEach((video, place) => {
    const { cell, label } = cellOf(video);
    label.textContent = naming.name(video);
    cell.style.setProperty("--bright", BRIGHT[place % 8]);
    cell.classList.toggle("away", !seen.includes(video));
    cell.classList.toggle("left", view !== "grid" && video === left && left !== right);
    cell.classList.toggle("right", view !== "grid" && video === right && left !== right);
    if (cells.children[place] !== cell) cells.insertBefore(cell, cells.children[place]);
  });
  for (const button of document.querySelectorAll("[data-view][type=button]")) {
    button.setAttribute("aria-pressed", String(button.dataset.view === view));
  }
  element("left-side").textContent = view === "single" ? "Shown" : "Left";
  fillChoice(element("left"), left);
  fillChoice(element("right"), right);
  wipeTo(shown.wipe);
  cells.style.setProperty("--gain", String(shown.gain));
  element("gain").value = String(shown.gain);
  element("gain-value").textContent = `${shown.gain} ×`;
  layOut();
  clock.follow(seen.map((video) => cellOf(video).player));
}

function fillChoice(select, chosen) {
  const options = naming.order().map((video) => {
    const option = make("option", { value: video.id }, naming.name(video));
    option.selected = video === chosen;
    return option;
  });
  select.replaceChildren(...options);
}

/** Columns of the grid that make the pictures largest, and the spot that is seen. */
function layOut() {
  const [width, height] = data.size;
  const count = videos.length;
  const room = stage.clientWidth / (window.innerHeight * 0.8);
  let best = 1;
  const picture = (columns) => Math.min(room / columns, (width / height) / Math.ceil(count / columns));
  for (let columns = 2; columns <= count; columns++) if (picture(columns) > picture(best) * 1.001) best = columns;
  if (stage.clientWidth < 560) best = Math.min(best, 2);
  player.style.setProperty("--columns", String(best));
  player.style.setProperty("--rows", String(Math.ceil(count / best)));
  player.style.setProperty("--aspect", `${width} / ${height}`);
  player.style.setProperty("--ratio", String(width / height));
  place();
}

/** Pixels of the screen for a pixel of the video while the whole picture is seen. */
function fitted() {
  const seen = made.find(({ cell }) => !cell.classList.contains("away"));
  return ((seen?.cell.clientWidth || 1) * devicePixelRatio) / data.size[0];
}

function place() {
  spot.scale = Math.min(CLOSEST, Math.max(1, spot.scale));
  for (const side of ["x", "y"]) spot[side] = Math.min(1 - 1 / spot.scale, Math.max(0, spot[side]));
  const transform = `scale(${spot.scale}) translate(${-100 * spot.x}%, ${-100 * spot.y}%)`;
  for (const { frame } of made) frame.style.transform = transform;
  const pixels = fitted() * spot.scale;
  stage.classList.toggle("pixels", pixels > PIXELS_FROM * 1.001);
  element("zoom-value").textContent = `${Math.round(100 * pixels)} %`;
}

/** Look closer by a factor, with the point at `x`, `y` (parts of the cell) staying where it is. */
function zoom(factor, x = 0.5, y = 0.5) {
  const before = spot.scale;
  spot.scale = Math.min(CLOSEST, Math.max(1, before * factor));
  spot.x += x / before - x / spot.scale;
  spot.y += y / before - y / spot.scale;
  place();
}

function zoomTo(scale) {
  zoom(scale / spot.scale);
}

/** Move the spot by parts of the cell. */
function pan(x, y) {
  spot.x -= x / spot.scale;
  spot.y -= y / spot.scale;
  place();
}

/** Move the wipe's line; 0 is the left edge, 1 the right one. */
function wipeTo(at) {
  shown.wipe = Math.min(1, Math.max(0, at));
  const percent = Math.round(100 * shown.wipe);
  cells.style.setProperty("--wipe", `${100 * shown.wipe}%`);
  handle.setAttribute("aria-valuenow", String(percent));
  handle.setAttribute("aria-valuetext", `${percent} % ${naming.name(shown.left)}, the rest ${naming.name(shown.right)}`);
}

/** The cell under an event, or the first that is seen. */
function cellUnder(event) {
  return event.target.closest?.(".cell") ?? made.find(({ cell }) => !cell.classList.contains("away")).cell;
}

/** A place on the screen in parts of a cell. */
function within(cell, { clientX, clientY }) {
  const { left, top, width, height } = cell.getBoundingClientRect();
  return { x: (clientX - left) / width, y: (clientY - top) / height, width, height };
}

/** Fingers and buttons that are down: where, on which cell, and whether they grip the wipe's line. */
const pointers = new Map();

/** Middle of the pointers, and how far they are apart. */
function span() {
  const [a, b] = [...pointers.values()];
  return {
    clientX: (a.clientX + b.clientX) / 2,
    clientY: (a.clientY + b.clientY) / 2,
    apart: Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) || 1,
  };
}

/** One pointer moves the line where it grips it or the whole picture is seen, else the spot; two look closer. */
function drag(event) {
  const pointer = pointers.get(event.pointerId);
  if (!pointer) return;
  const before = pointers.size === 2 ? span() : { ...pointer, apart: 1 };
  Object.assign(pointer, { clientX: event.clientX, clientY: event.clientY });
  const now = pointers.size === 2 ? span() : { ...pointer, apart: 1 };
  const { x, y, width, height } = within(pointer.cell, now);
  if (pointers.size < 2 && shown.view === "wipe" && (pointer.grips || spot.scale === 1)) return wipeTo(x);
  pan((now.clientX - before.clientX) / width, (now.clientY - before.clientY) / height);
  if (now.apart !== before.apart) zoom(now.apart / before.apart, x, y);
}

stage.addEventListener("pointerdown", (event) => {
  if (event.button || pointers.size === 2) return;
  const { clientX, clientY } = event;
  pointers.set(event.pointerId, { clientX, clientY, cell: cellUnder(event), grips: Boolean(event.target.closest("#handle")) });
  stage.setPointerCapture(event.pointerId);
  stage.classList.add("dragging");
});
stage.addEventListener("pointermove", drag);
for (const kind of ["pointerup", "pointercancel"]) {
  stage.addEventListener(kind, (event) => {
    pointers.delete(event.pointerId);
    if (!pointers.size) stage.classList.remove("dragging");
  });
}
stage.addEventListener(
  "wheel",
  (event) => {
    if (spot.scale === 1 && event.deltaY > 0) return; // the page scrolls on
    event.preventDefault();
    const { x, y } = within(cellUnder(event), event);
    zoom(Math.exp(-Math.max(-120, Math.min(120, event.deltaY)) / 300), x, y);
  },
  { passive: false },
);
stage.addEventListener("dblclick", (event) => {
  const { x, y } = within(cellUnder(event), event);
  if (spot.scale > 1) zoomTo(1);
  else zoom(Math.max(2, 2 / fitted()), x, y);
});
new ResizeObserver(layOut).observe(stage);
