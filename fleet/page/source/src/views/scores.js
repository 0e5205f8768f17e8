// Reviewers and authors: the matrix of scores.
import { useState } from "preact/hooks";
import { html } from "../html.js";
import { meant, visible } from "../visible.js";
import { points, rewarded } from "../words.js";

// Who gave whom how many points, by criterion: rows are reviewers, columns authors. Of the verdict, or of a round's critiques.
export function Matrix({ results }) {
  const reviews = results.flatMap((each) => each.reviews.map((review) => ({ ...review, author: each.agent_id })));
  const kinds = new Map();
  for (const review of reviews) {
    const criteria = criteriaOf(review);
    if (review.score == null && criteria.length === 0 && !review.reward) continue;
    const name = review.phase === "score" ? (review.reading > 1 ? `Verdict, reading ${review.reading}` : "Verdict") : `Critiques of round ${review.round}`;
    if (!kinds.has(name)) kinds.set(name, []);
    kinds.get(name).push({ ...review, criteria });
  }
  const [kind, setKind] = useState(null);
  if (kinds.size === 0) return null;
  const names = [...kinds.keys()].sort((one, other) => other.startsWith("Verdict") - one.startsWith("Verdict") || (one < other ? -1 : 1));
  const shown = kinds.get(kind) ?? kinds.get(names[0]);
  const reviewers = [...new Set(shown.map((each) => each.reviewer_id))].sort();
  const authors = results.map((each) => each.agent_id);
  return html`<section><h2>Who scored whom</h2>
    ${names.length > 1 && html`<div class="choices"><label>Scores of <select value=${kind ?? names[0]} onChange=${(event) => setKind(event.target.value)}>${names.map((name) => html`<option value=${name}>${name}</option>`)}</select></label></div>`}
    <div class="scroll" tabindex="0" role="region" aria-label="Scores by reviewer and author"><table class="matrix">
    <thead><tr><th>Reviewer \\ author</th>${authors.map((author) => html`<th class="n">${visible(author)}</th>`)}</tr></thead>
    <tbody>${reviewers.map(
      (reviewer) => html`<tr><th scope="row">${visible(reviewer)}</th>${authors.map((author) => {
        const review = shown.findLast((each) => each.reviewer_id === reviewer && each.author === author);
        return html`<td class="n">${review ? html`${review.score != null && html`<strong>${points(review.score)}</strong>`}${review.adjusted != null && html`<span class="criterion">counts as ${points(review.adjusted)}</span>`}${review.reward && html`<span class="criterion">${rewarded(review.reward)}</span>`}${review.criteria.map(([name, score, why]) => html`<span class="criterion" title=${why ? meant(why) : null}>${visible(name)} ${points(score)}</span>`)}` : "–"}</td>`;
      })}</tr>`,
    )}</tbody></table></div>
    ${shown.some((each) => each.reward) && html`<p class="why">A judge has no scale: what it gives says something only beside what it gives the others, so its points are put on the scale of the reviewers.</p>`}
    <${Rationales} reviews=${shown} /></section>`;
}

// `[criterion, score, rationale]`.
const criteriaOf = (review) =>
  Object.keys(review.criteria ?? {}).length > 0
    ? Object.entries(review.criteria).map(([name, each]) => [name, each.score, each.rationale])
    : Object.entries(review.scores ?? {}).map(([name, score]) => [name, score, ""]);

function Rationales({ reviews }) {
  const said = reviews.filter((review) => review.criteria.some(([, , why]) => why));
  if (said.length === 0) return null;
  return html`<details><summary>The reasons for these scores</summary>${said.map(
    (review) => html`<h3>${visible(review.reviewer_id)} on ${visible(review.author)}</h3><ul>${review.criteria.map(([name, score, why]) => html`<li>${visible(name)} ${points(score)}: ${meant(why)}</li>`)}</ul>`,
  )}</details>`;
}
