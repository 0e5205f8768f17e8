// One deliberation: its course while it runs, and its result.
import { useEffect, useState } from "preact/hooks";
import { html } from "../html.js";
import { useNow, useStore } from "../use.js";
import { visible } from "../visible.js";
import { count, money, phaseName, seconds, since, STATUS } from "../words.js";
import { Course } from "./course.js";
import { Result } from "./result.js";

export function TaskView({ store, link, list }) {
  useStore(store);
  useStore(list);
  const now = useNow(500);
  const { result } = store;
  const row = list.byKey.get(store.key);
  const rejected = row?.status === "REJECTED" && !result;
  useEffect(() => {
    if (store.error && row?.end) store.readEvent(row.end);
  }, [store.error, row?.end]);
  const status = rejected ? "REJECTED" : store.status;
  const waits = !store.accepted && list.waiting.rows.find((each) => each.key === store.key);
  const running = status === "IN_PROGRESS" || status === "PENDING";
  const usage = result?.usage ?? store.usage;
  const written = Math.max(usage?.completion_tokens ?? 0, [...store.calls.values()].reduce((sum, call) => sum + (call.tokens ?? 0), 0));
  const cost = money(result ? result.cost : store.cost);
  const { progress } = store;
  const question = result?.task?.task_description || store.question || waits?.question || row?.question;
  return html`<h1>${visible(store.key)}</h1>
    ${store.error && !rejected && html`<p class="bad" role="alert">${visible(store.error)}</p>`}
    <p class="facts" role="status">
      <span class=${`status ${status}`}>${STATUS[status] ?? visible(status)}</span>
      ${result?.degraded && html`<span class="status doubted">degraded</span>`}
      ${waits && html`<span>since ${since(waits.at)}, for ${seconds(now - waits.at)}</span>`}
      ${running && progress && html`<span>${progress.expected ? `${phaseName(progress.phase, progress.round)}: ${progress.done} of ${progress.expected} calls` : "waits for the result of an equal request"}</span>`}
      ${running && store.accepted && html`<span>since ${since(store.accepted)}, for ${seconds(now - store.accepted)}</span>`}
      ${running && store.deadline && html`<span class=${store.deadline > now ? "" : "bad"}>${store.deadline > now ? `${seconds(store.deadline - now)} left` : "the deadline has passed"}</span>`}
      ${result && html`<span>took ${seconds(result.duration_ms)}, ended ${since(Date.parse(result.completed_at))}</span>`}
      <span>${count(written)} tokens written</span>
      ${usage?.prompt_tokens ? html`<span>${count(usage.prompt_tokens)} read, ${Math.round((100 * (usage.cached_tokens ?? 0)) / usage.prompt_tokens)} % from a cache</span>` : ""}
      ${cost != null && html`<span>${result ? "cost" : "cost so far"} ${cost}</span>`}
    </p>
    ${rejected && html`<p class="bad">The request was not accepted: ${visible(row.error)}</p>`}
    ${running && html`<${Cancel} link=${link} id=${store.key} />`}
    ${question && html`<section><h2>Question</h2><pre class="text" tabindex="0">${visible(question)}</pre><${Asked} task=${result?.task} /></section>`}
    ${result && html`<${Result} result=${result} />`}
    ${!rejected && html`<${Course} store=${store} now=${now} />`}`;
}

// What was asked for besides.
function Asked({ task }) {
  if (!task) return null;
  const { rubric, requirements = [] } = task.constraints ?? {};
  const criteria = typeof rubric === "object" && rubric ? Object.entries(rubric).map(([name, weight]) => `${name} ${weight}`).join(", ") : rubric;
  const about = Object.entries(task.correlation ?? {}).map(([name, value]) => `${name}: ${value}`);
  return html`<p class="why">${visible([`${task.num_agents} ${task.num_agents === 1 ? "agent" : "agents"} of ${task.role}`, `${task.rounds} ${task.rounds === 1 ? "round" : "rounds"} asked for`, criteria && `scored by ${criteria}`, ...about].filter(Boolean).join(" · "))}</p>
    ${requirements.length > 0 && html`<ol class="why">${requirements.map((each) => html`<li>${visible(each)}</li>`)}</ol>`}`;
}

function Cancel({ link, id }) {
  const [said, setSaid] = useState(null);
  const cancel = async () => {
    setSaid("Cancelling …");
    try {
      await link.cancel(id);
      setSaid("Cancelled.");
    } catch (error) {
      setSaid(`Not cancelled: ${error.message}`);
    }
  };
  return html`<p><button onClick=${cancel}>Cancel</button> ${said && html`<span role="status">${visible(said)}</span>`}</p>`;
}
