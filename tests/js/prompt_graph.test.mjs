// Prompts as graphs: what a link depends on, which nodes play the same part, and one prompt put into another.

import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./editor.mjs";

const { ancestorsOf, counterparts, editsBetween, isLink, putRecorded, seedsOf, Taken } = await load("prompt_graph.js");

const node = (class_type, inputs = {}) => ({ class_type, inputs });

/** Loader and text into a sampler, its latent into the gate; the ids are whatever is asked for. */
function chain(loader, text, sampler, seed = 1) {
  return {
    [loader]: node("Load", { model_name: "a" }),
    [text]: node("Encode", { prompt: "a ball" }),
    [sampler]: node("Sample", { model: [loader, 0], positive: [text, 0], seed }),
  };
}

test("a link is a node's id and the number of its output", () => {
  assert.ok(isLink(["3", 0]));
  for (const value of [["3"], ["3", "0"], [3, 0], ["3", 0, 1], "3", null, undefined, { 0: "3", 1: 0, length: 2 }]) {
    assert.equal(isLink(value), false, JSON.stringify(value));
  }
});

test("a link depends on every node behind it, on each once, and on nothing beside it", () => {
  const prompt = { ...chain("1", "2", "3"), 4: node("Decode", { latent: ["3", 0], vae: ["1", 1] }), 5: node("Other") };
  assert.deepEqual([...ancestorsOf(prompt, ["4", 0])].sort(), ["1", "2", "3", "4"]);
  assert.deepEqual([...ancestorsOf(prompt, ["2", 0])], ["2"]);
  assert.equal(ancestorsOf(prompt, 7).size, 0);
});

test("a node that is not in the prompt, and a circle, end the search", () => {
  const prompt = { 1: node("A", { x: ["2", 0], y: ["9", 0] }), 2: node("B", { x: ["1", 0] }) };
  assert.deepEqual([...ancestorsOf(prompt, ["1", 0])].sort(), ["1", "2"]);
});

test("counterparts are found by the inputs, whatever the numbers", () => {
  const then = { prompt: chain("1", "2", "3"), link: ["3", 0] };
  const now = { prompt: chain("2", "3", "12:1"), link: ["12:1", 0] };
  const pairs = [...counterparts(then, now)].sort();
  assert.deepEqual(pairs, [["1", "2"], ["2", "3"], ["3", "12:1"]]);
});

test("another class is no counterpart, and nothing behind it is looked at", () => {
  const now = { prompt: { ...chain("1", "2", "3"), 3: node("Other", { model: ["1", 0] }) }, link: ["3", 0] };
  assert.equal(counterparts({ prompt: chain("1", "2", "3"), link: ["3", 0] }, now).size, 0);
});

test("a node of today is the counterpart of one node only", () => {
  const then = {
    prompt: { 1: node("Load"), 2: node("Load"), 3: node("Two", { a: ["1", 0], b: ["2", 0] }) },
    link: ["3", 0],
  };
  const now = { prompt: { 1: node("Load"), 3: node("Two", { a: ["1", 0], b: ["1", 0] }) }, link: ["3", 0] };
  const pairs = counterparts(then, now);
  assert.equal([...pairs.values()].filter((id) => id === "1").length, 1);
  assert.equal(pairs.get("3"), "3");
});

test("the same graph under other numbers was not edited", () => {
  const then = { prompt: chain("1", "2", "3"), link: ["3", 0] };
  const now = { prompt: chain("3", "1", "2"), link: ["2", 0] };
  assert.deepEqual(editsBetween(then, now, counterparts(then, now)), []);
});

test("edits are named by today's ids: changed, new and missing inputs, another wiring, another output", () => {
  const then = { prompt: chain("1", "2", "3"), link: ["3", 0] };
  const now = { prompt: chain("4", "5", "6", 2), link: ["6", 1] };
  now.prompt["5"].inputs.weights = true;
  delete now.prompt["4"].inputs.model_name;
  now.prompt["7"] = node("Load", { model_name: "a" });
  now.prompt["6"].inputs.negative = ["7", 0];
  const edits = editsBetween(then, now, counterparts(then, now)).map(({ id, input }) => `${id}.${input}`);
  assert.deepEqual(edits.sort(), [".", "4.model_name", "5.weights", "6.negative", "6.seed"]);
});

test("lists are compared by what is in them", () => {
  const of = (value) => ({ prompt: { 1: node("A", { list: value }) }, link: ["1", 0] });
  assert.deepEqual(editsBetween(of([1, 2, 3]), of([1, 2, 3]), new Map([["1", "1"]])), []);
  assert.equal(editsBetween(of([1, 2, 3]), of([1, 2]), new Map([["1", "1"]])).length, 1);
});

