// The connection to NATS over WebSocket, and what is read through it.
import { headers as makeHeaders, wsconnect } from "@nats-io/nats-core";
import { jetstream } from "@nats-io/jetstream";
import { nameOf, subjectOf } from "./tenants.js";

const REQUEST_MS = 10_000;
const NO_MESSAGE = 10037;
const UTF_8 = new TextDecoder();

// What was asked for was not done. `forbidden`: by NATS, to this user.
export class Refused extends Error {
  constructor(message, forbidden = false) {
    super(message);
    this.forbidden = forbidden;
  }
}

export async function open({ servers, user, pass }) {
  const nc = await wsconnect({
    servers,
    ...(user ? { user, pass } : {}),
    name: "fleet-page",
    maxReconnectAttempts: -1,
    reconnectTimeWait: 500,
    timeout: 5_000,
    waitOnFirstConnect: false,
  });
  return new Link(nc);
}

export class Link {
  #again = new Set();

  constructor(nc) {
    this.nc = nc;
    this.js = jetstream(nc);
  }

  close = () => this.nc.close();

  // Tells "connected" or "away" whenever it changes, until the connection is closed.
  async states(tell) {
    for await (const status of this.nc.status()) {
      if (status.type === "disconnect" || status.type === "reconnecting") tell("away");
      if (status.type !== "reconnect") continue;
      tell("connected");
      for (const again of this.#again) again();
    }
  }

  // Calls `again` after each reconnect: what came in between was not heard. Returns a function that ends it.
  reconnected(again) {
    this.#again.add(again);
    return () => this.#again.delete(again);
  }

  async request(subject, body, timeout = REQUEST_MS) {
    let reply;
    try {
      reply = await this.nc.request(subject, body === undefined ? "" : JSON.stringify(body), { timeout });
    } catch (error) {
      throw refusal(error, subject);
    }
    const code = reply.headers?.get("Nats-Service-Error-Code");
    if (code) throw new Refused(`${reply.headers.get("Nats-Service-Error")} (${code})`);
    return reply.data.length ? reply.json() : null;
  }

  async api(subject, body) {
    const reply = await this.request(`$JS.API.${subject}`, body);
    if (reply?.error) throw Object.assign(new Refused(reply.error.description), { code: reply.error.err_code });
    return reply;
  }

  // Stores a message, and returns JetStream's acknowledgement; `headers` as pairs.
  async publish(subject, body, headers = []) {
    const sent = makeHeaders();
    for (const [name, value] of headers) sent.append(name, value);
    let reply;
    try {
      reply = (await this.nc.request(subject, body, { timeout: REQUEST_MS, headers: sent })).json();
    } catch (error) {
      throw refusal(error, subject);
    }
    if (reply.error) throw Object.assign(new Refused(reply.error.description), { code: reply.error.err_code });
    return reply;
  }

  // One message of a stream, as `{seq, subject, at, headers, data}`; null where there is none.
  async stored(stream, which) {
    try {
      const { message } = await this.api(`STREAM.MSG.GET.${stream}`, which);
      const text = (base64) => new TextDecoder().decode(bytes(base64));
      return { seq: message.seq, subject: message.subject, at: momentOf(message.time), headers: headersIn(text(message.hdrs)), data: text(message.data) };
    } catch (error) {
      if (error.code === NO_MESSAGE) return null;
      throw error;
    }
  }

  result = (key) => this.#ask("deliberation.result", key).then((reply) => this.whole(reply));

  cancel = (key) => this.#ask("deliberation.cancel", key);

  #ask(subject, key) {
    const { tenant, id } = nameOf(key);
    return this.request(subjectOf(tenant, subject), { task_id: id });
  }

  // A body that stands for a longer one in the object store is replaced by it.
  async whole(body) {
    if (!body?.content_ref || body.content !== undefined) return body;
    return JSON.parse(await this.text(body.content_ref));
  }

