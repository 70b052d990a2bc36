// One clock for all players. It goes its own way; the players that are seen are kept at it.

const FAR_OFF = 0.3; // seconds by which a player is searched anew instead of hurried
const HURRY = 2; // by which speed is changed for each second of being off
const LONGEST_STEP = 0.25; // seconds between two pictures of the screen; more was a sleeping tab

class Clock {
  time = 0;
  speed = 1;
  loop = true;
  playing = false;
  /** @type {{ video: HTMLVideoElement, frames: FrameTimes }[]} */
  players = [];
  #last = 0;
  #listeners = [];

  get frame() {
    return timeline.at(this.time);
  }

  get end() {
    return data.end;
  }

  get frameCount() {
    return timeline.at(this.end - 2 * CLOCKS_DIFFER) + 1;
  }

  /** @param {() => void} listener called when the time or what plays has changed */
  onChange(listener) {
    this.#listeners.push(listener);
  }

  /** Those that are seen, from now on; the others stand still. */
  follow(players) {
    for (const player of this.players) if (!players.includes(player)) player.video.pause();
    this.players = players;
    if (this.playing) for (const player of players) this.#catchUp(player, 0);
    else this.#show();
  }

  play() {
    if (this.playing) return;
    if (this.frame >= this.frameCount - 1 && !this.loop) this.time = 0;
    this.playing = true;
    this.#last = performance.now();
    for (const player of this.players) this.#catchUp(player, 0);
    requestAnimationFrame((now) => this.#tick(now));
    this.#changed();
  }

  pause() {
    this.playing = false;
    this.seek(this.frame);
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  /** Show a frame of the time line; playing goes on from there. */
  seek(frame) {
    this.time = timeline.start(Math.min(this.frameCount - 1, Math.max(0, frame)));
    if (this.playing) for (const player of this.players) this.#catchUp(player, 0);
    else this.#show();
    this.#changed();
  }

  seekTime(seconds) {
    this.seek(timeline.at(Math.min(this.end, Math.max(0, seconds))));
  }

  step(frames) {
    const from = this.frame;
    this.playing = false;
    this.seek(from + frames);
  }

  /** Every player at the middle of the frame that it shows now: rounding can not reach a neighbour from there. */
  #show() {
    for (const { video, frames } of this.players) {
      video.pause();
      video.playbackRate = 1;
      const wanted = frames.middle(frames.at(this.time));
      if (Math.abs(video.currentTime - wanted) > 1e-6) video.currentTime = wanted;
    }
  }

  #tick(now) {
    if (!this.playing) return;
    const passed = Math.min(LONGEST_STEP, (now - this.#last) / 1000);
    this.#last = now;
    const waiting = this.players.some(({ video, frames }) => this.time < frames.end && (video.seeking || (video.readyState < 3 && !video.ended)));
    if (!waiting) this.time += passed * this.speed;
    if (this.time >= this.end) {
      if (!this.loop) {
        this.playing = false;
        this.seek(this.frameCount - 1);
        return;
      }
      this.time = 0;
      for (const player of this.players) this.#catchUp(player, 0);
    }
    for (const player of this.players) this.#catchUp(player, FAR_OFF);
    this.#changed();
    requestAnimationFrame((next) => this.#tick(next));
  }

  /** Hurry a player that is off, or search when it is off by more than `far` seconds. */
  #catchUp({ video, frames }, far) {
    if (this.time >= frames.end - CLOCKS_DIFFER) {
      video.pause();
      const last = frames.middle(frames.count - 1);
      if (!video.seeking && Math.abs(video.currentTime - last) > 1e-6) video.currentTime = last; // its last picture stays
      return;
    }
    const off = video.currentTime - this.time;
    if (Math.abs(off) > far && !video.seeking) video.currentTime = this.time;
    const rate = Math.min(16, Math.max(0.0625, this.speed * Math.min(1.5, Math.max(0.5, 1 - HURRY * off))));
    if (Math.abs(video.playbackRate - rate) > 0.01) video.playbackRate = rate;
    if (video.paused && !video.ended) video.play().catch(() => {}); // a browser that plays nothing before the first click shows a picture
  }

  #changed() {
    document.body.classList.toggle("playing", this.playing);
    for (const listener of this.#listeners) listener();
  }
}

const clock = new Clock();
