// Dead letters: what nobody could handle, why, and what can be done with it.
import { useState } from "preact/hooks";
import { html } from "../html.js";
import { useStore } from "../use.js";
import { visible } from "../visible.js";
import { count, since } from "../words.js";

export function LettersView({ store }) {
  useStore(store);
  return html`<h1>Dead letters</h1>
    <p class="why">Messages that nobody could handle, kept whole for 30 days. Replay hands one in again where it came from, once. Drop removes it for good.</p>
    ${store.problem && html`<p class="bad" role="alert">${visible(store.problem)}</p>`}
    <p role="status">${store.count == null ? (store.problem ? "" : "Reading …") : store.count === 0 ? "There is none." : `${count(store.count)} ${store.count === 1 ? "dead letter" : "dead letters"}, newest first${store.count > store.all.length ? `; the newest ${count(store.all.length)} are shown` : ""}.`}</p>
    ${store.all.map((letter) => html`<${Letter} key=${letter.seq} store=${store} letter=${letter} />`)}`;
}

function Letter({ store, letter }) {
  const [said, setSaid] = useState(null);
  const act = (verb, done) => async () => {
    setSaid({ text: `${verb} …` });
    try {
      await store[verb](letter);
      setSaid({ text: done });
    } catch (error) {
      setSaid({ text: `Not done: ${error.message}`, bad: true });
    }
  };
  const { replayed } = letter;
  return html`<details class="proposal letter">
    <summary><strong>${letter.seq}</strong> ${visible(letter.original)}, ${since(letter.at)}${replayed?.stream ? ", replayed" : ""} <span class="why line">${visible(letter.reason)}</span></summary>
    <dl class="pairs"><dt>From</dt><dd>${visible(letter.from)}</dd>
      ${letter.task && html`<dt>Deliberation</dt><dd><a href=${`#/task/${encodeURIComponent(letter.task)}`}>${visible(letter.task)}</a></dd>`}
      ${replayed && html`<dt>Replayed</dt><dd>${replayed.stream ? `${since(Date.parse(replayed.at))}: ${visible(replayed.stream)} ${replayed.sequence}` : `begun ${since(Date.parse(replayed.at))}, and broken off`}</dd>`}</dl>
    <p>${!replayed?.stream && html`<button onClick=${act("replay", "Replayed.")}>Replay</button> `}<button onClick=${act("drop", "Dropped.")}>Drop</button>
      ${said && html` <span role="status" class=${said.bad ? "bad" : ""}>${visible(said.text)}</span>`}</p>
    <h3>Body</h3>
    <pre class="text" tabindex="0">${visible(letter.body)}</pre>
    <details><summary>Headers</summary><pre class="text" tabindex="0">${visible(letter.headers.map(([name, value]) => `${name}: ${value}`).join("\n"))}</pre></details>
  </details>`;
}
