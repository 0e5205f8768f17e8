// One deliberation: its course while it runs, and its result.
import { useState } from "preact/hooks";
import { html } from "../html.js";
import { useNow, useStore } from "../use.js";
import { visible } from "../visible.js";
import { count, money, seconds, STATUS } from "../words.js";
import { Course } from "./course.js";
import { Result } from "./result.js";

export function TaskView({ store, link }) {
  useStore(store);
  const now = useNow(500);
  const { status, result } = store;
  const running = status === "IN_PROGRESS" || status === "PENDING";
  const usage = result?.usage;
  const written = [...store.calls.values()].reduce((sum, call) => sum + (call.tokens ?? 0), 0);
  return html`<h1>${visible(store.id)}</h1>
    ${store.error && html`<p class="bad" role="alert">${visible(store.error)}</p>`}
    <p class="facts" role="status">
      <span class=${`status ${status}`}>${STATUS[status] ?? status}</span>
      ${running && store.accepted && html`<span>for ${seconds(now - store.accepted)}</span>`}
      ${running && store.deadline && html`<span>${store.deadline > now ? `${seconds(store.deadline - now)} left` : "the deadline has passed"}</span>`}
      ${result && html`<span>took ${seconds(result.duration_ms)}</span>`}
      <span>${count(usage ? usage.completion_tokens : written)} tokens written</span>
      ${usage?.prompt_tokens ? html`<span>${count(usage.prompt_tokens)} read, ${Math.round((100 * (usage.cached_tokens ?? 0)) / usage.prompt_tokens)} % from a cache</span>` : ""}
      ${money(result?.cost) != null && html`<span>cost ${money(result.cost)}</span>`}
    </p>
    ${running && html`<${Cancel} link=${link} id=${store.id} />`}
    ${(result?.task?.task_description ?? "") && html`<section><h2>Question</h2><pre class="text">${visible(result.task.task_description)}</pre></section>`}
    ${result && html`<${Result} result=${result} />`}
    <${Course} store=${store} now=${now} />`;
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
