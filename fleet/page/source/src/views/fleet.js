// The fleet: what is wrong in words, who is behind and since when, model servers, workers, instances.
import { html } from "../html.js";
import { problems, servers, SILENT_MS } from "../servers.js";
import { useNow, useStore } from "../use.js";
import { visible } from "../visible.js";
import { count, seconds, since } from "../words.js";
import { Grid } from "./grid.js";

const QUEUE = {
  dispatcher: ["Requests", "to be accepted"],
  workers: ["Agent calls", "for a worker, or at work there"],
  collector: ["Answers", "to be counted"],
  controller: ["Deadlines and cancellations", "to be handled"],
};
const STATE = { sick: "sick", doubted: "in doubt", well: "well", unknown: "not known" };

export function FleetView({ store, list }) {
  useStore(store);
  useStore(list);
  const now = useNow(1_000);
  const facts = store.facts;
  if (!facts) return html`<h1>The fleet</h1><p role="status">Asking …</p>`;
  const wrong = problems(facts, list, now);
  const waiting = list.waiting;
  return html`<h1>The fleet</h1>
    ${Object.entries(store.problems).map(([name, text]) => html`<p class="bad" role="alert">${name}: ${visible(text)}</p>`)}
    <section class=${wrong.length ? "degraded" : "verdict"}>${wrong.length ? html`<h2>What is wrong</h2><ul>${wrong.map((each) => html`<li>${each}</li>`)}</ul>` : html`<p>Nothing is wrong that the fleet tells of.</p>`}</section>
    <dl class="cards">
      <div class=${waiting.count ? "warn" : ""}><dt>Requests that wait</dt><dd>${count(waiting.count)}</dd><dd>${waiting.oldest ? `since ${since(waiting.oldest)}` : "none"}</dd></div>
      <div><dt>Deliberations at work</dt><dd>${count(list.running().length)}</dd><dd><a href="#/">see them</a></dd></div>
      <div class=${facts.letters ? "warn" : ""}><dt>Dead letters</dt><dd>${count(facts.letters)}</dd><dd>${facts.letters ? html`<a href="#/letters">read them</a>` : "none"}</dd></div>
      <div class=${facts.instances.length ? "" : "warn"}><dt>Instances that answer</dt><dd>${count(facts.instances.length)}</dd><dd>of the service deliberations</dd></div>
    </dl>
    <h2>Model servers</h2>
    <${Servers} found=${servers(facts.workers, now)} />
    <h2>Workers</h2>
    <${Workers} workers=${facts.workers} now=${now} />
    <h2>How far behind</h2>
    <${Grid} label="Consumers" head=${["What waits", "!Waiting", "!In hand", "Oldest since", "!Delivered again"]}>
      ${Object.entries(QUEUE).map(([name, [what, meaning]]) => {
        const info = facts.queues[name];
        return html`<tr key=${name}><td>${what} <span class="why">${meaning}</span></td><td class="n">${count(info?.num_pending)}</td><td class="n">${count(info?.num_ack_pending)}</td>
          <td>${info?.oldest ? html`${since(info.oldest)} <span class="why">${seconds(now - info.oldest)}</span>` : "–"}</td><td class="n">${count(info?.num_redelivered)}</td></tr>`;
      })}</${Grid}>
    <h2>Instances</h2>
    <${Grid} label="Instances" head=${["Instance", "Version", "!Requests", "!Errors", "Since"]}>
      ${facts.instances.map((each) => {
        const sum = (name) => (each.endpoints ?? []).reduce((total, endpoint) => total + (endpoint[name] ?? 0), 0);
        return html`<tr key=${each.id}><td>${visible(each.id)}</td><td>${visible(each.version)}</td><td class="n">${count(sum("num_requests"))}</td><td class="n">${count(sum("num_errors"))}</td><td>${since(Date.parse(each.started))}</td></tr>`;
      })}</${Grid}>`;
}

function Servers({ found }) {
  if (found.length === 0) return html`<p>No worker tells of any.</p>`;
  return html`<${Grid} label="Model servers" head=${["Server", "How it is", "!Calls open", "!Calls waiting"]}>
    ${found.map((each) => html`<tr key=${each.name}><td class="name"><strong>${visible(each.name)}</strong>${each.url !== each.name && html`<span class="why line">${visible(each.url)}</span>`}</td>
      <td><span class=${`status ${each.state}`}>${STATE[each.state]}</span> ${each.said.join(" ")}${each.opened > 0 && html`<span class="why line">Its breaker has opened ${count(each.opened)} ${each.opened === 1 ? "time" : "times"}.</span>`}</td>
      <td class="n">${count(each.openCalls)}</td><td class="n">${count(each.waiting)}</td></tr>`)}</${Grid}>`;
}

function Workers({ workers, now }) {
  if (workers.length === 0) return html`<p class="bad">None has told how it is within a minute.</p>`;
  return html`<${Grid} label="Workers" head=${["Worker", "Runs since", "!Calls open", "!Done", "!Failed", "Last heard of"]}>
    ${workers.map((each) => {
      const silent = now - Date.parse(each.told_at);
      const started = Date.parse(each.started_at);
      return html`<tr key=${each.name}><td>${visible(each.name)}</td><td>${since(started)} <span class="why">${seconds(now - started)}</span></td><td class="n">${count(each.open_calls)}</td>
        <td class="n">${count(each.done)}</td><td class="n">${count(each.failed)}</td><td class=${silent > SILENT_MS ? "bad" : ""}>${silent > SILENT_MS ? `silent for ${seconds(silent)}` : "just now"}${each.last_fetch_age_s > 15 ? html`<span class="why busy">NATS has not answered its pull for ${seconds(each.last_fetch_age_s * 1000)}</span>` : ""}</td></tr>`;
    })}</${Grid}>`;
}
