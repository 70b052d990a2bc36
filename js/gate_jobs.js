// What became of the refinements that were queued: by the preview's hash, so that it is known in every tab and after a reload.

import { api } from "../../scripts/api.js";
import { nodeAt } from "./graph_nodes.js";
import { text } from "./texts.js";

/** @typedef {import("./prompt_graph.js").Prompt} Prompt */
/** @typedef {{ filename: string, subfolder: string, type: string }} SavedFile as /view takes it */
/** @typedef {"queued" | "running" | "done" | "failed" | "stopped"} State */
/**
 * @typedef {object} Job
 * @property {string} id of the prompt
 * @property {string} hash of the preview
 * @property {State} state
 * @property {string} words what it does, or why it failed
 * @property {number} part of the node that is running, 0 to 1
 * @property {SavedFile[]} files that it wrote
 */
/** @typedef {[number, string, Prompt, unknown?, string[]?]} Queued an item of /queue, and the prompt in /history */
/** @typedef {Record<string, Record<string, unknown> | undefined>} Outputs of nodes, by their ids */
/** @typedef {{ prompt: Queued, outputs?: Outputs, status?: { status_str?: string, messages?: [string, Failure][] } }} Past */
/** @typedef {{ prompt_id: string, exception_message?: string, node_type?: string }} Failure */
/** @typedef {{ prompt_id: string, node: string, value: number, max: number }} Progress */

const GATE = "FlashVideoPreviewGate";
const HASH = /^[0-9a-f]{32}$/;
const RECALLED = 64; // runs of the past that are looked through when the page opens
/** @type {Map<string, Job>} */
const jobs = new Map();
/** @type {Set<() => void>} */
const listeners = new Set();

