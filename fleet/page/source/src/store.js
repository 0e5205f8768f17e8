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
        for (const listener of this.#listeners) listener();
      });
    if (this.#everyMs) setTimeout(draw, this.#everyMs);
    else draw();
  }
}
