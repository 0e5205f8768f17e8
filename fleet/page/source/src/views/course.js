// Phases and agents over time, each call with its text as it is written.
import { useState } from "preact/hooks";
import { html } from "../html.js";
import { PIECE } from "../task.js";
import { still } from "../use.js";
import { visible } from "../visible.js";
import { count, phaseName, seconds } from "../words.js";

const DRAWN = 10; // pieces of a text that grows: the browser arranges all that is drawn again with each word

export function Course({ store, now }) {
  const [chosen, setChosen] = useState(null);
  const phases = store.phases();
  if (phases.length === 0)
    return html`<section><h2>Course</h2><p>${store.result ? "The calls of this deliberation are not stored any more." : "No call has begun to write yet."}</p></section>`;
  const calls = phases.flatMap((phase) => phase.calls);
  const begin = Math.min(...calls.map((call) => call.began));
  const ends = calls.map((call) => call.ended ?? (store.result ? call.began : now));
  const length = Math.max(1, Math.max(...ends) - begin);
  const call = store.calls.get(chosen) ?? (store.result ? null : calls.findLast((each) => !each.ended) ?? calls.at(-1));
  return html`<section><h2>Course</h2>
    <p class="why">Each bar is one call, from its beginning to its answer: ${seconds(length)} in all. Choose one to read it.</p>
    <${Phases} phases=${phases} begin=${begin} length=${length} now=${store.result ? null : now} mark=${`${calls.length} ${calls.filter((each) => each.ended).length}`} chosen=${call?.key} choose=${setChosen} />
    ${call && html`<${Words} key=${call.key} call=${call} />`}</section>`;
}

// Drawn twice a second, and when a call begins or ends: only the text that is read is drawn as it comes.
const Phases = still(
  ({ phases, begin, length, now, chosen, choose }) => html`<div class="course">${phases.map(
    (phase) => html`<div class="phase" key=${phase.key}>
      <h3>${phaseName(phase.phase, phase.round)}${phase.shadow ? ", models on trial" : ""} <span class="why">${phase.calls.filter((each) => each.ended).length} of ${phase.calls.length} answered</span></h3>
      ${phase.calls.map((each) => html`<${Bar} key=${each.key} call=${each} begin=${begin} length=${length} now=${now ?? each.began} chosen=${chosen === each.key} choose=${() => choose(each.key)} />`)}
    </div>`,
  )}</div>`,
  "now", "mark", "chosen",
);

function Bar({ call, begin, length, now, chosen, choose }) {
  const from = (100 * (call.began - begin)) / length;
  const wide = Math.max(0.7, (100 * ((call.ended ?? now) - call.began)) / length);
  const state = call.error ? "failed" : call.ended ? "done" : "writing";
  const took = call.ended ? seconds(call.ended - call.began) : `${count(call.tokens)} tokens`;
  return html`<button class="call" aria-pressed=${chosen} onClick=${choose}>
    <span class="who">${visible(call.agent_id)}</span>
    <span class="track"><span class=${`bar ${state}`} style=${{ left: `${Math.min(99, from)}%`, width: `${Math.min(100 - from, wide)}%` }}></span></span>
    <span class="took">${call.error ? "failed" : took}</span>
  </button>`;
}

function Words({ call }) {
  const [all, setAll] = useState(false);
  const pieces = readable(call);
  const left = call.ended || all ? 0 : Math.max(0, pieces.length - DRAWN);
  const facts = [
    call.model && `model ${call.model}`,
    call.endpoint && `at ${call.endpoint}`,
    call.attempt > 1 && `attempt ${call.attempt}`,
    `${count(call.tokens)} tokens`,
    call.cached != null && call.prompt ? `${Math.round((100 * call.cached) / call.prompt)} % of the prompt from a cache` : null,
  ].filter(Boolean);
  return html`<article class="words">
    <h3>${visible(call.agent_id)}: ${phaseName(call.phase, call.round)}</h3>
    <p class="why">${visible(facts.join(" · "))}</p>
    ${call.error && html`<p class="bad">${visible(call.error)}</p>`}
    ${(call.notes ?? []).map((note) => html`<p class="why">${visible(note)}</p>`)}
    ${Object.entries(call.checks ?? {}).filter(([, check]) => check.status === "failed").map(([name, check]) => html`<p class="bad">Check ${visible(name)} failed: ${visible(check.findings.join("; "))}</p>`)}
    ${call.declined && html`<p>Kept its proposal: ${visible(call.declined)}</p>`}
    ${left > 0 && html`<p><button onClick=${() => setAll(true)}>Show the ${count(left * PIECE)} characters before</button></p>`}
    <pre class="text" tabindex="0">${pieces.slice(left).map((text, number) => html`<${Piece} key=${`${call.key} ${left + number}`} text=${text} />`)}</pre>
  </article>`;
}

const Piece = still(({ text }) => html`<span>${visible(text)}</span>`, "text");

// A review is JSON: shown as it was written, with room to read it.
function readable({ ended, pieces }) {
  if (pieces.length === 0) return ["…"];
  if (!ended) return pieces;
  try {
    return [JSON.stringify(JSON.parse(pieces.join("")), null, 2)];
  } catch {
    return pieces;
  }
}
