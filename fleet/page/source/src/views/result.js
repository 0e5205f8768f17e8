// What came of a deliberation: the verdict in words, the ranking, who scored whom how, every text with its reviews.
import { diffWordsWithSpace } from "diff";
import { html } from "../html.js";
import { degradedBecause, reason } from "../reasons.js";
import { visible } from "../visible.js";
import { Grid } from "./grid.js";
import { count, money, phaseName, points, verdict } from "../words.js";

export function Result({ result }) {
  if (result.status !== "COMPLETED")
    return html`<section><h2>No result</h2><p class="bad">${visible(result.error ?? result.reason ?? "")}</p>
      <${Failures} calls=${result.failed_agents ?? []} /></section>`;
  return html`<section class="verdict"><h2>Verdict</h2>${verdict(result).map((sentence) => html`<p>${sentence}</p>`)}
      ${!result.degraded && result.notes?.map((note) => html`<p class="why">${visible(note)}</p>`)}</section>
    ${result.degraded && html`<section class="degraded"><h2>Why it is degraded</h2><ul>${degradedBecause(result).map((each) => html`<li>${each}</li>`)}</ul></section>`}
    <${Ranking} results=${result.results} />
    <${Matrix} results=${result.results} />
    <${Rounds} rounds=${result.rounds ?? []} />
    <section><h2>Proposals</h2>${result.results.map((each) => html`<${Proposal} key=${each.agent_id} each=${each} open=${each.rank === 1} />`)}</section>
    ${result.synthesis && html`<section><h2>Synthesis</h2><pre class="text" tabindex="0">${visible(result.synthesis.content)}</pre></section>`}
    <${Models} usage=${result.usage_by_model ?? {}} />
    <${Failures} calls=${result.failed_agents ?? []} />`;
}

function Ranking({ results }) {
  return html`<section><h2>Ranking</h2><${Grid} label="Ranking" head=${["!Place", "Agent", "Role", "!Points", "!Chance to be the best", "!Taken off", "Model", "Failed checks"]}>
    ${results.map(
      (each) => html`<tr key=${each.agent_id}><td class="n">${each.rank}</td><td>${visible(each.agent_id)}${each.shadow ? " (on trial: cannot win)" : ""}</td><td>${visible(each.role)}</td>
        <td class="n">${each.votes != null ? `${each.votes} votes` : points(each.score)}</td>
        <td class="n">${each.p_best == null ? "–" : `${Math.round(100 * each.p_best)} %`}</td>
        <td class="n">${each.penalty ? points(each.penalty) : ""}</td><td>${visible(each.proposal.model)}</td>
        <td>${Object.entries(each.checks ?? {}).filter(([, check]) => check.status === "failed").map(([name]) => visible(name)).join(", ") || "–"}</td></tr>`,
    )}</${Grid}></section>`;
}

// Who gave whom how many points: rows are reviewers, columns authors; on hovering or focus by criterion.
function Matrix({ results }) {
  const scores = results.flatMap((each) => each.reviews.filter((review) => review.score != null).map((review) => ({ ...review, author: each.agent_id })));
  if (scores.length === 0) return null;
  const reviewers = [...new Set(scores.map((each) => each.reviewer_id))].sort();
  const authors = results.map((each) => each.agent_id);
  const last = (reviewer, author) => scores.filter((each) => each.reviewer_id === reviewer && each.author === author).at(-1);
  return html`<section><h2>Who scored whom</h2><div class="scroll" tabindex="0" role="region" aria-label="Scores by reviewer and author"><table class="matrix">
    <thead><tr><th>Reviewer \\ author</th>${authors.map((author) => html`<th class="n">${visible(author)}</th>`)}</tr></thead>
    <tbody>${reviewers.map(
      (reviewer) => html`<tr><th scope="row">${visible(reviewer)}</th>${authors.map((author) => {
        const review = last(reviewer, author);
        const criteria = Object.entries(review?.criteria ?? {});
        return html`<td class="n">${review ? html`<strong>${points(review.score)}</strong>${criteria.map(([name, each]) => html`<span class="criterion">${visible(name)} ${points(each.score)}</span>`)}` : "–"}</td>`;
      })}</tr>`,
    )}</tbody></table></div></section>`;
}

