// Numbers beside the pictures: the table, the plot over time with its playhead, the votes that were brought back, the files.

const ARROW = { 1: "↑", "-1": "↓", 0: "" };
const PLOT = { width: 960, height: 220, left: 52, right: 12, top: 10, bottom: 26 };
const SVG = "http://www.w3.org/2000/svg";

function draw(tag, attributes, text) {
  const drawn = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) drawn.setAttribute(name, value);
  if (text !== undefined) drawn.textContent = text;
  return drawn;
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

function key(video) {
  const dot = make("i", { class: "dot" });
  dot.style.setProperty("--colour", colour(video));
  return dot;
}

function fillTable() {
  const scored = videos.filter((video) => video.scores);
  const measures = data.measures.filter(({ id }) => scored.some((video) => isNumber(video.scores[id])));
  element("scores").hidden = !scored.length;
  const head = make("tr", {}, make("th", { scope: "col" }, "Video"));
  for (const { label, better, unit, help } of measures) {
    const cell = make("th", { scope: "col", title: help }, `${label} ${ARROW[better]}`.trim());
    if (unit) cell.append(make("small", {}, unit));
    if (better) cell.append(make("span", { class: "hidden" }, better > 0 ? " (more is better)" : " (less is better)"));
    head.append(cell);
  }
  const rows = scored.map((video) => {
    const name = make("th", { scope: "row", title: video.name }, key(video), video.name);
    return make("tr", {}, name, ...measures.map((measure) => scoreCell(measure, video, scored)));
  });
  element("score-table").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}

/** Numbers that look alike share the star; where all look alike there is none. */
function scoreCell({ id, better, digits }, video, scored) {
  const value = video.scores[id];
  if (!isNumber(value)) return make("td", { class: "none" }, "–");
  const text = value.toFixed(digits);
  const others = scored.map((other) => other.scores[id]).filter(isNumber).map((number) => Number(number.toFixed(digits)));
  const best = better > 0 ? Math.max(...others) : Math.min(...others);
  const isBest = better && others.length > 1 && Math.max(...others) !== Math.min(...others) && Number(text) === best;
  if (!isBest) return make("td", {}, text);
  return make("td", { class: "best" }, make("span", { "aria-hidden": "true" }, "★ "), text, make("span", { class: "hidden" }, " (best)"));
}

