// Why a call failed, and why a deliberation is degraded, in words. The types are those of subjects.md.
import { visible } from "./visible.js";
import { count } from "./words.js";

const TYPE = {
  ConnectionRefused: "nobody listens at the model server's address",
  ConnectionFailed: "no connection to the model server could be made",
  ConnectionLost: "the connection to the model server broke before the answer was complete",
  TlsFailed: "TLS to the model server failed",
  Timeout: "the model server did not answer in time",
  ServerError: "the model server failed (5xx)",
  RateLimited: "the model server had too many requests (429)",
  TooEarly: "the model server was not ready (425)",
  Unauthorized: "the model server did not accept the key",
  NotFound: "the model server does not have the model",
  UnexpectedStatus: "the model server answered with a strange status",
  BadRequest: "the model server did not accept the request",
  RequestTooLarge: "the request was too large for the model server",
  ContextOverflow: "the prompt did not fit the model's context window",
  PromptTruncated: "the model server cut the prompt",
  UnknownRole: "the worker does not know the role",
  StreamStalled: "the model stopped in the middle of its text",
  MalformedResponse: "the model server's answer was malformed",
  EmptyResponse: "the model's answer was empty",
  InvalidAnswer: "the model's answer did not have the form that was asked for",
  UncheckedAnswer: "the model's answer could not be checked in time",
  Truncated: "the model's text was cut off",
  ContentFiltered: "a content filter withheld the answer",
  Refused: "the model declined to answer",
  DeadlineExceeded: "the deadline came first",
  Undeliverable: "no worker could take the call",
  WorkerLost: "the worker ended during the call",
  InternalError: "a worker has a defect",
};

export const reason = (type) => TYPE[type] ?? visible(type);

const many = (number, one, more) => `${count(number)} ${number === 1 ? one : more}`;

// Of `{type: number of calls}`.
export const failuresInWords = (failures) =>
  Object.entries(failures ?? {})
    .sort(([, one], [, other]) => other - one)
    .map(([type, number]) => `${many(number, "call", "calls")} failed: ${reason(type)}`);

// Of a row of the list.
export function shortly(row) {
  const said = failuresInWords(row.failures);
  if (row.missing) said.push(`${many(row.missing, "agent", "agents")} without a proposal`);
  return said.join("; ") || "rounds or calls were left out, or an answer was incomplete";
}

// Of a result, each with what it did to the deliberation.
export function degradedBecause(result) {
  const said = [];
  const groups = Map.groupBy(result.failed_agents ?? [], (call) => `${call.phase} ${call.error_type}`);
  for (const calls of groups.values()) {
    const [{ phase, error_type, error }] = calls;
    const who = [...new Set(calls.map((call) => visible(call.agent_id)))].join(", ");
    said.push(`${many(calls.length, `${phase} call`, `${phase} calls`)} failed (${who}): ${reason(error_type)}. The first said: ${visible(error)}`);
  }
  for (const each of result.disqualified ?? []) said.push(`${visible(each.agent_id)} was disqualified: ${visible(each.reason)}`);
  if (result.missing?.length) said.push(`There is no proposal of ${visible(result.missing.join(", "))}.`);
  if (result.stop_reason === "deadline") said.push("The deadline came before everything that was asked for was done.");
  if (result.stop_reason === "token_budget") said.push("The token budget was used up before everything that was asked for was done.");
  for (const note of result.notes ?? []) said.push(`Done otherwise than asked for: ${visible(note)}.`);
  return said;
}
