// Something that changes, and those who draw it: at most once per frame, or every `everyMs`.
export class Store {
  #listeners = new Set();
  #due = false;
  #everyMs;

  constructor(everyMs = 0) {
    this.#everyMs = everyMs;
  }

  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  changed() {
    if (this.#due) return;
    this.#due = true;
    // A hidden page draws no frames; it is not looked at either.
    const draw = () =>
      requestAnimationFrame(() => {
        this.#due = false;
        this.draw();
      });
    if (this.#everyMs) setTimeout(draw, this.#everyMs);
    else draw();
  }

  // Without waiting.
  draw() {
    for (const listener of this.#listeners) listener();
  }
}

// What nothing tells of: `look` asks for it, again and again, until it is `closed` or `forbidden`.
export class Polled extends Store {
  closed = false;
  #timer;

  constructor(link, everyMs) {
    super();
    this.link = link;
    queueMicrotask(() => this.#run(everyMs)); // a subclass has its fields by then
  }

  close() {
    this.closed = true;
    clearTimeout(this.#timer);
  }

  async #run(everyMs) {
    await this.look();
    if (!this.closed && !this.forbidden) this.#timer = setTimeout(() => this.#run(everyMs), everyMs);
  }
}
