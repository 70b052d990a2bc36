// What is said in the editor's language: every text in both, with the same gaps.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { editor, load } from "./editor.mjs";

const { text } = await load("texts.js");

const source = await readFile(new URL("../../js/texts.js", import.meta.url), "utf8");
const KEYS = [...source.split("const en = {")[1].split("};")[0].matchAll(/^ {2}(\w+):/gm)].map(([, key]) => key);

function said(locale, key, values) {
  editor.settings.set("Comfy.Locale", locale);
  return text(key, values);
}

test("values stand in the gaps, and a gap without a value leaves nothing", () => {
  assert.equal(said("en", "refine", { number: 2 }), "Refine 2");
  assert.equal(said("en", "wentOn", { number: 1, note: "It is edited." }), "Preview 1 went on. It is edited.");
  assert.equal(said("en", "wentOn", { number: 1 }), "Preview 1 went on.");
  assert.equal(said("en", "storeSize", { used: 0, limit: "1 GB" }), "Store: 0 of 1 GB");
});

test("an unknown language is English, a region is its language", () => {
  assert.equal(said("zh", "gate"), "FlashVideo 预览闸门");
  assert.equal(said("zh-TW", "gate"), said("zh", "gate"));
  assert.equal(said("fr", "gate"), "FlashVideo Preview Gate");
});

test("both languages have the same gaps, and Chinese is not English", () => {
  assert.ok(KEYS.length > 25);
  const marks = Object.fromEntries([...source.matchAll(/\{(\w+)\}/g)].map(([, name]) => [name, `<${name}>`]));
  const gaps = (words) => [...words.matchAll(/<\w+>/g)].map(([gap]) => gap).sort();
  for (const key of KEYS) {
    const [english, chinese] = [said("en", key, marks), said("zh", key, marks)];
    assert.deepEqual(gaps(chinese), gaps(english), key);
    assert.match(chinese, /[\u4e00-\u9fff]/, key);
  }
});
