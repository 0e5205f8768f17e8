// Something that changes, and those who draw it: drawn at most once per frame.
export class Store {
  #listeners = new Set();
  #due = false;

  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  changed() {
    if (this.#due) return;
    this.#due = true;
    // A hidden page draws no frames; it is not looked at either.
    requestAnimationFrame(() => {
      this.#due = false;
      for (const listener of this.#listeners) listener();
    });
  }
}
