// A client of the fleet with types that quicktype makes of ../../asyncapi.json (`types.ts`): every answer is held against them.
//
//   npx quicktype --src-lang schema "asyncapi.json#/components/schemas/" --lang ts --out types.ts
//   npm install @nats-io/transport-node
import { connect, headers, type Msg, type NatsConnection } from "@nats-io/transport-node";
import { Convert } from "./types.js";
import type { CancelReply, DeliberationCancelled, DeliberationCompleted, DeliberationFailed, DeliberationRequested, FollowReply, ResultReply } from "./types.js";

export type End = DeliberationCompleted | DeliberationFailed | DeliberationCancelled;
const ENDS = ["COMPLETED", "FAILED", "TIMEOUT", "CANCELLED"];
const ASK_MS = 3_900_000; // longer than the longest deadline
const REPLY_MS = 30_000; // `deliberation.follow` says something every ten seconds

/** The fleet did not do what it was asked for: `code` as HTTP has them, `body` is a rejection, or null. */
export class Refused extends Error {
  constructor(readonly code: number, message: string, readonly body: unknown) {
    super(`${message} (${code})`);
  }
}

export class Fleet {
  private constructor(private readonly nc: NatsConnection) {}

  static async connect(servers = process.env.NATS_URL ?? "nats://127.0.0.1:4222"): Promise<Fleet> {
    return new Fleet(await connect({ servers, name: "fleet-client" }));
  }

  close = (): Promise<void> => this.nc.drain();

  /** The terminal event, whatever its status. Throws `Refused`. */
  async ask(request: DeliberationRequested): Promise<End> {
    return endOf(answered(await this.nc.request("deliberation.ask", JSON.stringify(request), { timeout: ASK_MS })));
  }

  /** The task's id, once NATS has stored the request. */
  async submit(request: DeliberationRequested): Promise<string> {
    const task_id = request.task_id ?? `ts-${crypto.randomUUID()}`;
    const sent = headers();
    sent.set("Nats-Msg-Id", task_id);
    const stored = (await this.nc.request("deliberation.requested", JSON.stringify({ ...request, task_id }), { headers: sent, timeout: REPLY_MS })).json<{ error?: { code: number; description: string } }>();
    if (stored.error) throw new Refused(stored.error.code, stored.error.description, null);
    return task_id;
  }

  /** How it stands, after its end or `wait_seconds`. Throws `Refused` with 404 for a task that nobody knows. */
  async result(task_id: string, wait_seconds = 0): Promise<ResultReply> {
    const body = JSON.stringify({ task_id, wait_seconds });
    return Convert.toResultReply(answered(await this.nc.request("deliberation.result", body, { timeout: 1_000 * wait_seconds + REPLY_MS })));
  }

  async cancel(task_id: string, reason = ""): Promise<CancelReply> {
    return Convert.toCancelReply(answered(await this.nc.request("deliberation.cancel", JSON.stringify({ task_id, reason }), { timeout: REPLY_MS })));
  }

  /** What happens to it, call by call, and at last its terminal event. */
  async *follow(task_id: string): AsyncGenerator<ResultReply | FollowReply | End> {
    const replies = await this.nc.requestMany("deliberation.follow", JSON.stringify({ task_id }), { strategy: "sentinel", maxWait: ASK_MS });
    let first = true;
    for await (const reply of replies) {
      if (reply.data.length === 0) return;
      const text = answered(reply);
      const said = JSON.parse(text);
      if (ENDS.includes(said.status) && !("result" in said)) yield endOf(text);
      else yield first || "status" in said ? Convert.toResultReply(text) : Convert.toFollowReply(text);
      first = false;
    }
  }
}

function answered(reply: Msg): string {
  const code = reply.headers?.get("Nats-Service-Error-Code");
  const text = reply.string();
  if (code) throw new Refused(Number(code), reply.headers!.get("Nats-Service-Error"), text ? JSON.parse(text) : null);
  return text;
}

function endOf(text: string): End {
  const { status, content_ref } = JSON.parse(text);
  if (content_ref) throw new Error(`too long for a message: ${content_ref.name} in the object store ${content_ref.bucket}`);
  if (status === "COMPLETED") return Convert.toDeliberationCompleted(text);
  return status === "CANCELLED" ? Convert.toDeliberationCancelled(text) : Convert.toDeliberationFailed(text);
}
