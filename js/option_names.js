// The values of the pack's menus in the editor's language. Only what is shown changes: prompts and files keep the values.

import { app } from "../../scripts/app.js";
import { language } from "./texts.js";

/** Numbers, formats and names of files say the same everywhere. @type {Record<string, string>} */
const zh = {
  default: "默认",
  "Stage I": "第一阶段",
  "Stage II": "第二阶段",
  "very low motion": "运动极少",
  "low motion": "运动较少",
  "medium motion": "运动适中",
  "high motion": "运动较多",
  "very high motion": "运动极多",
  none: "无",
  custom: "自定义",
  "short side": "短边",
  "as input": "与输入相同",
  authors: "作者的曲线",
  smooth: "平滑",
  constant: "恒定",
  euler: "欧拉 (euler)",
  midpoint: "中点 (midpoint)",
  heun: "休恩 (heun)",
  rk4: "龙格-库塔 (rk4)",
  exact: "精确",
  stretch: "拉伸",
  crop: "裁剪",
  pad: "填充",
  sample: "采样",
  mean: "均值",
  random: "随机",
  strong: "强",
  weak: "弱",
  auto: "自动",
  full: "全部",
  windows: "窗口",
};

/** @param {string | null | undefined} value */
const shown = (value) => (language() === "zh" && zh[value ?? ""]) || (value ?? "");

app.registerExtension({
  name: "FlashVideo.OptionNames",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("FlashVideo")) return;
    for (const widget of node.widgets ?? [])
      if (widget.type === "combo" && Array.isArray(widget.options.values))
        if (widget.options.values.some((value) => zh[String(value)])) widget.options.getOptionLabel = shown;
  },
});
