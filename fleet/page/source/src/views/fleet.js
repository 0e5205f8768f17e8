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
    <h2>Instances</h2>
    <div class="scroll" tabindex="0" role="region" aria-label="Instances"><table>
      <thead><tr><th>Instance</th><th>Version</th><th class="n">Requests</th><th class="n">Errors</th><th>Since</th></tr></thead>
      <tbody>${facts.instances.map((each) => {
        const sum = (name) => (each.endpoints ?? []).reduce((total, endpoint) => total + (endpoint[name] ?? 0), 0);
        return html`<tr key=${each.id}><td>${visible(each.id)}</td><td>${visible(each.version)}</td><td class="n">${count(sum("num_requests"))}</td><td class="n">${count(sum("num_errors"))}</td><td>${visible(each.started).slice(0, 19).replace("T", " ")}</td></tr>`;
      })}</tbody></table></div>`;
}
