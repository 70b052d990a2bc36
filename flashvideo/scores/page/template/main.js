// The controls, by pointer and by keyboard.

const WIPE_STEP = 0.02;
const PAN_STEP = 0.1;
const ZOOM_STEP = 1.25;

fillTable();
fillTally();
fillFiles();
element("title").textContent = data.title;
const blind = new BlindTest();
const plot = new Plot();

for (const button of document.querySelectorAll("[data-view][type=button]")) {
  button.addEventListener("click", () => show({ view: button.dataset.view }));
}
for (const side of ["left", "right"]) {
  element(side).addEventListener("change", ({ target }) => show({ [side]: videos.find(({ id }) => id === target.value) }));
}
const swap = () => show({ left: shown.right, right: shown.left });
const zoomNative = () => zoomTo(1 / fitted());
const toggleLoop = () => {
  clock.loop = !clock.loop;
  element("loop").setAttribute("aria-pressed", String(clock.loop));
};
const fullScreen = () => {
  if (document.fullscreenElement) document.exitFullscreen();
  else player.requestFullscreen?.();
};

element("swap").addEventListener("click", swap);
element("gain").addEventListener("input", ({ target }) => show({ gain: Number(target.value) }));
element("zoom-in").addEventListener("click", () => zoom(ZOOM_STEP));
element("zoom-out").addEventListener("click", () => zoom(1 / ZOOM_STEP));
element("zoom-fit").addEventListener("click", () => zoomTo(1));
element("zoom-native").addEventListener("click", zoomNative);
element("fullscreen").hidden = !document.fullscreenEnabled;
element("fullscreen").addEventListener("click", fullScreen);
document.addEventListener("fullscreenchange", layOut);
element("play").addEventListener("click", () => clock.toggle());
element("back").addEventListener("click", () => clock.step(-1));
element("forth").addEventListener("click", () => clock.step(1));
element("loop").addEventListener("click", toggleLoop);
element("speed").addEventListener("change", ({ target }) => (clock.speed = Number(target.value)));
element("seek").addEventListener("input", ({ target }) => {
  if (clock.playing) clock.pause();
  clock.seek(Number(target.value));
});
element("show-keys").addEventListener("click", () => element("keys").showModal());

const KEYS = {
  " ": () => clock.toggle(),
  ",": () => clock.step(-1),
  ".": () => clock.step(1),
  "<": () => clock.step(-10),
  ">": () => clock.step(10),
  ";": () => clock.step(-10),
  ":": () => clock.step(10),
  Home: () => clock.seek(0),
  End: () => clock.seek(clock.frameCount - 1),
  l: toggleLoop,
  w: () => show({ view: "wipe" }),
  g: () => show({ view: "grid" }),
  d: () => show({ view: "difference" }),
  o: () => show({ view: "single" }),
  x: swap,
  f: fullScreen,
  b: () => results.length > 1 && blind.toggle(),
  "+": () => zoom(ZOOM_STEP),
  "=": () => zoom(ZOOM_STEP),
  "-": () => zoom(1 / ZOOM_STEP),
  0: () => zoomTo(1),
  9: zoomNative,
  "?": () => element("keys").showModal(),
};
const VOTES = { ArrowLeft: "left", ArrowDown: "same", ArrowRight: "right" };
const WAYS = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

/** Elements that use a key themselves keep it. */
function isTaken({ key, target }) {
  if (target.matches("textarea, select")) return true;
  if (target.matches("input")) return key.length > 1 || key === " ";
  return key === " " && target.matches("button");
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || element("keys").open || isTaken(event)) return;
  const act = action(event);
  if (!act) return;
  event.preventDefault();
  act();
});

function action({ key, shiftKey, target }) {
  if (shiftKey && VOTES[key]) return naming.blind ? () => blind.vote(VOTES[key]) : null;
  if (target === handle && WAYS[key]) return () => wipeTo(shown.wipe - (WAYS[key][0] - WAYS[key][1]) * WIPE_STEP);
  if (target === handle && key === "Home") return () => wipeTo(0);
  if (target === handle && key === "End") return () => wipeTo(1);
  if (target.id === "plot" && WAYS[key]) return () => clock.step(-WAYS[key][0] || WAYS[key][1]);
  if (target === stage && WAYS[key]) {
    if (spot.scale > 1) return () => pan(WAYS[key][0] * PAN_STEP, WAYS[key][1] * PAN_STEP);
    return shown.view === "wipe" ? () => wipeTo(shown.wipe - WAYS[key][0] * WIPE_STEP) : null;
  }
  if (/^[1-8]$/.test(key)) {
    const video = naming.order()[Number(key) - 1];
    return video ? () => show({ view: "single", left: video, right: shown.right }) : null;
  }
  return KEYS[key] ?? KEYS[key.toLowerCase()] ?? null;
}

clock.onChange(() => {
  const { frame, frameCount, time, end, playing } = clock;
  element("play").setAttribute("aria-label", playing ? "Pause" : "Play");
  element("play").title = playing ? "Pause (Space)" : "Play (Space)";
  element("seek").max = String(frameCount - 1);
  element("seek").value = String(frame);
  element("seek").setAttribute("aria-valuetext", `frame ${frame + 1} of ${frameCount}, ${time.toFixed(2)} seconds`);
  element("time").textContent = `${time.toFixed(2)} / ${end.toFixed(2)} s · ${frame + 1} of ${frameCount}`;
});

show({ view: data.view });
clock.seek(0);
if (!matchMedia("(prefers-reduced-motion: reduce)").matches) clock.play();
