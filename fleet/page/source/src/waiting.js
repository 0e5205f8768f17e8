// Requests that wait for room, with the time since when, and whether anybody takes them at all.
import { Polled } from "./store.js";

const STREAM = "DELIBERATION_REQUESTS";
const EVERY_MS = 2_000;
const SHOWN = 50;

export class Waiting extends Polled {
  count = 0;
  oldest = null;
  rows = [];
  taken = true; // whether a dispatcher is there
  problem = null;
  #refused = false;

  constructor(link) {
    super(link, EVERY_MS);
  }

  async look() {
    try {
      const [{ state }, consumer] = await Promise.all([
        this.link.api(`STREAM.INFO.${STREAM}`),
        this.link.api(`CONSUMER.INFO.${STREAM}.dispatcher`).catch(() => null),
      ]);
      this.count = state.messages;
      this.oldest = state.messages ? Date.parse(state.first_ts) : null;
      this.taken = consumer?.push_bound ?? false;
      if (!state.messages) this.rows = [];
      else if (!this.#refused) this.rows = await this.#read(state.first_seq);
      if (!this.#refused) this.problem = null;
    } catch (error) {
      this.#refused = error.forbidden ?? false;
      this.problem = error.message;
    }
    this.changed();
  }

  // The oldest, one by one: nobody but the dispatcher may have a consumer of this stream.
  async #read(seq) {
    const rows = [];
    while (rows.length < SHOWN && !this.closed) {
      const row = await this.#get(seq);
      if (!row) break;
      rows.push(row);
      seq = row.seq + 1;
    }
    return rows;
  }

  async #get(seq) {
    const found = await this.link.stored(STREAM, { seq, next_by_subj: "deliberation.requested" });
    if (!found) return null;
    const asked = read(found.data);
    return {
      seq: found.seq,
      id: typeof asked.task_id === "string" ? asked.task_id : `d-${found.seq}`,
      at: found.at,
      question: asked.task_description ?? (asked.content_ref ? "(a long request, stored apart)" : ""),
      role: asked.role ?? "DEV",
    };
  }
}

function read(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}