  async text({ bucket, name }) {
    const store = `OBJ_${bucket}`;
    const key = btoa(String.fromCharCode(...new TextEncoder().encode(name))).replaceAll("+", "-").replaceAll("/", "_");
    const meta = await this.api(`STREAM.MSG.GET.${store}`, { last_by_subj: `$O.${bucket}.M.${key}` });
    const found = JSON.parse(new TextDecoder().decode(bytes(meta.message.data)));
    const parts = [];
    let seq = 0;
    for (let chunk = 0; chunk < (found.chunks ?? 0); chunk += 1) {
      const { message } = await this.api(`STREAM.MSG.GET.${store}`, { seq: seq + 1, next_by_subj: `$O.${bucket}.C.${found.nuid}` });
      seq = message.seq;
      parts.push(bytes(message.data));
    }
    return new Blob(parts).text();
  }

  // Calls `tell(msg)` for what `stream` holds of `subject` since then (a time, or the sequence `from`), and for what comes; or for
  // what stands before the sequence `before`, and no more. Nothing comes until `after` is fulfilled. Returns a function that ends it.
  follow(stream, subject, tell, { since, from, before, after, headersOnly, caughtUp } = {}) {
    let messages;
    let ended = false;
    const run = async () => {
      const consumer = await this.js.consumers.get(stream, {
        filter_subjects: subject,
        ...(since ? { deliver_policy: "by_start_time", opt_start_time: since } : from ? { deliver_policy: "by_start_sequence", opt_start_seq: from } : { deliver_policy: "all" }),
        ...(headersOnly ? { headers_only: true } : {}),
      });
      await after;
      let behind = true;
      const caught = () => {
        if (!behind) return;
        behind = false;
        caughtUp?.();
        if (before) messages?.close();
      };
      // Not an iterator: its promises would keep each message until the browser's next full collection, minutes later.
      const callback = (msg) => {
        if (before && msg.seq >= before) return caught();
        tell(msg);
        if (behind && msg.info.pending === 0) caught();
      };
      messages = await consumer.consume({ max_messages: 10_000, callback });
      if (((await consumer.info(true).catch(() => null))?.num_pending ?? 0) === 0) caught();
      if (before && !behind) messages.close();
      const error = await messages.closed();
      if (error) throw error;
    };
    const again = () =>
      run().catch((error) => {
        if (!ended && !this.nc.isClosed()) setTimeout(again, 1_000, error);
      });
    again();
    return () => {
      ended = true;
      messages?.close();
    };
  }

  // Calls `tell(msg)` for what is published from now on.
  hear(subject, tell) {
    const subscription = this.nc.subscribe(subject, { callback: (error, msg) => !error && tell(msg) });
    return () => subscription.unsubscribe();
  }
}

// A message's headers, by name, as they were written. nats.js makes objects of all of them first, which takes longer than
// everything else that the list does with a message; it hides the bytes, and where they are not found its own way is taken.
export function headersOf(msg) {
  const bytes = msg.msg?._rdata;
  const end = msg.msg?._msg?.hdr;
  if (!bytes || !(end > 0)) return (name) => msg.headers?.get(name) ?? "";
  const text = UTF_8.decode(bytes.subarray(0, end));
  return (name) => {
    const at = text.indexOf(`\r\n${name}:`);
    if (at < 0) return "";
    const begin = at + name.length + 3;
    return text.slice(begin, text.indexOf("\r\n", begin)).trim();
  };
}

// In ms, with their parts: of two messages of one millisecond it says which came first.
const momentOf = (time) => Date.parse(time) + Number(`0.${/\.\d{3}(\d+)/.exec(time)?.[1] ?? 0}`);

// The first line is the version.
const headersIn = (block) =>
  block.split("\r\n").slice(1).filter(Boolean).map((line) => {
    const colon = line.indexOf(":");
    return [line.slice(0, colon), line.slice(colon + 1).trim()];
  });

const bytes = (base64) => Uint8Array.from(atob(base64 ?? ""), (char) => char.charCodeAt(0));

function refusal(error, subject) {
  const cause = error?.cause ?? error;
  const kind = `${error?.name} ${cause?.name}`;
  if (/Permission/i.test(kind) || /permission/i.test(cause?.message ?? "")) return new Refused(`NATS does not allow this user to use ${subject}`, true);
  if (/NoResponders/i.test(kind)) return new Refused(`nobody answers ${subject}: no dispatcher or collector runs`);
  if (/Timeout/i.test(kind)) return new Refused(`no answer from ${subject} in ${REQUEST_MS / 1000} s`);
  return new Refused(cause?.message || String(error));
}
