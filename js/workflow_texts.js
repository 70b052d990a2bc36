// The pack's workflows in the editor's language: titles, notes and frames as `extra.flashvideo_texts` of the file has them.
// Only texts that stand there as they came are changed.

import { app } from "../../scripts/app.js";
import { language } from "./texts.js";

const KEY = "flashvideo_texts"; // language -> English text -> text

function translate() {
  const graph = app.rootGraph;
  const texts = /** @type {Record<string, Record<string, string>> | undefined} */ (graph.extra?.[KEY]);
  if (!texts) return;
  const wanted = texts[language()] ?? {};
  /** @type {Map<string, string>} any language -> the editor's */
  const table = new Map();
  for (const known of Object.values(texts))
    for (const [english, text] of Object.entries(known)) table.set(text, wanted[english] ?? english);
  for (const [english, text] of Object.entries(wanted)) table.set(english, text);
  for (const node of graph.nodes) {
    node.title = table.get(node.title) ?? node.title;
    const note = node.type === "MarkdownNote" ? node.widgets?.[0] : undefined;
    if (note && typeof note.value === "string") note.value = table.get(note.value) ?? note.value;
  }
  for (const group of graph.groups) group.title = table.get(group.title) ?? group.title;
  graph.setDirtyCanvas(true, true);
}

app.registerExtension({
  name: "FlashVideo.WorkflowTexts",
  afterConfigureGraph: translate, // another language makes the editor load the workflow again
});
