// Model servers as all workers see them: how each is, and why, in words.
import { reason } from "./reasons.js";
import { visible } from "./visible.js";
import { count, seconds } from "./words.js";

export const SILENT_MS = 15_000;
const RECENT_S = 60;

// Workers that have told how they are lately.
export const awake = (workers, now) => workers.filter((each) => now - Date.parse(each.told_at) <= SILENT_MS);

// One for each server: `{name, url, state, words, openCalls, waiting, seen}`; `state`: `sick`, `doubted`, `well`, `unknown`.
export function servers(workers, now) {
  const seen = new Map();
  for (const worker of awake(workers, now))
    for (const each of worker.endpoints) {
      const name = each.name || each.url;
      if (!seen.has(name)) seen.set(name, []);
      seen.get(name).push({ ...each, worker: worker.name });
    }
  const order = { sick: 0, doubted: 1, unknown: 2, well: 3 };
  return [...seen].map(([name, views]) => judged(name, views)).sort((one, other) => order[one.state] - order[other.state] || (one.name < other.name ? -1 : 1));
}

function judged(name, views) {
  const total = (field) => views.reduce((sum, each) => sum + (each[field] ?? 0), 0);
  const open = views.filter((each) => each.breaker === "open");
  const tried = views.filter((each) => each.breaker === "half-open");
  const silent = views.filter((each) => each.answers === false);
  const refuses = views.flatMap((each) => Object.entries(each.refuses ?? {}));
  const last = views.filter((each) => each.last_error_type).sort((one, other) => one.last_error_age_s - other.last_error_age_s)[0];
  const said = [];
  let state = "well";
  const of = (some) => (some.length === views.length ? "" : ` (seen by ${count(some.length)} of ${count(views.length)} workers)`);
  if (open.length + tried.length) state = open.length + tried.length === views.length ? "sick" : "doubted";
  if (open.length) said.push(`It gets no calls, since too many failed: its breaker is open${of(open)}.`);
  if (tried.length) said.push(`Too many calls failed: the next one is a trial, its breaker is half-open${of(tried)}.`);
  if (silent.length) {
    state = "sick";
    said.push(`It does not answer${of(silent)}.`);
  }
  if (last && (state !== "well" || last.last_error_age_s <= RECENT_S)) {
    if (state === "well") state = "doubted";
    said.push(`Its last failure, ${seconds(last.last_error_age_s * 1000)} ago: ${reason(last.last_error_type)}. “${visible(last.last_error)}”`);
  }
  for (const [model, why] of new Map(refuses)) {
    if (state === "well") state = "doubted";
    said.push(`It refuses ${visible(model)}: ${visible(why)}.`);
  }
  if (state === "well" && views.every((each) => each.answers == null && !each.open_calls)) state = "unknown";
  if (said.length === 0) said.push(state === "unknown" ? "Nobody has asked it anything yet." : "It answers.");
  return { name, url: views[0].url, state, said, openCalls: total("open_calls"), waiting: total("waiting"), opened: total("opened"), seen: views.length };
}

// What is wrong with the fleet, as sentences; empty where nothing is.
export function problems(facts, list, now) {
  const said = [];
  const workers = awake(facts.workers, now);
  for (const each of servers(facts.workers, now)) if (each.state === "sick") said.push(`The model server ${visible(each.name)} is sick. ${each.said.join(" ")}`);
  if (facts.workers.length === 0) said.push("No worker has told how it is within a minute: calls wait.");
  else if (workers.length === 0) said.push("All workers are silent: calls wait.");
  for (const each of facts.workers) if (!workers.includes(each)) said.push(`The worker ${visible(each.name)} is silent for ${seconds(now - Date.parse(each.told_at))}: it hangs, or has ended.`);
  if (facts.instances.length === 0) said.push("No dispatcher or collector answers.");
  for (const [name, what] of [["dispatcher", "No dispatcher takes requests"], ["collector", "No collector takes answers"], ["controller", "No collector takes deadlines and cancellations"]])
    if (facts.queues[name] && !facts.queues[name].push_bound) said.push(`${what}.`);
  if (list.waiting.count > 0) said.push(`${count(list.waiting.count)} ${list.waiting.count === 1 ? "request waits" : "requests wait"} for room, the oldest for ${seconds(now - list.waiting.oldest)}.`);
  const models = new Map();
  for (const each of workers) for (const [model, calls] of Object.entries(each.waiting_by_model ?? {})) models.set(model, (models.get(model) ?? 0) + calls);
  for (const [model, calls] of models) if (calls) said.push(`${count(calls)} ${calls === 1 ? "call waits" : "calls wait"} for a model server of ${visible(model)}: none takes them now.`);
  if (facts.letters) said.push(`There are dead letters: messages that nobody could handle.`);
  return said;
}
