// Prompts as graphs: what a link depends on, what plays which part in two of them, and one put into the other.
// Nothing of the editor.

/** @typedef {[string, number]} Link a node's id and the number of its output */
/** @typedef {{ class_type: string, inputs: Record<string, unknown> }} PromptNode */
/** @typedef {Record<string, PromptNode>} Prompt nodes by id, as in an API-format workflow */
/** @typedef {{ prompt: Prompt, link: unknown }} Origin what an input is made from */
/** @typedef {{ id: string, input: string }} Edit an input that differs; the id is today's, "" for the link itself */

/**
 * @param {unknown} value
 * @returns {value is Link}
 */
export const isLink = (value) =>
  Array.isArray(value) && value.length === 2 && typeof value[0] === "string" && typeof value[1] === "number";

/** @param {unknown} a @param {unknown} b */
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/**
 * Ids of everything that a link depends on.
 * @param {Prompt} prompt
 * @param {unknown} link
 */
export function ancestorsOf(prompt, link) {
  /** @type {Set<string>} */
  const found = new Set();
  const left = isLink(link) ? [link[0]] : [];
  for (let id = left.pop(); id !== undefined; id = left.pop()) {
    const node = prompt[id];
    if (found.has(id) || !node) continue;
    found.add(id);
    for (const value of Object.values(node.inputs)) if (isLink(value)) left.push(value[0]);
  }
  return found;
}

/**
 * Today's id of each node from then, found by following the same inputs in both: ids change when nodes are pasted or put
 * into a subgraph, and a number may belong to another node by now.
 * @param {Origin} then
 * @param {Origin} now
 * @returns {Map<string, string>}
 */
export function counterparts(then, now) {
  /** @type {Map<string, string>} */
  const found = new Map();
  /** @type {Set<string>} */
  const taken = new Set();
  const left = [[then.link, now.link]];
  for (let pair = left.pop(); pair; pair = left.pop()) {
    const [a, b] = pair;
    if (!isLink(a) || !isLink(b) || found.has(a[0]) || taken.has(b[0])) continue;
    const [old, current] = [then.prompt[a[0]], now.prompt[b[0]]];
    if (!old || old.class_type !== current?.class_type) continue;
    found.set(a[0], b[0]);
    taken.add(b[0]);
    for (const [name, value] of Object.entries(old.inputs)) left.push([value, current.inputs[name]]);
  }
  return found;
}

/**
 * @param {Origin} then
 * @param {Origin} now
 * @param {Map<string, string>} pairs from `counterparts`
 * @returns {Edit[]}
 */
export function editsBetween(then, now, pairs) {
  /** @param {unknown} a @param {unknown} b */
  const agree = (a, b) => (isLink(a) && isLink(b) ? pairs.get(a[0]) === b[0] && a[1] === b[1] : same(a, b));
  /** @type {Edit[]} */
  const edits = agree(then.link, now.link) ? [] : [{ id: "", input: "" }];
  for (const [old, id] of pairs) {
    const [before, after] = [then.prompt[old]?.inputs ?? {}, now.prompt[id]?.inputs ?? {}];
    for (const input of new Set([...Object.keys(before), ...Object.keys(after)])) {
      if (!agree(before[input], after[input])) edits.push({ id, input });
    }
  }
  return edits;
}

/** What was put into a prompt already: by place, what its node is made from. */
export class Taken {
  /** @type {Map<string, number>} */
  places = new Map();
  /** @type {Map<string, number>} numbers of all that was seen, by the text that says what it is made from */
  known = new Map();

