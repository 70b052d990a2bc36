// What the page shows, and which frame of a video is on the screen at a time.

const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);

/** An element with attributes and children; strings become text, never markup. */
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Frames of a video at a steady rate: `start(i)`, `middle(i)` in seconds, and `at(seconds)` the number of the shown one. */
class FrameTimes {
  constructor({ count, rate, end }) {
    Object.assign(this, { count, rate, end });
  }

  start(index) {
    return index / this.rate;
  }

  middle(index) {
    return (index + 0.5) / this.rate;
  }

  at(seconds) {
    return Math.min(this.count - 1, Math.max(0, Math.floor((seconds + CLOCKS_DIFFER) * this.rate)));
  }
}

const CLOCKS_DIFFER = 0.0015; // seconds: WebM rounds times to a thousandth
const videos = data.videos.map((video, index) => ({ ...video, index, frames: new FrameTimes(video) }));
const results = videos.filter((video) => video.role === "result");
const references = videos.filter((video) => video.role !== "result");
const timeline = videos[data.timeline].frames; // the frames that stepping goes through

/** An address of a video that lies in the page itself, or beside it. */
function address(video) {
  if (video.file) return video.file;
  const holder = element(`video-${video.index}`);
  const letters = atob(holder.textContent);
  holder.remove();
  const bytes = new Uint8Array(letters.length);
  for (let index = 0; index < bytes.length; index++) bytes[index] = letters.charCodeAt(index);
  return URL.createObjectURL(new Blob([bytes], { type: video.type }));
}
