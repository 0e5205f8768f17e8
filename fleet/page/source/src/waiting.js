// Requests that wait for room, of each tenant, with the time since when, and whether anybody takes them at all.
import { Polled } from "./store.js";
import { keyOf, subjectOf, tenantOf } from "./tenants.js";

const STREAM = "DELIBERATION_REQUESTS";
const REQUESTED = "deliberation.requested";
const EVERY_MS = 2_000;
const SHOWN = 50;

export class Waiting extends Polled {
  count = 0;
  oldest = null;
  tenants = []; // those of whom requests wait: `{tenant, count, oldest, problem}`
  rows = []; // the oldest of all
  taken = true; // whether a dispatcher is there, for each of them
  problem = null;
  #refused = new Map(); // stream -> what NATS said: it is not asked again

  constructor(link) {
    super(link, EVERY_MS);
  }

  async look() {
    try {
      const found = (await this.#streams()).filter(({ state }) => state.messages > 0);
      const taken = await Promise.all(found.map(({ config: { name } }) => this.link.api(`CONSUMER.INFO.${name}.dispatcher`).then((info) => info.push_bound ?? false, () => false)));
      const rows = await this.#read(found);
      this.tenants = found.map(({ config, state }) => ({ tenant: tenantOf(config.subjects[0]), count: state.messages, oldest: Date.parse(state.first_ts), problem: this.#refused.get(config.name) ?? null }));
      Object.assign(this, {
        count: this.tenants.reduce((sum, each) => sum + each.count, 0),
        oldest: found.length ? Math.min(...this.tenants.map((each) => each.oldest)) : null,
        taken: taken.every(Boolean),
        rows,
        problem: null,
      });
    } catch (error) {
      this.problem = error.message;
    }
    this.changed();
  }

  // The default tenant's first, the others by name.
  async #streams() {
    const others = [];
    for (let total = 1; others.length < total; ) {
      const page = await this.link.api("STREAM.LIST", { subject: subjectOf("*", REQUESTED), offset: others.length });
      if (!page.streams?.length) break;
      others.push(...page.streams);
      total = page.total;
    }
    return [await this.link.api(`STREAM.INFO.${STREAM}`), ...others.sort((one, other) => (one.config.name < other.config.name ? -1 : 1))];
  }

  // The oldest of all, one by one: nobody but the dispatcher may have a consumer of these streams.
  async #read(streams) {
    const heads = await Promise.all(streams.map(({ config, state }) => this.#get(config, state.first_seq)));
    const rows = [];
    while (rows.length < SHOWN && !this.closed) {
      const next = heads.reduce((best, head, index) => (head && (best < 0 || head.at < heads[best].at) ? index : best), -1);
      if (next < 0) break;
      rows.push(heads[next]);
      heads[next] = await this.#get(streams[next].config, heads[next].seq + 1);
    }
    return rows;
  }

  // The first from this place on; null where there is none, or where this user may not read it.
  async #get({ name, subjects }, seq) {
    if (this.#refused.has(name)) return null;
    let found;
    try {
      found = await this.link.stored(name, { seq, next_by_subj: subjects[0] });
    } catch (error) {
      if (!error.forbidden) throw error;
      this.#refused.set(name, error.message);
    }
    if (!found) return null;
    const asked = read(found.data);
    const tenant = tenantOf(found.subject);
    const id = typeof asked.task_id === "string" ? asked.task_id : `d-${found.seq}`;
    return {
      key: keyOf(tenant, id),
      id,
      tenant,
      seq: found.seq,
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
