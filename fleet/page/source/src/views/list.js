// All deliberations: what is at work first, then what has ended, newest first.
import { useState } from "preact/hooks";
import { html } from "../html.js";
import { useNow, useStore } from "../use.js";
import { visible } from "../visible.js";
import { clock, count, phaseName, seconds, STATUS } from "../words.js";

const SHOWN = 200;

export function ListView({ store }) {
  useStore(store);
  const now = useNow(1_000);
  const [search, setSearch] = useState("");
  const [most, setMost] = useState(SHOWN);
  const rows = store.sorted().filter((row) => !search || row.id.includes(search) || row.status.includes(search.toUpperCase()) || row.role?.includes(search.toUpperCase()));
  const open = rows.filter((row) => !row.ended);
  const ended = rows.filter((row) => row.ended);
  return html`<h1>Deliberations</h1>
    <p class="facts" role="status">${store.loaded ? `${count(open.length)} at work, ${count(ended.length)} ended` : "Reading the history …"}</p>
    <label class="search">Search by id, role or status <input type="search" value=${search} onInput=${(event) => setSearch(event.target.value)} /></label>
    ${store.loaded && rows.length === 0 && html`<p>There is none${search ? " that fits" : " yet"}. Ask: <code>fleet ask "your question"</code></p>`}
    ${open.length > 0 && html`<h2>At work</h2><${Table} rows=${open.slice(0, most)} now=${now} />`}
    ${ended.length > 0 && html`<h2>Ended</h2><${Table} rows=${ended.slice(0, most)} now=${now} />`}
    ${Math.max(open.length, ended.length) > most && html`<button onClick=${() => setMost(most + 1000)}>Show more</button>`}`;
}

function Table({ rows, now }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Table of deliberations"><table>
    <thead><tr><th>Id</th><th>Status</th><th>Role</th><th class="n">Agents</th><th>Begun</th><th class="n">Took</th><th class="n">Tokens written</th></tr></thead>
    <tbody>${rows.map(
      (row) => html`<tr key=${row.id}>
        <td><a href=${`#/task/${encodeURIComponent(row.id)}`}>${visible(row.id)}</a></td>
        <td><span class=${`status ${row.status}`}>${STATUS[row.status] ?? row.status}</span>${!row.ended && row.phase ? ` · ${phaseName(row.phase, row.round)}` : ""}${row.why ? html` <span class="why">${visible(row.why).slice(0, 120)}</span>` : ""}</td>
        <td>${visible(row.role ?? "–")}</td>
        <td class="n">${row.agents ?? "–"}</td>
        <td>${clock(row.at)}</td>
        <td class="n">${seconds((row.ended ?? now) - row.at)}</td>
        <td class="n">${row.ended ? "" : count(row.tokens)}</td>
      </tr>`,
    )}</tbody></table></div>`;
}
