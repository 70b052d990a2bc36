// The blind test: names hidden, order shuffled for this session, a vote on every pair, kept in this browser and as a file.

const LETTERS = "ABCDEFGH";
const FORMAT = "flashvideo-votes/1"; // what `flashvideo compare --votes` reads

function shuffled(items) {
  const mixed = [...items];
  for (let last = mixed.length - 1; last > 0; last--) {
    const other = crypto.getRandomValues(new Uint32Array(1))[0] % (last + 1);
    [mixed[last], mixed[other]] = [mixed[other], mixed[last]];
  }
  return mixed;
}

function newSession() {
  const order = shuffled(results.map(({ id }) => id));
  const pairs = order.flatMap((first, place) => order.slice(place + 1).map((second) => shuffled([first, second])));
  const session = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { session, started: new Date().toISOString(), order, pairs: shuffled(pairs), at: 0, votes: {} };
}

class BlindTest {
  #place = `flashvideo-compare:${data.id}`;
  #canKeep = true;

  constructor() {
    element("blind").hidden = results.length < 2;
    this.state = this.#read() ?? newSession();
    element("blind").addEventListener("click", () => this.toggle());
    for (const button of document.querySelectorAll("[data-choice]")) button.addEventListener("click", () => this.vote(button.dataset.choice));
    element("note").addEventListener("input", () => this.#keepNote());
    element("previous-pair").addEventListener("click", () => this.go(this.state.at - 1));
    element("next-pair").addEventListener("click", () => this.go(this.state.at + 1));
    element("restart").addEventListener("click", () => this.restart());
    element("download").addEventListener("click", () => this.download());
  }

  get pair() {
    return this.state.pairs[this.state.at].map((id) => videos.find((video) => video.id === id));
  }

  get isOver() {
    return this.state.pairs.every((_, place) => this.state.votes[place]?.choice);
  }

  toggle() {
    naming.blind = !naming.blind;
    if (naming.blind) this.#hide();
    else Object.assign(naming, { name: (video) => video.name, order: () => videos });
    document.body.classList.toggle("blinded", naming.blind);
    element("blind").setAttribute("aria-pressed", String(naming.blind));
    element("blind").textContent = naming.blind ? "Show names" : "Blind test";
    element("voting").hidden = !naming.blind;
    if (naming.blind) this.go(this.state.at);
    else show();
  }

  /** Letters in the order of this session; what they are held against keeps its name. */
  #hide() {
    const { order } = this.state;
    const letter = (video) => (video.role === "result" ? LETTERS[order.indexOf(video.id)] ?? "?" : video.label);
    const places = [...order.map((id) => videos.find((video) => video.id === id)), ...references];
    Object.assign(naming, { name: letter, order: () => places });
  }

  go(place) {
    this.state.at = Math.min(this.state.pairs.length - 1, Math.max(0, place));
    const [left, right] = this.pair;
    show({ left, right, wipe: 0.5 });
    this.#fill();
    this.#keep();
  }

  #fill() {
    const { at, pairs, votes } = this.state;
    const [left, right] = this.pair;
    const vote = votes[at];
    const names = { left: `${naming.name(left)} is better`, right: `${naming.name(right)} is better`, same: "No difference" };
    for (const button of document.querySelectorAll("[data-choice]")) {
      button.textContent = names[button.dataset.choice];
      button.setAttribute("aria-pressed", String(vote?.choice === button.dataset.choice));
    }
    element("voting-title").textContent = `Which looks better, ${naming.name(left)} or ${naming.name(right)}?`;
    element("note").value = vote?.note ?? "";
    const judged = pairs.filter((_, place) => votes[place]?.choice).length;
    element("progress").textContent = `Pair ${at + 1} of ${pairs.length}, ${judged} judged`;
    element("previous-pair").disabled = at === 0;
    element("next-pair").disabled = at === pairs.length - 1;
    element("download").disabled = !judged;
    element("all-judged").hidden = !this.isOver;
    element("kept").textContent = this.#canKeep
      ? "Votes stay in this browser until you download them; nothing is sent anywhere."
      : "This browser keeps nothing of this page: download the votes before you close it.";
  }

  vote(choice) {
    const { at, votes } = this.state;
    votes[at] = { ...votes[at], choice, at: new Date().toISOString(), view: shown.view, frame: clock.frame };
    this.#fill();
    this.#keep();
    if (!this.isOver) this.go(this.#nextOpen());
  }

  #nextOpen() {
    const { at, pairs, votes } = this.state;
    const places = pairs.map((_, step) => (at + step) % pairs.length);
    return places.find((place) => !votes[place]?.choice) ?? at;
  }

  #keepNote() {
    const { at, votes } = this.state;
    votes[at] = { ...votes[at], note: element("note").value };
    this.#keep();
  }

  restart() {
    const judged = Object.values(this.state.votes).some(({ choice }) => choice);
    if (judged && !window.confirm("Start anew? Votes that were not downloaded are lost.")) return;
    this.state = newSession();
    this.#hide();
    this.go(0);
  }

  /** What `flashvideo compare --votes` reads: videos by their bytes, so that renamed files still count. */
  record() {
    const { session, started, pairs, votes } = this.state;
    const given = pairs.flatMap(([left, right], place) => (votes[place]?.choice ? [{ left, right, note: "", ...votes[place] }] : []));
    return { format: FORMAT, session, started, videos: Object.fromEntries(results.map(({ id, name }) => [id, name])), votes: given };
  }

  download() {
    const link = make("a", { download: `votes-${this.state.session.slice(0, 8)}.json` });
    link.href = URL.createObjectURL(new Blob([`${JSON.stringify(this.record(), null, 2)}\n`], { type: "application/json" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  #keep() {
    try {
      localStorage.setItem(this.#place, JSON.stringify(this.state));
      this.#canKeep = true;
    } catch {
      this.#canKeep = false;
    }
  }

  #read() {
    try {
      const kept = JSON.parse(localStorage.getItem(this.#place) ?? "null");
      const known = new Set(results.map(({ id }) => id));
      return kept?.order.length === known.size && kept.order.every((id) => known.has(id)) ? kept : null;
    } catch {
      return null; // nothing is kept here, or what is kept is not ours
    }
  }
}
