// What the gate and Compare say, in the editor's language. Names of nodes, settings and commands are in locales/.

import { app } from "../../scripts/app.js";

const en = {
  gate: "FlashVideo Preview Gate",
  waiting: "Run the workflow: its previews appear here, and Stage II waits until you press Refine.",
  choose: "Press Refine on the one to go on with.",
  refine: "Refine {number}",
  refineAgain: "Refine {number} again",
  refineLabel: "Refine preview {number}",
  about: "Preview {number}: {parts}",
  frames: "{frames} frames",
  seed: "seed {seed}",
  pick: "Choose preview {number} to refine several at once",
  refineMany: "Refine chosen ({count})",
  enlarge: "Enlarge preview {number}",
  close: "Close",
  before: "Preview before",
  after: "Next preview",
  play: "Play",
  pause: "Pause",
  seek: "Time in all previews",
  seconds: "{time} seconds",
  earlier: "Earlier previews",
  later: "Later previews",
  page: "{number} / {count}",
  waitingInQueue: "Waiting in the queue",
  refining: "Refining …",
  refiningNode: "Refining: {node}, {percent} %",
  done: "Done:",
  doneNoFile: "Done.",
  failed: "Failed. {why}",
  stopped: "Stopped.",
  refused: "ComfyUI refused a part of the workflow.",
  old: "earlier settings",
  changed: "Edited since: {edits}. Run makes new previews; Refine goes on with these as they were made.",
  chosen: "Preview {number} is chosen. What follows needs a choice in {gates} too: press Refine there.",
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
  about: "预览 {number}：{parts}",
  frames: "{frames} 帧",
  seed: "种子 {seed}",
  pick: "选择预览 {number}，以便一次精修多个",
  refineMany: "精修所选（{count}）",
  enlarge: "放大预览 {number}",
  close: "关闭",
  before: "上一个预览",
  after: "下一个预览",
  play: "播放",
  pause: "暂停",
  seek: "所有预览中的时间",
  seconds: "{time} 秒",
  earlier: "更早的预览",
  later: "更新的预览",
  page: "第 {number} 批 / 共 {count} 批",
  waitingInQueue: "正在排队",
  refining: "正在精修…",
  refiningNode: "正在精修：{node}，{percent}%",
  done: "完成：",
  doneNoFile: "已完成。",
  failed: "失败。{why}",
  stopped: "已停止。",
  refused: "ComfyUI 拒绝了工作流的一部分。",
  old: "较早的设置",
  changed: "之后修改了：{edits}。运行会生成新的预览；精修则按这些预览生成时的设置继续。",
  chosen: "已选择预览 {number}。后续节点还需要在 {gates} 中选择：请在那里按“精修”。",
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

/** The language of what this pack says: one that it has. */
export function language() {
  const locale = app.extensionManager.setting.get("Comfy.Locale");
  const name = typeof locale === "string" ? locale : navigator.language;
  return [name, name.split("-")[0] ?? ""].find((known) => known in languages) ?? "en";
}

/**
 * @param {Key} key
 * @param {Record<string, string | number>} [values] what stands for `{name}`
 */
export function text(key, values = {}) {
  return (languages[language()] ?? en)[key].replace(/\{(\w+)\}/g, (_, /** @type {string} */ name) => String(values[name] ?? "")).trim();
}
