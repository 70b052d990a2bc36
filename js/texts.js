// What the gate and Compare say, in the editor's language. Names of nodes, settings and commands are in locales/.

import { app } from "../../scripts/app.js";

const en = {
  gate: "FlashVideo Preview Gate",
  waiting: "Run the workflow: its previews appear here, and Stage II waits until you press Refine.",
  choose: "Press Refine on the one to go on with.",
  refine: "Refine {number}",
  refineAgain: "Refine {number} again",
  refineLabel: "Refine preview {number}",
  about: "Preview {number}: {frames} frames, {width} × {height}, {hash}",
  storeSize: "Store: {used} of {limit}",
  emptyStore: "Empty store",
  emptyTitle: "Remove the previews of all workflows from the disk",
  emptyAgain: "Press again to empty",
  emptyQuestion: "Remove the previews of all workflows from the disk? The next Run makes new ones.",
  emptied: "The preview store is empty.",
  gone: "These previews are not in the store any more. Run the workflow to make them again.",
  limitRefused: "The preview store's limit was not changed: it takes 1 to 1048576 megabytes.",
  queueing: "Queueing preview {number} …",
  queued: "Preview {number} is queued for refinement. {note}",
  wentOn: "Preview {number} went on. {note}",
  edited: "It is refined as it was made; edited since and not used: {edits}.",
  editedInput: "the gate's input",
  stale: "The approved video is not among these previews, so nothing went on. Choose again.",
  notInWorkflow: "This gate is not in the workflow that would run. Is it muted or bypassed?",
  usedTwice: "This gate is in a subgraph that is used several times. Run the workflow, then press Refine.",
  unknownOrigin: "It is not known what made this preview. Run the workflow, then press Refine.",
  nothingFollows: "Nothing follows this gate. Connect its latent to Stage II and save the result.",
  wipe: "Wipe between before and after",
  wipeWaiting: "Run the workflow: both videos appear here.",
  wipeGone: "These videos were temporary and are gone. Run the workflow again.",
};

/** @typedef {keyof typeof en} Key */
/** @typedef {Record<Key, string>} Texts */

/** @type {Texts} */
const zh = {
  gate: "FlashVideo 预览闸门",
  waiting: "运行工作流：预览会显示在这里，第二阶段会等到您按下“精修”。",
  choose: "在要继续的预览下按“精修”。",
  refine: "精修 {number}",
  refineAgain: "再次精修 {number}",
  refineLabel: "精修预览 {number}",
  about: "预览 {number}：{frames} 帧，{width} × {height}，{hash}",
  storeSize: "存储：{used} / {limit}",
  emptyStore: "清空存储",
  emptyTitle: "从磁盘删除所有工作流的预览",
  emptyAgain: "再按一次清空",
  emptyQuestion: "从磁盘删除所有工作流的预览？下次运行会重新生成。",
  emptied: "预览存储已清空。",
  gone: "这些预览已不在存储中。请运行工作流重新生成。",
  limitRefused: "预览存储的上限未更改：可用 1 到 1048576 MB。",
  queueing: "正在将预览 {number} 加入队列…",
  queued: "预览 {number} 已加入精修队列。{note}",
  wentOn: "预览 {number} 已继续。{note}",
  edited: "按生成时的设置精修；之后修改且未采用的有：{edits}。",
  editedInput: "闸门的输入",
  stale: "被批准的视频不在这些预览之中，因此没有继续。请重新选择。",
  notInWorkflow: "将要运行的工作流中没有这个闸门。它是否被静音或绕过？",
  usedTwice: "这个闸门所在的子图被多次使用。请先运行工作流，再按“精修”。",
  unknownOrigin: "不知道这个预览由什么生成。请先运行工作流，再按“精修”。",
  nothingFollows: "这个闸门之后没有任何节点。请把它的 Latent 连接到第二阶段并保存结果。",
  wipe: "在之前与之后之间滑动",
  wipeWaiting: "运行工作流：两个视频会显示在这里。",
  wipeGone: "这些视频是临时文件，已不存在。请重新运行工作流。",
};

/** @type {Record<string, Texts>} */
const languages = { en, zh };

/** @returns {Texts} */
function spoken() {
  const locale = app.extensionManager.setting.get("Comfy.Locale");
  const name = typeof locale === "string" ? locale : navigator.language;
  return languages[name] ?? languages[name.split("-")[0] ?? ""] ?? en;
}

/**
 * @param {Key} key
 * @param {Record<string, string | number>} [values] what stands for `{name}`
 */
export function text(key, values = {}) {
  return spoken()[key].replace(/\{(\w+)\}/g, (_, /** @type {string} */ name) => String(values[name] ?? "")).trim();
}
