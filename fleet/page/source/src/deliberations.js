// The list: every deliberation that the stream DELIBERATIONS still tells of. Results are read by their headers only.
import { Store } from "./store.js";

const ENDS = {
  "deliberation.completed": "COMPLETED",
  "deliberation.failed": "FAILED",
  "deliberation.cancelled": "CANCELLED",
  "deliberation.rejected": "REJECTED",
};

export class Deliberations extends Store {
  byId = new Map();
  loaded = false;
  #ends = [];

  constructor(link) {
    super();
    this.link = link;
    const wanted = ["deliberation.accepted", ...Object.keys(ENDS)];
    let waiting = wanted.length;
    for (const subject of wanted)
      this.#ends.push(
        link.follow("DELIBERATIONS", subject, (msg) => this.#take(subject, msg), {
          headersOnly: subject === "deliberation.completed",
          caughtUp: () => {
            waiting -= 1;
            this.loaded = waiting <= 0;
            this.changed();
          },
        }),
      );
    for (const subject of ["agent.response.completed", "agent.response.failed", "agent.response.progress"])
      this.#ends.push(link.hear(subject, (msg) => this.#hear(msg)));
  }

  close() {
    for (const end of this.#ends) end();
  }

  sorted() {
    return [...this.byId.values()].sort((one, other) => (other.at ?? 0) - (one.at ?? 0));
  }

  #of(id) {
    if (!this.byId.has(id)) this.byId.set(id, { id, status: "IN_PROGRESS", tokens: 0, open: new Map() });
    return this.byId.get(id);
  }

  #take(subject, msg) {
    const id = msg.headers?.get("Task-Id");
    if (!id) return;
    const row = this.#of(id);
    const at = Date.parse(msg.headers.get("ce-time"));
    if (subject === "deliberation.accepted") {
      const said = msg.json();
      Object.assign(row, { role: said.role, agents: said.agents?.length, rounds: said.rounds, at: Date.parse(said.accepted_at ?? "") || at });
      row.deadline = Date.parse(said.deadline_at);
    } else {
      row.status = ENDS[subject];
      row.at ??= at;
      row.ended = at;
      row.open.clear();
      if (subject !== "deliberation.completed") {
        const said = msg.json();
        row.status = said.status ?? row.status;
        row.why = said.error ?? said.reason;
      }
    }
    this.changed();
  }

  #hear(msg) {
    const row = this.byId.get(msg.headers?.get("Task-Id"));
    if (!row || row.ended) return;
    const said = msg.json();
    row.phase = said.phase;
    row.round = said.round;
    row.open.set(`${said.phase} ${said.round} ${said.agent_id} ${said.question}`, said.tokens ?? said.usage?.completion_tokens ?? 0);
    row.tokens = [...row.open.values()].reduce((sum, tokens) => sum + tokens, 0);
    this.changed();
  }
}
