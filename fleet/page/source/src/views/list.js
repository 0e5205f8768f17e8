// All deliberations: what waits and since when, what is at work, what has ended, newest first.
import { useEffect, useState } from "preact/hooks";
import { html } from "../html.js";
import { sum } from "../periods.js";
import { shortly } from "../reasons.js";
import { useNow, useStore } from "../use.js";
import { visible } from "../visible.js";
import { Grid } from "./grid.js";
import { count, money, phaseName, points, seconds, since, STATUS } from "../words.js";

const SHOWN = 100;
const QUIET_MS = 15_000;

export function ListView({ store }) {
  useStore(store);
  useEffect(() => store.watch(), [store]);
  const now = useNow(1_000);
  const [search, setSearch] = useState("");
  const [most, setMost] = useState(SHOWN);
  const wanted = search.trim().toLowerCase();
  const fits = (row) => !wanted || [row.id, row.role, row.question, row.tenant, row.error, STATUS[row.status], row.degraded && "degraded", ...Object.values(row.correlation ?? {})].some((each) => each && String(each).toLowerCase().includes(wanted));
  const rows = store.loaded ? store.sorted().filter(fits) : []; // while the newest are read, each would move the others
  const open = rows.filter((row) => !row.ended);
  const ended = rows.filter((row) => row.ended);
  const { waiting } = store;
  const queue = waiting.rows.filter((row) => !store.byKey.has(row.key) && fits(row));
  return html`<h1>Deliberations</h1>
    <p class="facts" role="status">${store.loaded ? html`<span>${count(waiting.count)} waiting</span><span>${count(open.length)} at work</span><span>${count(ended.length)} ended${store.complete ? "" : ", older ones are being read"}</span>` : `Reading the history: ${count(store.byKey.size)} …`}</p>
    <label class="search">Search <input type="search" placeholder="id, question, role, status, degraded" value=${search} onInput=${(event) => setSearch(event.target.value)} /></label>
    ${store.loaded && rows.length + queue.length === 0 && html`<p>There is none${search ? " that fits" : " yet"}. Ask: <code>fleet ask "your question"</code></p>`}
    <${Queue} waiting=${waiting} rows=${queue} now=${now} />
    ${open.length > 0 && html`<h2>At work</h2><${Running} rows=${open.slice(0, most)} now=${now} />`}
    ${ended.length > 0 && html`<h2>Ended</h2><${Ended} rows=${ended.slice(0, most)} all=${store.complete ? ended : null} />`}
    ${Math.max(open.length, ended.length) > most && html`<p><button onClick=${() => setMost(most + 10 * SHOWN)}>Show more</button></p>`}`;
}

function Queue({ waiting, rows, now }) {
  if (waiting.count === 0) return waiting.problem && html`<p class="bad">What waits is not known: ${visible(waiting.problem)}</p>`;
  const why = waiting.taken ? "All places are taken, or NATS is short of room: each begins as soon as there is some." : "No dispatcher takes requests: none can begin.";
  return html`<h2>Waiting for room</h2>
    <p class=${waiting.taken ? "" : "bad"}>${count(waiting.count)} ${waiting.count === 1 ? "request waits" : "requests wait"}, the oldest since ${since(waiting.oldest)}, for ${seconds(now - waiting.oldest)}. ${why}</p>
    ${waiting.problem && html`<p class="why">This may be old: ${visible(waiting.problem)}.</p>`}
    ${waiting.tenants.some((each) => each.tenant !== "default") && html`<${Tenants} rows=${waiting.tenants} now=${now} />`}
    ${waiting.tenants.filter((each) => each.problem).map((each) => html`<p class="why">Those of ${visible(each.tenant)} cannot be listed: ${visible(each.problem)}.</p>`)}
    ${rows.length > 0 && html`<${Grid} label="Requests that wait" head=${["Deliberation", "Waits since", "For"]}>
      ${rows.map((row) => html`<tr key=${`${row.tenant} ${row.seq}`}><${Name} row=${row} /><td>${since(row.at)}</td><td>${seconds(now - row.at)}</td></tr>`)}
    </${Grid}>`}
    ${waiting.count > waiting.rows.length && rows.length > 0 && html`<p class="why">And ${count(waiting.count - waiting.rows.length)} more${waiting.tenants.some((each) => each.problem) ? "" : ", which came later"}.</p>`}`;
}

