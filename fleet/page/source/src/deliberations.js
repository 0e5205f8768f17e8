// The list: what waits, what is at work, and every end that the stream DELIBERATIONS still tells of, by its header.
import { Store } from "./store.js";
import { Waiting } from "./waiting.js";

const ENDS = {
  "deliberation.completed": "COMPLETED",
  "deliberation.failed": "FAILED",
  "deliberation.cancelled": "CANCELLED",
};
const EVERY_MS = 3_000;
const ASKED_AT_ONCE = 8;
const DRAWN_EVERY_MS = 250;
const LONGEST_MS = 6 * 3_600_000; // what was accepted before that has ended, an hour at the latest and what a fleet may stand still
const CLOCKS_DIFFER_MS = 60_000;
const QUESTIONS = 1_000;

export class Deliberations extends Store {
  byId = new Map();
  loaded = false;
  #ends = [];
  #order = null;
  #questions = new Map();
  #closed = false;

  constructor(link) {
    super(DRAWN_EVERY_MS);
    this.link = link;
    this.waiting = new Waiting(link);
    this.#ends.push(this.waiting.subscribe(() => this.#waits()), () => this.waiting.close());
    const followed = ["deliberation.accepted", "deliberation.rejected", ...Object.keys(ENDS)];
    let behind = followed.length;
    for (const subject of followed)
      this.#ends.push(
        link.follow("DELIBERATIONS", subject, (msg) => this.#take(subject, msg), {
          headersOnly: subject in ENDS,
          since: subject === "deliberation.accepted" ? new Date(Date.now() - LONGEST_MS).toISOString() : null,
          caughtUp: () => {
            behind -= 1;
            this.loaded = behind <= 0;
            if (this.loaded) this.#askRunning();
            this.changed();
          },
        }),
      );
  }

  // Hears of each call at work, for as long as somebody looks at the list. Returns a function that ends it.
  watch() {
    for (const row of this.running()) Object.assign(row, { heard: Date.now(), stale: true });
    const subjects = ["agent.response.completed", "agent.response.failed", "agent.response.progress"];
    const ends = subjects.map((subject) => this.link.hear(subject, (msg) => this.#hear(msg)));
    return () => ends.forEach((end) => end());
  }

  close() {
    this.#closed = true;
    clearTimeout(this.timer);
    for (const end of this.#ends) end();
  }

  // Newest first.
  sorted() {
    this.#order ??= [...this.byId.values()].sort((one, other) => (other.ended ?? other.at) - (one.ended ?? one.at));
    return this.#order;
  }

  running = () => this.sorted().filter((row) => !row.ended);

  // What is accepted later does not tell its question.
  #waits() {
    for (const { id, question } of this.waiting.rows) this.#questions.set(id, question);
    while (this.#questions.size > QUESTIONS) this.#questions.delete(this.#questions.keys().next().value);
    this.changed();
  }

  #of(id, at) {
    if (!this.byId.has(id)) {
      this.byId.set(id, { id, status: "IN_PROGRESS", at, tokens: 0, open: null });
      this.#order = null;
    }
    return this.byId.get(id);
  }

  #take(subject, msg) {
    const id = msg.headers?.get("Task-Id");
    if (!id) return;
    const at = Date.parse(msg.headers.get("ce-time"));
    const row = this.#of(id, at);
    this.#order = null;
    if (subject === "deliberation.accepted") {
      const said = msg.json();
      if (row.status === "REJECTED") Object.assign(row, { status: "IN_PROGRESS", ended: null, error: null });
      row.at = Date.parse(said.accepted_at ?? "") || at;
      row.deadline = Date.parse(said.deadline_at);
      Object.assign(row, { role: said.role, agents: said.agents?.length, rounds: said.rounds, correlation: said.correlation ?? {} });
      row.question ??= this.#questions.get(id);
      if (row.ended && row.at > row.ended + CLOCKS_DIFFER_MS) Object.assign(row, { status: "IN_PROGRESS", ended: null, degraded: false, error: null });
      row.heard ??= row.at;
    } else if (subject === "deliberation.rejected") {
      if (row.role || row.ended) return; // a later request under the id of an earlier one
      const said = msg.json();
      Object.assign(row, { status: "REJECTED", ended: at, error: said.error, correlation: said.correlation ?? {} });
    } else {
      const summary = summaryIn(msg.headers);
      row.open = null;
      Object.assign(row, { status: ENDS[subject], ...summary, ended: at });
      row.at = summary ? at - summary.duration_ms : row.at;
    }
    this.changed();
  }

  #hear(msg) {
    const row = this.byId.get(msg.headers?.get("Task-Id"));
    if (!row || row.ended) return;
    const said = msg.json();
    const call = `${said.phase} ${said.round} ${said.agent_id} ${said.question}`;
    row.heard = Date.now();
    if (said.shadow) return;
    if (row.phase !== said.phase || row.round !== said.round) row.stale = true;
    Object.assign(row, { phase: said.phase, round: said.round });
    if (said.status) row.stale = true;
    row.open ??= new Map();
    const tokens = said.tokens ?? said.usage?.completion_tokens ?? 0;
    row.tokens += tokens - (row.open.get(call) ?? 0);
    row.open.set(call, tokens);
    this.changed();
  }

  // How far those are that run, and what they cost so far: a few of them at a time, whose news is not known yet.
  async #askRunning() {
    const due = this.running().filter((row) => row.stale !== false).slice(0, ASKED_AT_ONCE);
    await Promise.all(due.map((row) => this.#ask(row)));
    if (!this.#closed) this.timer = setTimeout(() => this.#askRunning(), EVERY_MS);
  }

  async #ask(row) {
    row.stale = false;
    const said = await this.link.result(row.id).catch(() => null);
    if (!said || row.ended || said.result) return;
    row.usage = said.usage ?? row.usage;
    row.cost = said.cost ?? null;
    row.progress = said.progress ?? null;
    row.phase ??= said.progress?.phase;
    row.round ??= said.progress?.round;
    this.changed();
  }
}

// None: of a version that wrote no such header.
function summaryIn(headers) {
  try {
    return JSON.parse(headers.get("Task-Summary") || "null");
  } catch {
    return null;
  }
}
