// The gate's looks: the editor's own colours, light and dark.

export const STYLE = `
.flashvideo-gate { display: flex; flex-direction: column; gap: 6px; height: 100%; min-width: 0; box-sizing: border-box; padding: 4px;
  font: 12px/1.35 system-ui, sans-serif; color: var(--input-text, #ddd); overflow: hidden; }
.flashvideo-gate [hidden] { display: none !important; }
.flashvideo-gate .cards { flex: 1; min-height: 0; display: grid; gap: 6px; overflow: auto;
  grid-template-columns: repeat(var(--columns, 1), minmax(0, 1fr)); grid-auto-rows: minmax(144px, 1fr); }
.flashvideo-gate .card { display: flex; flex-direction: column; min-height: 0; border-radius: 6px; overflow: hidden;
  background: var(--comfy-input-bg, #222); border: 2px solid transparent; }
.flashvideo-gate .card.approved { border-color: #4caf50; }
.flashvideo-gate .picture { position: relative; flex: 1; min-height: 0; background: #000; }
.flashvideo-gate video { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.flashvideo-gate .picture::after { content: ""; position: absolute; left: 0; bottom: 0; height: 3px; background: #4caf50;
  width: calc(100% * var(--part, 0)); }
.flashvideo-gate .enlarge { position: absolute; top: 4px; right: 4px; opacity: .75; }
.flashvideo-gate .enlarge:is(:hover, :focus-visible) { opacity: 1; }
.flashvideo-gate .caption { display: flex; align-items: center; gap: 6px; padding: 3px 6px; font-size: 11px; white-space: nowrap; }
.flashvideo-gate .caption .seed { flex: 1; min-width: 0; overflow: hidden; text-overflow: ellipsis; }
.flashvideo-gate .pick { margin: 0; flex: none; cursor: pointer; }
.flashvideo-gate .mark { display: none; color: var(--descrip-text, #999); }
.flashvideo-gate .old .mark { display: inline; }
.flashvideo-gate .old video { opacity: .5; }
.flashvideo-gate .job { padding: 0 6px 3px; font-size: 11px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.flashvideo-gate .job:empty { display: none; }
.flashvideo-gate .job.failed { border-left: 3px solid #e5484d; white-space: normal; max-height: 4.2em; overflow: auto; }
.flashvideo-gate .job a { color: inherit; }
.flashvideo-gate button { font: inherit; color: inherit; cursor: pointer; padding: 4px 8px; border-radius: 4px;
  border: 1px solid var(--border-color, #555); background: var(--comfy-menu-bg, #333); }
.flashvideo-gate button:hover { filter: brightness(1.15); }
.flashvideo-gate :is(button, input, a):focus-visible { outline: 2px solid #6cf; outline-offset: -2px; }
.flashvideo-gate .icon, .flashvideo-gate .pause { padding: 3px 6px; line-height: 1; }
.flashvideo-gate .icon i, .flashvideo-gate .pause i { font-size: 11px; }
.flashvideo-gate .card .refine { flex: none; border: 0; border-radius: 0; border-top: 1px solid var(--border-color, #555); }
.flashvideo-gate .tools { display: flex; gap: 8px; align-items: center; justify-content: flex-end; flex: none; }
.flashvideo-gate .tools .flashvideo-bar { flex: 1; }
.flashvideo-gate .pages { display: flex; gap: 4px; align-items: center; white-space: nowrap; font-size: 11px; flex: none; }
.flashvideo-gate .foot { display: flex; gap: 8px; align-items: center; justify-content: space-between; flex: none;
  white-space: nowrap; font-size: 11px; }
.flashvideo-gate .size { opacity: .85; }
.flashvideo-gate .status { flex: none; max-height: 4.2em; overflow: auto; }
.flashvideo-gate .status.warning { border-left: 3px solid #e08a00; padding-left: 6px; }
.flashvideo-gate .changed { flex: none; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; font-size: 11px;
  color: var(--descrip-text, #999); }
.flashvideo-gate :is(.status, .changed):empty { display: none; }
`;