function Tenants({ rows, now }) {
  return html`<${Grid} label="Tenants that wait" head=${["Tenant", "!Waiting", "Oldest since", "For"]}>
    ${rows.map((row) => html`<tr key=${row.tenant}><td>${visible(row.tenant)}</td><td class="n">${count(row.count)}</td><td>${since(row.oldest)}</td><td>${seconds(now - row.oldest)}</td></tr>`)}
  </${Grid}>`;
}

function Running({ rows, now }) {
  return html`<${Grid} label="Deliberations at work" head=${["Deliberation", "Phase", "Since", "Time left", "!Tokens", "!Cost so far"]}>
    ${rows.map((row) => {
      const quiet = now - (row.heard ?? row.at);
      const { done, expected } = (row.progress?.phase === row.phase && row.progress) || {};
      return html`<tr key=${row.key}><${Name} row=${row} />
        <td>${row.phase ? phaseName(row.phase, row.round) : "Not begun: its calls wait for a worker, or it waits for the result of an equal request"}${expected ? html` <span class="why">${done} of ${expected}</span>` : ""}
          ${quiet > QUIET_MS && html`<span class="why busy">nothing heard for ${seconds(quiet)}</span>`}</td>
        <td>${since(row.at)} <span class="why">${seconds(now - row.at)}</span></td>
        <td class=${row.deadline < now ? "bad" : ""}>${row.deadline ? (row.deadline > now ? seconds(row.deadline - now) : "passed") : "–"}</td>
        <td class="n">${count(Math.max(row.tokens, row.usage?.completion_tokens ?? 0))}</td>
        <td class="n">${money(row.cost) ?? "–"}</td></tr>`;
    })}
  </${Grid}>`;
}

function Ended({ rows, all }) {
  const total = all && sum(all);
  return html`<p class="why">${!total ? "Older ones are being read." : total.priced ? `Together they cost ${money(total.cost)}${total.unpriced ? `, and ${count(total.unpriced)} tell no cost` : ""}.` : "None of them tells what it cost."} <a href="#/cost">By team and period</a></p>
    <${Grid} label="Deliberations that ended" head=${["Deliberation", "Outcome", "Ended", "!Took", "!Tokens", "!Cost"]}>
    ${rows.map(
      (row) => html`<tr key=${row.key}><${Name} row=${row} />
        <td><span class=${`status ${row.status}`}>${STATUS[row.status] ?? visible(row.status)}</span>${row.winner_id ? html`<span class="why"> ${visible(row.winner_id)}${row.score != null ? `, ${points(row.score)} points` : ""}</span>` : ""}
          ${row.degraded && html`<span class="why busy">degraded: ${shortly(row)}</span>`}
          ${row.cached_from && html`<span class="why line">the result of ${visible(row.cached_from)}</span>`}
          ${row.error && html`<span class="why line">${visible(row.error)}</span>`}
          ${!row.degraded && row.status !== "COMPLETED" && Object.keys(row.failures ?? {}).length > 0 && html`<span class="why line">${shortly(row)}</span>`}</td>
        <td>${since(row.ended)}</td><td class="n">${row.status === "REJECTED" ? "–" : seconds(row.ended - row.at)}</td>
        <td class="n">${row.usage ? count((row.usage.prompt_tokens ?? 0) + (row.usage.completion_tokens ?? 0)) : "–"}</td>
        <td class="n">${money(row.cost) ?? "–"}</td></tr>`,
    )}
  </${Grid}>`;
}

function Name({ row }) {
  const more = [row.role, row.agents && `${row.agents} ${row.agents === 1 ? "agent" : "agents"}`, row.tenant !== "default" && row.tenant].filter(Boolean);
  return html`<td class="name"><a href=${`#/task/${encodeURIComponent(row.key)}`}>${visible(row.id)}</a>
    ${row.question && html`<span class="why line">${visible(row.question).slice(0, 120)}</span>`}
    ${more.length > 0 && html`<span class="why line">${visible(more.join(" · "))}</span>`}</td>`;
}
