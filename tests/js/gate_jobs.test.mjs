// What became of refinements: by events, by the queue and by what ran before the page was opened.

import assert from "node:assert/strict";
import { test } from "node:test";
import { editor, graph, load, open } from "./editor.mjs";

const hash = (digit) => digit.repeat(32);
const prompt = (approve) => ({ 2: { class_type: "FlashVideoPreviewGate", inputs: { approve } }, 4: { class_type: "Save", inputs: {} } });
const file = { filename: "a.mp4", subfolder: "", type: "output" };

/** A server: what /queue and /history say, and a way to send events. */
const server = { running: [], pending: [], history: {}, heard: new Map() };
editor.api.apiURL = (route) => route;
editor.api.addEventListener = (name, act) => server.heard.set(name, act);
editor.api.fetchApi = async (route) => {
  const id = route.match(/^\/history\/(.+)/)?.[1];
  const history = id ? Object.fromEntries(Object.entries(server.history).filter(([key]) => key === id)) : server.history;
  const answer = route === "/queue" ? { queue_running: server.running, queue_pending: server.pending } : history;
  return { json: async () => structuredClone(answer) };
};
const say = (name, detail) => server.heard.get(name)({ detail });
const settled = () => new Promise((resolve) => setTimeout(resolve));

open(graph([{ id: 3, title: "Refiner" }]));
const { filesIn, follow, inWords, jobOf, listen, onJobs, recall, refuse } = await load("gate_jobs.js");
listen();

test("what ran before the page was opened is known, and what waits", async () => {
  server.history = {
    p1: { prompt: [1, "p1", prompt(hash("1"))], outputs: { 4: { images: [file] } }, status: { status_str: "success", messages: [] } },
    p2: {
      prompt: [2, "p2", prompt(hash("2"))],
      status: { status_str: "error", messages: [["execution_error", { node_type: "Refine", exception_message: "too large\n" }]] },
    },
    p3: { prompt: [3, "p3", prompt("never")], status: { status_str: "success", messages: [] } },
    p4: { prompt: [4, "p4", prompt(hash("4"))], status: { status_str: "error", messages: [["execution_interrupted", {}]] } },
  };
  server.pending = [[5, "p5", prompt(hash("5"))]];
  await recall();
  assert.equal(jobOf(hash("1")).state, "done");
  assert.deepEqual(jobOf(hash("1")).files, [file]);
  assert.equal(inWords(jobOf(hash("2"))), "Failed. Refine: too large");
  assert.equal(jobOf(hash("4")).state, "stopped");
  assert.equal(inWords(jobOf(hash("5"))), "Waiting in the queue");
  assert.equal(jobOf(hash("6")), undefined);
});

test("events tell how far it is, and listeners hear of it", async () => {
  let heard = 0;
  const forget = onJobs(() => heard++);
  server.pending = [[6, "p6", prompt(hash("6"))]];
  await follow("p6", hash("6"));
  say("execution_start", { prompt_id: "p6" });
  say("progress", { prompt_id: "p6", node: "3", value: 1, max: 4 });
  assert.equal(inWords(jobOf(hash("6"))), "Refining: Refiner, 25 %");
  say("executed", { prompt_id: "p6", output: { images: [file, { ...file, type: "temp" }], animated: [true] } });
  say("execution_success", { prompt_id: "p6" });
  assert.equal(inWords(jobOf(hash("6"))), "Done:");
  assert.deepEqual(jobOf(hash("6")).files, [file]);
  assert.ok(heard >= 5);
  forget();
  const before = heard;
  say("execution_success", { prompt_id: "p6" });
  assert.equal(heard, before);
});

test("a run that is over before it is known to be queued", async () => {
  server.pending = [];
  server.history = { p7: { prompt: [7, "p7", prompt(hash("7"))], outputs: { 4: { images: [file] } }, status: { status_str: "success" } } };
  say("execution_success", { prompt_id: "p7" });
  await follow("p7", hash("7"));
  assert.equal(jobOf(hash("7")).state, "done");
});

test("an answer that events have overtaken changes nothing", async () => {
  server.running = [[8, "p8", prompt(hash("8"))]];
  const answered = follow("p8", hash("8"));
  say("execution_error", { prompt_id: "p8", node_type: "Save", exception_message: "disk full" });
  await answered;
  assert.equal(inWords(jobOf(hash("8"))), "Failed. Save: disk full");
});

test("what was taken out of the queue has stopped; the last run of a preview counts", async () => {
  Object.assign(server, { running: [], pending: [[9, "p9", prompt(hash("8"))]], history: {} });
  await follow("p9", hash("8"));
  assert.equal(jobOf(hash("8")).state, "queued");
  server.pending = [];
  say("status", { exec_info: { queue_remaining: 0 } });
  await settled();
  assert.equal(inWords(jobOf(hash("8"))), "Stopped.");
});

test("what was refused has failed, and a run of the gate alone is no refinement", async () => {
  refuse(hash("a"), "Save: not in list");
  server.history = { p10: { prompt: [10, "p10", prompt(hash("a")), {}, ["2"]], status: { status_str: "success", messages: [] } } };
  await recall();
  assert.equal(inWords(jobOf(hash("a"))), "Failed. Save: not in list");
  server.history.p10.prompt[4].push("4");
  await recall();
  assert.equal(inWords(jobOf(hash("a"))), "Done.");
});

test("files are whatever a node wrote into the output folder", () => {
  assert.deepEqual(filesIn({ images: [file], text: ["words"], video: [{ ...file, type: "temp" }] }), [file]);
  assert.deepEqual(filesIn(null), []);
});