  /**
   * Numbers of what each node is made from: the same for the same class, widgets and wiring, whatever the ids.
   * @param {Prompt} prompt
   * @returns {Map<string, number>}
   */
  numbers(prompt) {
    /** @type {Map<string, number>} */
    const found = new Map();
    /** @type {(id: string) => number} */
    const of = (id) => {
      const node = prompt[id];
      const before = found.get(id);
      if (before !== undefined || !node) return before ?? -1;
      found.set(id, -1); // a circle ends here
      const inputs = Object.entries(node.inputs).map(([name, value]) => {
        return [name, isLink(value) ? { of: of(value[0]), output: value[1] } : value];
      });
      const text = JSON.stringify([node.class_type, inputs.sort()]);
      const number = this.known.get(text) ?? this.known.size;
      this.known.set(text, number);
      found.set(id, number);
      return number;
    };
    Object.keys(prompt).forEach(of);
    return found;
  }
}

/**
 * Put recorded nodes into a prompt, each in its counterpart's place; one without gets a number that is free, and so does one
 * whose place was taken by a node that is made from something else.
 * @param {Prompt} prompt changed in place
 * @param {Origin} recorded
 * @param {Map<string, string>} pairs from `counterparts`
 * @param {Taken} [taken] by what was put in before; changed in place
 * @returns {unknown} the recorded link, with the numbers that its nodes have now
 */
export function putRecorded(prompt, recorded, pairs, taken = new Taken()) {
  const used = new Set([...Object.keys(prompt), ...Object.keys(recorded.prompt)]);
  const numbers = taken.numbers(recorded.prompt);
  /** @param {string} id */
  const free = (id) => {
    if (!(id in prompt)) return id;
    let name = `flashvideo-${id}`;
    while (used.has(name)) name += "-";
    used.add(name);
    return name;
  };
  /** @param {string} id */
  const placeOf = (id) => {
    const pair = pairs.get(id);
    const other = pair === undefined ? undefined : taken.places.get(pair);
    return pair !== undefined && (other === undefined || other === numbers.get(id)) ? pair : free(id);
  };
  const places = new Map(Object.keys(recorded.prompt).map((id) => [id, placeOf(id)]));
  /** @param {unknown} value */
  const moved = (value) => (isLink(value) ? [places.get(value[0]) ?? value[0], value[1]] : value);
  for (const [id, { class_type, inputs }] of Object.entries(recorded.prompt)) {
    const place = places.get(id) ?? id;
    const entries = Object.entries(inputs).map(([name, value]) => [name, moved(value)]);
    prompt[place] = { ...prompt[place], class_type, inputs: Object.fromEntries(entries) };
    taken.places.set(place, numbers.get(id) ?? -1);
  }
  return moved(recorded.link);
}

/** @type {Record<string, string>} nodes that take one sample out of a batch, and the input that says which */
const PICKS = { LatentFromBatch: "batch_index", FlashVideoPickPreview: "index" };

/**
 * What seed made each sample of a latent, in words; "" where that is not known.
 * @param {Prompt} prompt
 * @param {unknown} link
 * @param {number} count of samples
 * @returns {string[]}
 */
export function seedsOf(prompt, link, count) {
  /** @type {Set<unknown>} */
  const seen = new Set();
  let first = 0;
  for (let at = link; isLink(at) && !seen.has(at[0]); ) {
    seen.add(at[0]);
    const { class_type: kind = "", inputs = {} } = prompt[at[0]] ?? {};
    const given = inputs.seed ?? inputs.noise_seed;
    const seed = isLink(given) ? prompt[given[0]]?.inputs.value : given; // a primitive node's
    if (typeof seed === "number" && Number.isInteger(seed)) {
      // Stage I's samples have a seed each; core draws one noise for all.
      const own = kind === "FlashVideoStage1Sampler";
      const numbers = Array.from({ length: count }, (_, k) => first + k);
      if (own) return numbers.map((number) => String(BigInt(seed) + BigInt(number)));
      return numbers.map((number) => (count > 1 || first ? `${seed} · ${number + 1}` : String(seed)));
    }
    const pick = inputs[PICKS[kind] ?? ""];
    if (kind in PICKS && !(typeof pick === "number" && pick >= 0)) break;
    if (typeof pick === "number") first += pick;
    at = inputs.noise ?? (kind in PICKS ? (inputs.latent ?? inputs.samples) : undefined);
  }
  return [];
}
