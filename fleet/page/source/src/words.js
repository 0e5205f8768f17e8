// Numbers and verdicts in words.
import { visible } from "./visible.js";

export const seconds = (ms) =>
  ms == null ? "–" : ms < 1000 ? `${Math.max(0, Math.round(ms))} ms` : ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : ms < 120_000 ? `${Math.round(ms / 1000)} s` : ms < 7_200_000 ? `${Math.round(ms / 60_000)} min` : ms < 172_800_000 ? `${(ms / 3_600_000).toFixed(1)} h` : `${Math.round(ms / 86_400_000)} days`;

// Formatters are made once: to make one takes longer than all it formats.
const NUMBERS = new Intl.NumberFormat("en");
const TIMES = new Intl.DateTimeFormat("sv", { timeStyle: "medium" });
const DATES = new Intl.DateTimeFormat("sv");

export const count = (number) => (number == null ? "–" : NUMBERS.format(number));

export const points = (score) => (score == null ? "–" : Number(score).toFixed(1));

// What a judge gave, and what that is; it has no scale.
export const rewarded = ({ kind, value }) =>
  kind === "generative_scoring" ? `gave log-odds of Yes of ${value.toFixed(2)} (${(100 / (1 + Math.exp(-value))).toFixed(1)} %)` : `gave a reward of ${value.toFixed(2)}`;

export const money = (cost) => (cost == null ? null : cost === 0 ? "0" : cost >= 1 ? cost.toFixed(2) : cost >= 0.0001 ? cost.toFixed(4) : cost.toPrecision(2));

// The time of day; with the date, where that is not today.
export function since(at) {
  if (!at) return "–";
  const day = new Date(at).toDateString() === new Date().toDateString() ? "" : `${DATES.format(at)} `;
  return day + TIMES.format(at);
}

export const STATUS = {
  PENDING: "waiting for room",
  WAITING: "waiting for room",
  IN_PROGRESS: "at work",
  COMPLETED: "completed",
  FAILED: "failed",
  TIMEOUT: "out of time",
  CANCELLED: "cancelled",
  REJECTED: "rejected",
  UNKNOWN: "not known",
};

export const PHASE = {
  propose: "Propose",
  critique: "Critique",
  revise: "Revise",
  score: "Score",
  vote: "Vote",
  compare: "Compare",
  choose: "Choose",
  synthesize: "Synthesis",
};

export const phaseName = (phase, round) => {
  const name = PHASE[phase] ?? visible(phase);
  return (phase === "critique" || phase === "revise") && round ? `${name}, round ${round}` : name;
};

const sentence = (text) => `${visible(text).replace(/^./u, (first) => first.toUpperCase())}.`;

// The verdict of a completed deliberation, as a list of sentences.
export function verdict(result) {
  const ranked = result.results.filter((each) => !each.shadow);
  const first = ranked[0];
  const rated = ranked.filter((each) => each.score != null);
  if (!first) return ["There is no proposal."];
  const who = `${visible(first.role)} (${visible(first.agent_id)})`;
  const said = [];
  if (result.cached_from) said.push(`This is the result of ${visible(result.cached_from)}, an equal request: no model was called for it.`);
  if (result.ranking?.method === "vote") said.push(`${who} got the most votes.`);
  else if (rated.length === 0 && ranked.length > 1) said.push(`Nobody scored the proposals. ${who} stands first by its checks.`);
  else if (ranked.length === 1) said.push(`${who} gave the only proposal: there was nothing to compare it with.`);
  else said.push(`${who} stands first with ${points(first.score)} of 10 points.`);
  if (result.margin != null && ranked.length > 1)
    said.push(`It is ${points(result.margin)} ${result.ranking?.method === "vote" ? "votes" : "points"} ahead of the second.`);
  if (first.p_best != null) said.push(`The chance that it is the best of them is ${Math.round(100 * first.p_best)} %.`);
  if (result.degraded) said.push("The result is degraded: something that was asked for did not happen.");
  if (result.stop_explanation) said.push(sentence(result.stop_explanation));
  return said;
}
