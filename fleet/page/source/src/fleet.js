// The fleet as its streams and services tell of it, asked again every few seconds.
import { Store } from "./store.js";

const EVERY_MS = 3_000;
const WORKERS = "KV_deliberation-workers";
const STATUS = "$KV.deliberation-workers.status.";
const QUEUES = {
  dispatcher: "DELIBERATION_REQUESTS",
  workers: "AGENT_REQUESTS",
  collector: "AGENT_RESPONSES",
  controller: "DELIBERATION_CONTROL",
};

export class Fleet extends Store {
  facts = null;
  problems = {};
  #ended = false;

  constructor(link) {
    super();
    this.link = link;
    this.#run();
  }

  close() {
    this.#ended = true;
    clearTimeout(this.timer);
  }

  async #run() {
    const problems = {};
    const or = (name, promise) => promise.catch((error) => void (problems[name] = error.message));
    const queue = async ([name, stream]) => {
      const [info, { state }] = await Promise.all([this.link.api(`CONSUMER.INFO.${stream}.${name}`), this.link.api(`STREAM.INFO.${stream}`)]);
      // A work queue holds what waits and nothing else.
      const waits = stream !== "AGENT_RESPONSES" && state.messages > 0 && info.num_pending + info.num_ack_pending > 0;
      return [name, { ...info, oldest: waits ? Date.parse(state.first_ts) : null }];
    };
    const [letters, queues, instances, statuses] = await Promise.all([
      or("DEAD_LETTERS", this.link.api("STREAM.INFO.DEAD_LETTERS")),
      Promise.all(Object.entries(QUEUES).map((each) => or(each[0], queue(each)))),
      or("service", this.#instances()),
      or("workers' statuses", this.#statuses()),
    ]);
    if (this.#ended) return;
    this.problems = problems;
    this.facts = {
      letters: letters?.state.messages,
      queues: Object.fromEntries(queues.filter(Boolean)),
      instances: instances ?? [],
      workers: statuses ?? [],
    };
    this.changed();
    this.timer = setTimeout(() => this.#run(), EVERY_MS);
  }

  async #instances() {
    const found = [];
    const replies = await this.link.nc.requestMany("$SRV.STATS.deliberations", "", { strategy: "timer", maxWait: 500 });
    for await (const reply of replies) if (reply.data.length) found.push(reply.json());
    return found.sort((one, other) => (one.id < other.id ? -1 : 1));
  }

  // What each worker has told of itself within a minute.
  async #statuses() {
    const info = await this.link.api(`STREAM.INFO.${WORKERS}`, { subjects_filter: `${STATUS}>` });
    const subjects = Object.keys(info.state.subjects ?? {}).sort();
    const found = await Promise.all(subjects.map((subject) => this.link.request(`$JS.API.DIRECT.GET.${WORKERS}.${subject}`).catch(() => null)));
    return found.filter((each) => each?.name);
  }
}