/** @param {() => void} listener called when something became of a job; gives the way to end that */
export function onJobs(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

const tell = () => listeners.forEach((listener) => listener());

/**
 * The last refinement of a preview.
 * @param {string} hash
 */
export const jobOf = (hash) => [...jobs.values()].reverse().find((job) => job.hash === hash);

/** @param {Job} job */
const isOver = ({ state }) => state !== "queued" && state !== "running";

/**
 * Note what a prompt is for; each preview that it lets through is a job of its own.
 * @param {string} id
 * @param {string} hash
 */
function note(id, hash) {
  /** @type {Job} */
  const job = jobs.get(id + hash) ?? { id, hash, state: "queued", words: "", part: 0, files: [] };
  jobs.set(id + hash, job);
  return job;
}

/**
 * What was not even queued has failed.
 * @param {string} hash
 * @param {string} words
 */
export function refuse(hash, words) {
  Object.assign(note(`refused ${jobs.size} `, hash), { state: "failed", words });
  tell();
}

/**
 * Follow what was queued. It may be over by now: the server tells of a run while it still answers that it was queued.
 * @param {string} id
 * @param {string} hash
 */
export function follow(id, hash) {
  note(id, hash);
  tell();
  return look();
}

/** @param {string} id @param {Partial<Job>} changes */
function change(id, changes) {
  const found = [...jobs.values()].filter((job) => job.id === id);
  for (const job of found) Object.assign(job, changes);
  if (found.length) tell();
}

/**
 * Files that a node wrote to stay.
 * @param {Record<string, unknown> | null | undefined} output
 * @returns {SavedFile[]}
 */
export function filesIn(output) {
  const entries = Object.values(output ?? {}).filter(Array.isArray).flat();
  return entries.filter((entry) => entry?.type === "output" && typeof entry.filename === "string");
}

/** @param {Failure | undefined} failure */
const why = (failure) => [failure?.node_type, failure?.exception_message?.trim()].filter(Boolean).join(": ");

/**
 * Jobs of a queued prompt: its gates let previews through, to an output that is no gate.
 * @param {Queued} item
 */
function jobsIn([, id, prompt, , targets]) {
  if (targets?.every((target) => prompt[target]?.class_type === GATE)) return [];
  const gates = Object.values(prompt).filter(({ class_type }) => class_type === GATE);
  const hashes = gates.map(({ inputs }) => inputs.approve).filter((value) => typeof value === "string" && HASH.test(value));
  return hashes.map((hash) => note(id, /** @type {string} */ (hash)));
}

/** @param {Past} past */
function recallOne({ prompt, outputs, status }) {
  const messages = new Map(status?.messages);
  const stopped = messages.has("execution_interrupted");
  const failed = status?.status_str === "error";
  const state = stopped ? "stopped" : failed ? "failed" : "done";
  const files = Object.values(outputs ?? {}).flatMap(filesIn);
  for (const job of jobsIn(prompt)) Object.assign(job, { state, files, words: why(messages.get("execution_error")) });
}

/**
 * @template T
 * @param {string} route
 * @returns {Promise<T>}
 */
const ask = async (route) => (await api.fetchApi(route)).json();

/** What ran before the page was opened. */
export async function recall() {
  const history = /** @type {Record<string, Past>} */ (await ask(`/history?max_items=${RECALLED}`));
  Object.values(history).forEach(recallOne);
  await look();
  tell();
}

/**
 * What is queued now, by whomever; what was open before, and is neither queued nor running, is over. Events overtake the
 * answer: what they have ended stays so.
 */
async function look() {
  const open = [...jobs.values()].filter((job) => !isOver(job));
  const queue = /** @type {{ queue_running: Queued[], queue_pending: Queued[] }} */ (await ask("/queue"));
  const waiting = new Set([...queue.queue_running, ...queue.queue_pending].map(([, id]) => id));
  queue.queue_pending.forEach(jobsIn);
  for (const job of queue.queue_running.flatMap(jobsIn)) if (!isOver(job)) job.state = "running";
  for (const job of open.filter(({ id }) => !waiting.has(id))) {
    const past = /** @type {Record<string, Past>} */ (await ask(`/history/${job.id}`))[job.id];
    if (past) recallOne(past);
    else if (!isOver(job)) job.state = "stopped"; // taken out of the queue
  }
  tell();
}

/** Listen to the server; called once. */
export function listen() {
  /** @template T @param {string} name @param {(detail: T) => void} act */
  const on = (name, act) =>
    api.addEventListener(/** @type {any} */ (name), (/** @type {any} */ event) => event.detail && act(event.detail));
  on("execution_start", (/** @type {Failure} */ { prompt_id }) => change(prompt_id, { state: "running" }));
  on("progress", (/** @type {Progress} */ { prompt_id, node, value, max }) =>
    change(prompt_id, { part: max ? value / max : 0, words: nodeAt(node)?.title ?? "" }),
  );
  on("executed", (/** @type {{ prompt_id: string, output: Record<string, unknown> }} */ { prompt_id, output }) => {
    for (const job of jobs.values()) if (job.id === prompt_id) job.files.push(...filesIn(output));
  });
  on("execution_success", (/** @type {Failure} */ { prompt_id }) => change(prompt_id, { state: "done", words: "" }));
  on("execution_error", (/** @type {Failure} */ failure) =>
    change(failure.prompt_id, { state: "failed", words: why(failure) }),
  );
  on("execution_interrupted", (/** @type {Failure} */ { prompt_id }) => change(prompt_id, { state: "stopped", words: "" }));
  on("status", () => look().catch(() => {})); // it says so again
}

/**
 * A job in words.
 * @param {Job} job
 */
export function inWords({ state, words, part, files }) {
  if (state === "running") return words ? text("refiningNode", { node: words, percent: Math.round(100 * part) }) : text("refining");
  if (state === "failed") return text("failed", { why: words });
  if (state === "done") return files.length ? text("done") : text("doneNoFile");
  return text(state === "queued" ? "waitingInQueue" : "stopped");
}

/** @param {SavedFile} file */
export const address = ({ filename, subfolder, type }) =>
  api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
