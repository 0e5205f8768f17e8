// A table that scrolls by itself, and on a narrow screen becomes a list of its rows. `!` marks a column of numbers.
import { html } from "../html.js";

export function Grid({ label, head, children }) {
  const names = head.map((name) => name.replace(/^!/, ""));
  const labels = Object.fromEntries(names.map((name, index) => [`--head-${index + 1}`, JSON.stringify(name)]));
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${label}><table class="stack" style=${labels}>
    <thead><tr>${head.map((name, index) => html`<th class=${name.startsWith("!") ? "n" : ""}>${names[index]}</th>`)}</tr></thead>
    <tbody>${children}</tbody></table></div>`;
}
