// What deliberations cost: by team and period.
import { useState } from "preact/hooks";
import { html } from "../html.js";
import { grouped, keysOf, PERIODS, sum, within } from "../periods.js";
import { useNow, useStore } from "../use.js";
import { visible } from "../visible.js";
import { count, money, since } from "../words.js";
import { Grid } from "./grid.js";

const BY = { tenant: "Tenant", role: "Role", status: "Outcome" };

export function CostView({ store }) {
  useStore(store);
  const now = useNow(10_000);
  const [period, setPeriod] = useState("day");
  const all = store.sorted();
  const keys = keysOf(all);
  const [by, setBy] = useState(null);
  const team = by ?? (keys.includes("team") ? "correlation:team" : "tenant");
  const span = PERIODS[period][1](now);
  const rows = within(all, span);
  const total = sum(rows);
  const groups = grouped(rows, team);
  const byName = BY[team] ?? team.slice(12);
  const oldest = all.at(-1)?.ended;
  return html`<h1>Cost</h1>
    <div class="choices">
      <label>Period <select value=${period} onChange=${(event) => setPeriod(event.target.value)}>${Object.entries(PERIODS).map(([key, [name]]) => html`<option value=${key}>${name}</option>`)}</select></label>
      <label>Sum by <select value=${team} onChange=${(event) => setBy(event.target.value)}>
        ${Object.entries(BY).map(([key, name]) => html`<option value=${key}>${name}</option>`)}
        ${keys.map((key) => html`<option value=${`correlation:${key}`}>${visible(key)} (from requests)</option>`)}</select></label>
    </div>
    <p role="status">${store.complete ? html`<strong>${total.priced ? money(total.cost) : "No cost is known"}</strong> for ${count(total.deliberations)} ${total.deliberations === 1 ? "deliberation" : "deliberations"} that ended ${ended(span)}.` : "Reading the history …"}</p>
    ${total.unpriced > 0 && html`<p class="bad">${count(total.unpriced)} of them have no cost: a model server has no <code>price</code> in the settings, or did not tell its tokens.</p>`}
    ${total.unknown > 0 && html`<p class="bad">${count(total.unknown)} of them tell no tokens in the list: an older version wrote them.</p>`}
    ${rows.length > 0 && html`<${Grid} label="Cost" head=${[byName, "!Cost", "Share", "!Deliberations", "!Degraded", "!Failed", "!Tokens read", "!Cached", "!Tokens written"]}>
      ${groups.map((each) => html`<tr key=${each.name}><th scope="row">${visible(each.name) || "(none)"}</th><${Numbers} each=${each} whole=${total.cost} /></tr>`)}
      <tr class="sum"><th scope="row">Together</th><${Numbers} each=${total} /></tr>
    </${Grid}>`}
    <p class="why">Tokens times the prices of the model servers, failed attempts included. ${oldest ? `The oldest deliberation that is still stored ended ${since(oldest)}.` : ""}</p>`;
}

function Numbers({ each, whole }) {
  return html`<td class="n"><strong>${each.priced ? money(each.cost) : "–"}</strong>${each.unpriced && each.priced ? html` <span class="why">+ ${count(each.unpriced)} unknown</span>` : ""}</td>
    <td class="share">${whole > 0 && html`<meter min="0" max=${whole} value=${each.cost} aria-label="Share"></meter> ${Math.round((100 * each.cost) / whole)} %`}</td>
    <td class="n">${count(each.deliberations)}</td><td class="n">${count(each.degraded)}</td><td class="n">${count(each.failed)}</td>
    <td class="n">${count(each.prompt)}</td><td class="n">${count(each.cached)}</td><td class="n">${count(each.completion)}</td>`;
}

function ended([from, to]) {
  if (from === -Infinity) return "since the beginning of what is stored";
  return to === Infinity ? `since ${since(from)}` : `from ${since(from)} to ${since(to)}`;
}
