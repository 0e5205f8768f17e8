// The list: what waits, what is at work, and every end that the stream DELIBERATIONS still tells of, by its header.
import { headersOf } from "./nats.js";
import { Store } from "./store.js";
import { keyOf, subjectOf, tenantOf } from "./tenants.js";
import { Waiting } from "./waiting.js";

const ENDS = {
  "deliberation.completed": "COMPLETED",
  "deliberation.failed": "FAILED",
  "deliberation.cancelled": "CANCELLED",
};
const STREAM = "DELIBERATIONS";
const ACCEPTED = "deliberation.accepted";
const PROGRESS = "agent.response.progress";
const FOLLOWED = [ACCEPTED, "deliberation.rejected", ...Object.keys(ENDS)];
const NEWEST = 600; // messages: two of a deliberation that has ended
const EVERY_MS = 3_000;
const ASKED_AT_ONCE = 8;
const DRAWN_EVERY_MS = 250;
const DRAWN_WITHIN_MS = 50; // the newest, before older ones come
const LONGEST_MS = 6 * 3_600_000; // what was accepted before that has ended, an hour at the latest and what a fleet may stand still
const CLOCKS_DIFFER_MS = 60_000;
const QUESTIONS = 1_000;

export class Deliberations extends Store {
  byKey = new Map();
  loaded = false; // the newest are known
  complete = false; // all are
  #ends = [];
  #order = null;
  #questions = new Map();
  #closed = false;
  #whose = ["default"]; // `*`: of every other tenant, where there are some

  constructor(link) {
    super(DRAWN_EVERY_MS);
    this.link = link;
    this.waiting = new Waiting(link);
    this.#ends.push(this.waiting.subscribe(() => this.#waits()), () => this.waiting.close());
    this.#begin();
  }

  // The newest first, which are drawn at once; what is older is read then.
  async #begin() {
    const [last, tenants] = await Promise.all([
      this.link.api(`STREAM.INFO.${STREAM}`).then(({ state }) => state.last_seq, () => 0),
      this.link.api("STREAM.NAMES", { subject: subjectOf("*", "deliberation.requested") }).then(({ total }) => total > 0, () => false),
    ]);
    if (tenants) this.#whose.push("*");
    const from = Math.max(1, last - NEWEST + 1);
    let drawn;
    const after = new Promise((done) => (drawn = done));
    const newest = this.#read({ from });
    const older = from > 1 && this.#read({ before: from, after }); // its consumers are made meanwhile
    await newest;
    this.loaded = true;
    this.draw();
    requestAnimationFrame(() => setTimeout(drawn));
    setTimeout(drawn, DRAWN_WITHIN_MS); // a hidden page draws no frames
    await older;
    this.complete = true;
    this.draw();
    this.#askRunning();
  }

  // Fulfilled when all subjects are read as far as that; what comes later is heard, too.
  #read({ from, before, after }) {
    const since = new Date(Date.now() - LONGEST_MS).toISOString();
    const one = (whose, subject) =>
      new Promise((caughtUp) => {
        if (this.#closed) return;
        const start = before && subject === ACCEPTED ? { since } : { from };
        const tell = (msg) => this.#take(subject, msg) && !before && this.changed(); // older ones stand below what is shown
        this.#ends.push(this.link.follow(STREAM, subjectOf(whose, subject), tell, { ...start, before, after, headersOnly: subject in ENDS, caughtUp }));
      });
    return Promise.all(this.#whose.flatMap((whose) => FOLLOWED.map((subject) => one(whose, subject))));
  }

  // Hears of each call at work, for as long as somebody looks at the list. Returns a function that ends it.
  watch() {
    for (const row of this.running()) Object.assign(row, { heard: Date.now(), stale: true });
    const subjects = ["agent.response.completed", "agent.response.failed", ...this.#whose.map((whose) => subjectOf(whose, PROGRESS))];
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
    this.#order ??= [...this.byKey.values()].sort((one, other) => (other.ended ?? other.at) - (one.ended ?? one.at));
    return this.#order;
  }

  running = () => this.sorted().filter((row) => !row.ended);

  // What is accepted later does not tell its question.
  #waits() {
    for (const { key, question } of this.waiting.rows) this.#questions.set(key, question);
    while (this.#questions.size > QUESTIONS) this.#questions.delete(this.#questions.keys().next().value);
    this.changed();
  }

  #of(tenant, id, at) {
    const key = keyOf(tenant, id);
    if (!this.byKey.has(key)) {
      this.byKey.set(key, { key, id, tenant, status: "IN_PROGRESS", at, tokens: 0, open: null });
      this.#order = null;
    }
    return this.byKey.get(key);
  }

  // Whether it says something new.
  #take(subject, msg) {
    const header = headersOf(msg);
    const id = header("Task-Id");
    if (!id) return false;
    const at = Date.parse(header("ce-time"));
    const row = this.#of(tenantOf(msg.subject), id, at);
    // Of an earlier deliberation under the same id, whose history is read after the newest.
    if (msg.seq < Math.max(row.accepted ?? 0, subject in ENDS ? (row.end ?? 0) : 0)) return false;
    this.#order = null;
    if (subject === ACCEPTED) {
      row.accepted = msg.seq;
      const said = msg.json();
      if (row.status === "REJECTED") Object.assign(row, { status: "IN_PROGRESS", ended: null, error: null });
      row.at = Date.parse(said.accepted_at ?? "") || at;
      row.deadline = Date.parse(said.deadline_at);
      Object.assign(row, { role: said.role, agents: said.agents?.length, rounds: said.rounds, correlation: said.correlation ?? {} });
      row.question ??= this.#questions.get(row.key);
      if (row.ended && row.at > row.ended + CLOCKS_DIFFER_MS) Object.assign(row, { status: "IN_PROGRESS", ended: null, degraded: false, error: null });
      row.heard ??= row.at;
    } else if (subject === "deliberation.rejected") {
      if (row.role || row.ended) return false; // a later request under the id of an earlier one
      const said = msg.json();
      Object.assign(row, { status: "REJECTED", ended: at, error: said.error, correlation: said.correlation ?? {} });
    } else {
      const summary = summaryIn(header("Task-Summary"));
      row.open = null;
      row.end = msg.seq;
      Object.assign(row, { status: ENDS[subject], ...summary, ended: at });
      row.at = summary ? at - summary.duration_ms : row.at;
    }
    return true;
  }

  // Of progress, which comes most often, the body is smaller than the headers; of an answer it may be a megabyte. An answer has
  // the task's key, progress the id that its tenant knows.
  #hear(msg) {
    const small = msg.subject.endsWith(PROGRESS) ? msg.json() : null;
    const row = this.byKey.get(small ? keyOf(tenantOf(msg.subject), small.task_id) : msg.headers?.get("Task-Id"));
    if (!row || row.ended) return;
    const said = small ?? msg.json();
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
    const said = await this.link.result(row.key).catch(() => null);
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
function summaryIn(header) {
  try {
    return JSON.parse(header || "null");
  } catch {
    return null;
  }
}