class Plot {
  constructor() {
    this.place = element("plot");
    this.curved = videos.filter((video) => video.scores?.series?.seconds?.length > 1);
    const measures = data.measures.filter(({ id }) => this.curved.some((video) => video.scores.series[id]?.some(isNumber)));
    element("over-time").hidden = !measures.length;
    element("measure").append(...measures.map(({ id, label, unit }) => make("option", { value: id }, unit ? `${label}, ${unit}` : label)));
    this.measures = new Map(measures.map((measure) => [measure.id, measure]));
    if (!measures.length) return;
    element("measure").addEventListener("change", () => this.draw());
    this.place.addEventListener("pointerdown", (event) => this.#seek(event));
    this.place.addEventListener("pointermove", (event) => event.buttons && this.#seek(event));
    new ResizeObserver(() => this.draw()).observe(this.place);
    clock.onChange(() => this.follow());
    this.draw();
  }

  get measure() {
    return this.measures.get(element("measure").value);
  }

  x(seconds) {
    return PLOT.left + (seconds / clock.end) * (this.width - PLOT.left - PLOT.right);
  }

  draw() {
    const { id, digits } = this.measure;
    this.width = Math.max(240, this.place.clientWidth);
    const height = this.place.clientWidth < 560 ? 180 : PLOT.height;
    const values = this.curved.flatMap((video) => (video.scores.series[id] ?? []).filter(isNumber));
    const ticks = roundTicks(Math.min(...values), Math.max(...values));
    const [low, high] = [ticks[0], ticks[ticks.length - 1]];
    const y = (value) => PLOT.top + (1 - (value - low) / (high - low)) * (height - PLOT.top - PLOT.bottom);
    const svg = draw("svg", { viewBox: `0 0 ${this.width} ${height}`, "aria-hidden": "true" });
    const decimals = Math.max(0, -Math.floor(Math.log10(ticks[1] - ticks[0]) + 1e-9));
    for (const tick of ticks) {
      svg.append(draw("line", { class: "grid", x1: PLOT.left, x2: this.width - PLOT.right, y1: y(tick), y2: y(tick) }));
      svg.append(draw("text", { x: PLOT.left - 8, y: y(tick) + 4, "text-anchor": "end" }, tick.toFixed(decimals)));
    }
    const seconds = roundTicks(0, clock.end, Math.max(2, Math.floor(this.width / 140))).filter((tick) => tick <= clock.end * 1.0001);
    for (const tick of seconds) {
      svg.append(draw("text", { x: this.x(tick), y: height - 6, "text-anchor": "middle" }, `${Number(tick.toFixed(3))} s`));
    }
    this.values = [];
    const keys = this.curved.map((video) => {
      const curve = draw("path", { class: "curve", d: this.#path(video, id, y) });
      curve.style.stroke = colour(video);
      svg.append(curve);
      const value = make("span", { class: "value" });
      this.values.push({ video, value, digits });
      return make("span", { class: "key" }, key(video), video.name, value);
    });
    this.head = draw("line", { class: "head", y1: PLOT.top - 4, y2: height - PLOT.bottom });
    svg.append(this.head);
    this.place.replaceChildren(svg);
    element("legend").replaceChildren(...keys);
    this.follow();
  }

  #path(video, id, y) {
    let pen = "M";
    return (video.scores.series[id] ?? [])
      .map((value, index) => {
        if (!isNumber(value)) {
          pen = "M";
          return "";
        }
        const point = `${pen}${this.x(video.scores.series.seconds[index]).toFixed(1)} ${y(value).toFixed(1)}`;
        pen = "L";
        return point;
      })
      .join("");
  }

  follow() {
    if (!this.head) return;
    const at = this.x(clock.time);
    this.head.setAttribute("x1", at);
    this.head.setAttribute("x2", at);
    for (const { video, value, digits } of this.values) {
      const { seconds, [this.measure.id]: series } = video.scores.series;
      const number = series?.[lastUpTo(seconds, clock.time + CLOCKS_DIFFER)];
      value.textContent = isNumber(number) ? number.toFixed(digits) : "–";
    }
    this.place.setAttribute("aria-valuemin", "0");
    this.place.setAttribute("aria-valuemax", clock.end.toFixed(2));
    this.place.setAttribute("aria-valuenow", clock.time.toFixed(2));
    this.place.setAttribute("aria-valuetext", `${clock.time.toFixed(2)} seconds`);
  }

  #seek(event) {
    const { left, width } = this.place.getBoundingClientRect();
    const part = (((event.clientX - left) / width) * this.width - PLOT.left) / (this.width - PLOT.left - PLOT.right);
    clock.pause();
    clock.seekTime(part * clock.end);
  }
}

/** Index of the last of ascending numbers that is not above a limit. */
function lastUpTo(numbers, limit) {
  let low = 0;
  let high = numbers.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (numbers[middle] <= limit) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Round numbers from below `low` to above `high`. */
function roundTicks(low, high, count = 4) {
  const range = high - low || Math.abs(high) || 1;
  const rough = range / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.max(first + 1, Math.ceil(high / step - 1e-9));
  return Array.from({ length: last - first + 1 }, (_, index) => (first + index) * step);
}

function fillTally() {
  const { tally } = data;
  element("tally").hidden = !tally;
  if (!tally) return;
  element("tally-words").textContent = tally.words;
  const column = (text) => make("th", { scope: "col" }, text);
  const head = make("tr", {}, column("Pair"), column("First better"), column("No difference"), column("Second better"), column("First preferred, 95 %"));
  const rows = tally.rows.map(({ first, second, wins, same, losses, share }) => {
    const cells = [wins, same, losses].map((count) => make("td", {}, String(count)));
    return make("tr", {}, make("th", { scope: "row", title: `${first} or ${second}` }, `${first} or ${second}`), ...cells, shareCell(share));
  });
  element("tally-table").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
  element("tally-notes").replaceChildren(...tally.notes.map((note) => make("li", {}, note)));
  element("tally-notes").hidden = !tally.notes.length;
}

function shareCell(share) {
  if (!share) return make("td", { class: "none" }, "–");
  const percent = (part) => `${(100 * part).toFixed(1)}%`;
  const range = make("i");
  Object.assign(range.style, { left: percent(share.low), width: percent(share.high - share.low) });
  const mean = make("b");
  mean.style.left = percent(share.mean);
  const words = [share.mean, share.low, share.high].map((part) => Math.round(100 * part));
  return make("td", {}, make("span", { class: "share", "aria-hidden": "true" }, range, mean), `${words[0]} % (${words[1]} to ${words[2]})`);
}

function fillFiles() {
  const items = videos.flatMap((video) => {
    const said = video.remarks.map((remark) => make("p", {}, remark));
    return [make("dt", {}, video.name), make("dd", {}, video.facts, ...said)];
  });
  element("file-list").replaceChildren(...items);
}
