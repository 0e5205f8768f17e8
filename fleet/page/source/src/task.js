// One deliberation: its calls as they go, from the beginning also for who comes late, and its result.
import { Store } from "./store.js";
import { nameOf, subjectOf } from "./tenants.js";

const DRAWN_EVERY_MS = 80;
const ASK_EVERY_MS = 2_000;
export const PIECE = 2_000; // characters: what is drawn again with each word
const CLOCKS_DIFFER_MS = 60_000;
const PROGRESS = "agent.response.progress";
const ENDS = ["deliberation.completed", "deliberation.failed", "deliberation.cancelled"];

export class Task extends Store {
  status = "…";
  error = null;
  result = null;
  progress = null;
  question = null;
  usage = null;
  cost = null;
  accepted = null;
  deadline = null;
  calls = new Map();
  #ends = [];
  #closed = false;
  #event = null;

  constructor(link, key) {
    super(DRAWN_EVERY_MS);
    this.link = link;
    this.key = key;
    Object.assign(this, nameOf(key)); // tenant, id
    this.#ends.push(link.reconnected(() => this.#ask()));
    for (const subject of ["deliberation.accepted", ...ENDS]) this.#ends.push(link.hear(subjectOf(this.tenant, subject), (msg) => of(msg) === this.id && this.#ask()));
    this.#ask().then(() => this.#follow());
  }

  close() {
    this.#closed = true;
    clearTimeout(this.timer);
    for (const end of this.#ends) end();
  }

  // What calls have written, phase by phase, in the order in which they came.
  phases() {
    const phases = new Map();
    for (const call of this.calls.values()) {
      const key = `${call.round} ${call.phase} ${call.shadow}`;
      if (!phases.has(key)) phases.set(key, { key, phase: call.phase, round: call.round, shadow: call.shadow, calls: [] });
      phases.get(key).calls.push(call);
    }
    const begin = (phase) => Math.min(...phase.calls.map((call) => call.began));
    return [...phases.values()].sort((one, other) => begin(one) - begin(other));
  }

  async #ask() {
    try {
      const said = await this.link.result(this.key);
      this.status = said.status;
      this.progress = said.progress ?? null;
      this.usage = said.usage ?? null;
      this.cost = said.cost ?? null;
      this.error = null;
      const result = said.result ? await this.link.whole(said.result) : null;
      this.accepted ??= Date.parse(said.accepted_at ?? result?.accepted_at ?? "") || null;
      this.deadline ??= Date.parse(said.deadline_at ?? "") || null;
      if (said.status === "IN_PROGRESS" && this.question === null) this.#readQuestion();
      if (result) this.result = await this.#withTexts(result);
    } catch (error) {
      this.error = error.message;
    }
    this.changed();
  }

  // Of one whose state is not stored any more: its event is, at this place of the stream.
  async readEvent(seq) {
    if (this.result || this.#event === seq) return;
    this.#event = seq;
    const event = await this.link.stored("DELIBERATIONS", { seq }).catch(() => null);
    if (!event) return;
    const result = await this.#withTexts(await this.link.whole(JSON.parse(event.data)));
    Object.assign(this, { status: result.status, error: null, result });
    this.changed();
  }

  // Of one at work the question stands in its state alone; in a long one not even there.
  async #readQuestion() {
    const state = await this.link.stored("KV_deliberations", { last_by_subj: `$KV.deliberations.${this.key}` }).catch(() => null);
    this.question = state?.data ? (JSON.parse(state.data).task?.task_description ?? "") : null;
    this.changed();
  }

  // What it used so far, after answers came.
  #askSoon() {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      if (!this.#closed) this.#ask();
    }, ASK_EVERY_MS);
  }

  async #withTexts(result) {
    const parts = [...(result.results ?? []), ...(result.synthesis ? [{ proposal: result.synthesis }] : [])];
    for (const each of parts)
      for (const text of [each.proposal, ...(each.earlier ?? [])])
        if (text.content_ref && !text.content)
          text.content = await this.link.text(text.content_ref).catch((error) => `(this text cannot be had: ${error.message})`);
    if (result.task?.content_ref && !result.task.task_description) result.task = await this.link.whole({ content_ref: result.task.content_ref }).catch(() => result.task);
    return result;
  }

  #follow() {
    if (this.#closed) return;
    const since = new Date((this.accepted ?? Date.now()) - CLOCKS_DIFFER_MS).toISOString();
    const heard = (take) => (msg) => of(msg) === this.key && take(msg);
    // Hundreds a second: to read all headers of one takes longer, and leaves more behind, than to read its small body.
    const progress = (said) => said.task_id === this.id && this.#progress(said);
    // A tenant's is in no stream: it is seen from now on.
    this.#ends.push(
      this.tenant === "default" ? this.link.follow("AGENT_PROGRESS", PROGRESS, (msg) => progress(msg.json()), { since }) : this.link.hear(subjectOf(this.tenant, PROGRESS), (msg) => progress(msg.json())),
      this.link.follow("AGENT_RESPONSES", "agent.response.completed", heard((msg) => this.#response(msg)), { since }),
      this.link.follow("AGENT_RESPONSES", "agent.response.failed", heard((msg) => this.#response(msg)), { since }),
    );
  }

  #call(said) {
    const key = `${said.phase} ${said.round} ${said.agent_id} ${said.question ?? 1}`;
    if (!this.calls.has(key)) {
      const { phase, round, agent_id, role } = said;
      this.calls.set(key, { key, shadow: said.shadow ?? false, phase, round: round ?? 0, agent_id, role, pieces: [], tokens: 0, began: Date.parse(said.timestamp), attempt: 0 });
    }
    return this.calls.get(key);
  }

  #progress(said) {
    const call = this.#call(said);
    if (said.attempt !== call.attempt) {
      if (said.attempt < call.attempt) return;
      Object.assign(call, { attempt: said.attempt, pieces: [] });
    }
    const { pieces } = call;
    if ((pieces.at(-1)?.length ?? PIECE) >= PIECE) {
      if (pieces.length > 0) pieces.push(flat(pieces.pop()));
      pieces.push(said.text_delta);
    } else pieces[pieces.length - 1] += said.text_delta;
    call.tokens = said.tokens;
    call.said = said.message;
    this.changed();
  }

  async #response(msg) {
    const said = await this.link.whole(msg.json()).catch(() => msg.json());
    const call = this.#call(said);
    call.ended = Date.parse(said.timestamp);
    call.began = Math.min(call.began, call.ended - said.duration_ms);
    call.error = said.error_type ? `${said.error_type}: ${said.error}` : null;
    call.attempt = Math.max(call.attempt, said.attempt);
    call.model = said.model;
    call.endpoint = said.proposal?.endpoint ?? null;
    call.tokens = said.usage?.completion_tokens ?? call.tokens;
    call.cached = said.usage?.cached_tokens;
    call.prompt = said.usage?.prompt_tokens;
    const whole = said.proposal?.content || said.synthesis?.content;
    if (whole) call.pieces = [whole];
    call.declined = said.declined ?? null;
    call.checks = said.checks ?? {};
    call.notes = said.notes ?? [];
    this.changed();
    if (!this.result) this.#askSoon();
  }
}

const of = (msg) => msg.headers?.get("Task-Id");

// As one string: what was put together word by word is kept by the browser in as many parts, five times as large.
const flat = (text) => [...text.match(/[^]{1,1000}/g)].join("");