test("recorded nodes take their counterparts' places, and the links follow", () => {
  const then = { prompt: chain("1", "2", "3", 5), link: ["3", 0] };
  const now = { prompt: chain("2", "3", "1", 6), link: ["1", 0] };
  const { prompt } = now;
  prompt["1"]._meta = { title: "kept" };
  const link = putRecorded(prompt, then, counterparts(then, now));
  assert.deepEqual(link, ["1", 0]);
  assert.deepEqual(Object.keys(prompt).sort(), ["1", "2", "3"]);
  assert.deepEqual(prompt["1"].inputs, { model: ["2", 0], positive: ["3", 0], seed: 5 });
  assert.deepEqual(prompt["1"]._meta, { title: "kept" });
});

test("one without a counterpart gets a number that nobody has, also no recorded node", () => {
  const prompt = { 1: node("Gate"), "flashvideo-1": node("Other"), 3: node("Other") };
  const recorded = { prompt: { 1: node("Load"), 2: node("Sample", { model: ["1", 0] }) }, link: ["2", 0] };
  const link = putRecorded(prompt, recorded, new Map());
  assert.deepEqual(link, ["2", 0]);
  assert.equal(prompt["1"].class_type, "Gate");
  assert.equal(prompt["flashvideo-1"].class_type, "Other");
  const [place] = prompt["2"].inputs.model;
  assert.equal(place, "flashvideo-1-");
  assert.equal(prompt[place].class_type, "Load");
});

test("a widget's value that is no link is put in as it is, also as the recorded link", () => {
  const prompt = {};
  assert.equal(putRecorded(prompt, { prompt: { 1: node("A", { size: [1, 2] }) }, link: "none" }, new Map()), "none");
  assert.deepEqual(prompt["1"].inputs.size, [1, 2]);
});

test("a second record shares what is made from the same, and has a place of its own for what is not", () => {
  const now = { ...chain("1", "2", "3"), ...chain("1", "2", "4"), 5: node("Gate", { latent: ["3", 0] }) };
  const same = { prompt: chain("1", "2", "4"), link: ["4", 0] };
  const [first, other] = [chain("1", "2", "3"), chain("1", "2", "4")];
  first["2"].inputs.prompt = "a cube"; // the text of then; the other was made with today's
  const prompt = structuredClone(now);
  const taken = new Taken();
  putRecorded(prompt, { prompt: first, link: ["3", 0] }, counterparts({ prompt: first, link: ["3", 0] }, { prompt: now, link: ["3", 0] }), taken);
  const link = putRecorded(prompt, same, counterparts(same, { prompt: now, link: ["4", 0] }), taken);
  assert.deepEqual(link, ["4", 0]);
  assert.deepEqual(prompt["3"].inputs.positive, ["2", 0]);
  assert.equal(prompt["2"].inputs.prompt, "a cube");
  assert.equal(prompt[prompt["4"].inputs.positive[0]].inputs.prompt, "a ball");
  assert.deepEqual(prompt["4"].inputs.model, ["1", 0], "the loader is the same for both");
  assert.deepEqual(other, same.prompt, "records are left alone");
});

test("numbers are the same for what is made from the same, whatever the ids", () => {
  const taken = new Taken();
  const a = taken.numbers(chain("1", "2", "3"));
  const b = taken.numbers({ ...chain("7", "8", "9"), ...chain("7", "8", "10", 5) });
  assert.equal(a.get("3"), b.get("9"));
  assert.notEqual(a.get("3"), b.get("10"));
  const circle = { 1: node("A", { x: ["2", 0] }), 2: node("A", { x: ["1", 0] }) };
  assert.equal(taken.numbers(circle).size, 2);
});

test("a sample's seed", () => {
  const stage1 = (seed) => ({ 1: node("FlashVideoStage1Sampler", { seed }), 9: node("PrimitiveInt", { value: 7 }) });
  assert.deepEqual(seedsOf(stage1(41), ["1", 0], 2), ["41", "42"]);
  assert.deepEqual(seedsOf(stage1(["9", 0]), ["1", 0], 2), ["7", "8"], "a seed that comes from another node");
  const picked = { ...stage1(41), 2: node("LatentFromBatch", { samples: ["1", 0], batch_index: 3, length: 1 }) };
  assert.deepEqual(seedsOf(picked, ["2", 0], 1), ["44"]);
  picked["3"] = node("FlashVideoPickPreview", { latent: ["1", 0], index: -1 });
  assert.deepEqual(seedsOf(picked, ["3", 0], 1), [], "from the end of a batch of unknown length");
  const custom = { 4: node("SamplerCustomAdvanced", { noise: ["5", 0] }), 5: node("RandomNoise", { noise_seed: 8 }) };
  assert.deepEqual(seedsOf(custom, ["4", 0], 1), ["8"]);
  assert.deepEqual(seedsOf(custom, ["4", 0], 2), ["8 · 1", "8 · 2"], "core draws one noise for a batch");
  for (const link of [["7", 0], "never", undefined]) assert.deepEqual(seedsOf(custom, link, 2), []);
  assert.deepEqual(seedsOf({ 1: node("A", { noise: ["2", 0] }), 2: node("B", { noise: ["1", 0] }) }, ["1", 0], 1), []);
});
