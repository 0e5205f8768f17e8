// The fleet as its streams and services tell of it, asked again every few seconds.
import { Store } from "./store.js";

const EVERY_MS = 3_000;
const WORKERS = "KV_deliberation-workers";
const STATUS = "$KV.deliberation-workers.status.";

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
    const info = (stream) => or(stream, this.link.api(`STREAM.INFO.${stream}`));
    const lag = (stream, consumer) => or(consumer, this.link.api(`CONSUMER.INFO.${stream}.${consumer}`));
    const [requests, letters, dispatcher, workers, collector, control, instances, statuses] = await Promise.all([
      info("DELIBERATION_REQUESTS"),
      info("DEAD_LETTERS"),
      lag("DELIBERATION_REQUESTS", "dispatcher"),
      lag("AGENT_REQUESTS", "workers"),
      lag("AGENT_RESPONSES", "collector"),
      lag("DELIBERATION_CONTROL", "controller"),
      or("service", this.#instances()),
      or("workers' statuses", this.#statuses()),
    ]);
    if (this.#ended) return;
    this.problems = problems;
    this.facts = {
      waiting: requests?.state.messages,
      oldest: requests?.state.messages ? Date.parse(requests.state.first_ts) : null,
      letters: letters?.state.messages,
      consumers: { dispatcher, workers, collector, controller: control },
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
    return found;
  }

  // What each worker has told of itself within a minute.
  async #statuses() {
    const info = await this.link.api(`STREAM.INFO.${WORKERS}`, { subjects_filter: `${STATUS}>` });
    const subjects = Object.keys(info.state.subjects ?? {}).sort();
    const found = await Promise.all(subjects.map((subject) => this.link.request(`$JS.API.DIRECT.GET.${WORKERS}.${subject}`).catch(() => null)));
    return found.filter((each) => each?.name);
  }
}