function Rounds({ rounds }) {
  if (rounds.length === 0) return null;
  return html`<section><h2>What rounds changed</h2><ul>${rounds.map((round) => {
    const revised = Object.entries(round.similarity).filter(([, similarity]) => similarity < 1);
    const lead = round.winner_changed ? `The leader changed from ${visible(round.leader_before)} to ${visible(round.leader_after)}.` : round.winner_changed === false ? "The leader stayed the same." : "";
    return html`<li>Round ${round.round}: ${revised.length} texts were revised. ${lead} ${count(round.tokens)} tokens.</li>`;
  })}</ul></section>`;
}

function Proposal({ each, open }) {
  const texts = [...(each.earlier ?? []).map((text) => text.content), each.proposal.content];
  const critiques = each.reviews.filter((review) => review.strengths.length + review.weaknesses.length + review.changes.length > 0);
  return html`<details class="proposal" open=${open}>
    <summary>${each.rank}. ${visible(each.agent_id)}, ${visible(each.role)}${each.score != null ? `, ${points(each.score)} points` : ""}</summary>
    <pre class="text" tabindex="0">${visible(each.proposal.content)}</pre>
    ${each.proposal.truncated && html`<p class="bad">This text was cut off.</p>`}
    ${(each.declined ?? []).map((declined) => html`<p>Round ${declined.round}: kept its text. ${visible(declined.reason)}</p>`)}
    ${critiques.map(
      (review) => html`<section class="critique"><h3>${visible(review.reviewer_id)}${review.round ? `, round ${review.round}` : ""}</h3>
        <${Points} name="Good" points=${review.strengths} /><${Points} name="Weak" points=${review.weaknesses} /><${Points} name="To change" points=${review.changes} /></section>`,
    )}
    ${texts.slice(1).map((text, index) => html`<details><summary>What revision ${index + 1} changed</summary><${Difference} before=${texts[index]} after=${text} /></details>`)}
  </details>`;
}

const Points = ({ name, points: said }) => said.length > 0 && html`<p class="why">${name}</p><ul>${said.map((point) => html`<li>${visible(point)}</li>`)}</ul>`;

function Difference({ before, after }) {
  if (!before || !after) return html`<p>One of the two texts is not stored.</p>`;
  return html`<pre class="text" tabindex="0">${diffWordsWithSpace(before, after).map((part) =>
    part.added ? html`<ins>${visible(part.value)}</ins>` : part.removed ? html`<del>${visible(part.value)}</del>` : visible(part.value),
  )}</pre>`;
}

function Models({ usage }) {
  const rows = Object.entries(usage);
  if (rows.length === 0) return null;
  return html`<section><h2>What it cost</h2><${Grid} label="Usage by model" head=${["Model", "!Calls", "!Tokens read", "!Cached", "!Tokens written", "!Cost"]}>
    ${rows.map(([model, each]) => html`<tr><td>${visible(model)}</td><td class="n">${count(each.calls)}</td><td class="n">${count(each.prompt_tokens)}</td><td class="n">${count(each.cached_tokens)}</td><td class="n">${count(each.completion_tokens)}</td><td class="n">${money(each.cost) ?? "–"}</td></tr>`)}</${Grid}></section>`;
}

function Failures({ calls }) {
  if (calls.length === 0) return null;
  return html`<section><h2>Calls that failed</h2><ul>${calls.map((call) => html`<li>${visible(call.agent_id)}, ${phaseName(call.phase, call.round)}: ${reason(call.error_type)} (${visible(call.error_type)}). <span class="why">${visible(call.error)}</span></li>`)}</ul></section>`;
}
