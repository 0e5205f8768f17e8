// The fleet: what waits and since when, who is behind, which instances answer.
import { html } from "../html.js";
import { useNow, useStore } from "../use.js";
import { visible } from "../visible.js";
import { count, seconds } from "../words.js";

const CONSUMER = {
  dispatcher: ["Requests", "waiting to be accepted"],
  workers: ["Agent calls", "waiting for a worker"],
  collector: ["Answers", "waiting to be counted"],
  controller: ["Deadlines and cancellations", "waiting to be handled"],
};

const BREAKER = { closed: "closed: takes calls", open: "open: takes no calls", "half-open": "half-open: is being tried" };
const SILENT_MS = 15_000;

export function FleetView({ store }) {
  useStore(store);
  const now = useNow(1_000);
  const facts = store.facts;
  if (!facts) return html`<h1>The fleet</h1><p role="status">Asking …</p>`;
  return html`<h1>The fleet</h1>
    ${Object.entries(store.problems).map(([name, text]) => html`<p class="bad" role="alert">${name}: ${visible(text)}</p>`)}
    <dl class="cards">
      <div><dt>Requests that wait</dt><dd>${count(facts.waiting)}</dd><dd>${facts.oldest ? `the oldest for ${seconds(now - facts.oldest)}` : "none"}</dd></div>
      <div class=${facts.letters ? "warn" : ""}><dt>Dead letters</dt><dd>${count(facts.letters)}</dd><dd>${facts.letters ? "read them: fleet deadletter list" : "none"}</dd></div>
      <div class=${facts.instances.length ? "" : "warn"}><dt>Instances that answer</dt><dd>${count(facts.instances.length)}</dd><dd>of the service deliberations</dd></div>
    </dl>
    <h2>How far behind</h2>
    <div class="scroll" tabindex="0" role="region" aria-label="Consumers"><table>
      <thead><tr><th>What</th><th class="n">Waiting</th><th class="n">In hand</th><th class="n">Delivered again</th></tr></thead>
      <tbody>${Object.entries(CONSUMER).map(([name, [what, meaning]]) => {
        const info = facts.consumers[name];
        return html`<tr><td>${what} <span class="why">${meaning}</span></td><td class="n">${count(info?.num_pending)}</td><td class="n">${count(info?.num_ack_pending)}</td><td class="n">${count(info?.num_redelivered)}</td></tr>`;
      })}</tbody></table></div>
    <h2>Workers</h2>
    ${facts.workers.length === 0 && html`<p>None has told how it is within a minute.</p>`}
    <div class="scroll" tabindex="0" role="region" aria-label="Workers"><table>
      <thead><tr><th>Worker</th><th>Runs for</th><th class="n">Calls open</th><th class="n">Done</th><th class="n">Failed</th><th>Last heard of</th></tr></thead>
      <tbody>${facts.workers.map((each) => {
        const silent = now - Date.parse(each.told_at);
        return html`<tr key=${each.name}><td>${visible(each.name)}</td><td>${seconds(now - Date.parse(each.started_at))}</td><td class="n">${count(each.open_calls)}</td>
          <td class="n">${count(each.done)}</td><td class="n">${count(each.failed)}</td><td class=${silent > SILENT_MS ? "bad" : ""}>${silent > SILENT_MS ? `silent for ${seconds(silent)}` : "just now"}</td></tr>`;
      })}</tbody></table></div>
    <h2>Model servers, as workers see them</h2>
    <div class="scroll" tabindex="0" role="region" aria-label="Model servers"><table>
      <thead><tr><th>Server</th><th>Worker</th><th>Breaker</th><th class="n">Calls open</th><th class="n">Waiting</th><th>Refuses</th></tr></thead>
      <tbody>${facts.workers.flatMap((worker) =>
        worker.endpoints.map(
          (each) => html`<tr key=${`${worker.name} ${each.name}`}><td>${visible(each.name || each.url)}</td><td>${visible(worker.name)}</td>
            <td class=${each.breaker === "closed" ? "" : "bad"}>${BREAKER[each.breaker] ?? visible(each.breaker)}${each.opened ? `, opened ${each.opened} times` : ""}</td>
            <td class="n">${count(each.open_calls)}</td><td class="n">${count(each.waiting)}</td>
            <td>${Object.entries(each.refuses ?? {}).map(([model, why]) => visible(`${model}: ${why}`)).join("; ")}</td></tr>`,
        ),
      )}</tbody></table></div>
    <h2>Instances</h2>
    <div class="scroll" tabindex="0" role="region" aria-label="Instances"><table>
      <thead><tr><th>Instance</th><th>Version</th><th class="n">Requests</th><th class="n">Errors</th><th>Since</th></tr></thead>
      <tbody>${facts.instances.map((each) => {
        const sum = (name) => (each.endpoints ?? []).reduce((total, endpoint) => total + (endpoint[name] ?? 0), 0);
        return html`<tr key=${each.id}><td>${visible(each.id)}</td><td>${visible(each.version)}</td><td class="n">${count(sum("num_requests"))}</td><td class="n">${count(sum("num_errors"))}</td><td>${visible(each.started).slice(0, 19).replace("T", " ")}</td></tr>`;
      })}</tbody></table></div>`;
}
