// What came of a deliberation: the verdict in words, the ranking, who scored whom how, every text with its reviews.
import { diffWordsWithSpace } from "diff";
import { html } from "../html.js";
import { degradedBecause, reason } from "../reasons.js";
import { meant, visible } from "../visible.js";
import { Grid } from "./grid.js";
import { Matrix } from "./scores.js";
import { count, money, phaseName, points, rewarded, verdict } from "../words.js";

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
    <${Choices} result=${result} />
    <section><h2>Proposals</h2>${result.results.map((each) => html`<${Proposal} key=${each.agent_id} each=${each} open=${each.rank === 1} />`)}</section>
    ${result.synthesis && html`<section><h2>Synthesis</h2><p>Merged by ${visible(result.synthesis.author_id)} from the best ${result.synthesis.sources.length}. ${{ true: "Reviewers preferred it to the first.", false: "Reviewers did not prefer it to the first." }[result.synthesis.better] ?? "Nobody compared it with the first."}</p><pre class="text" tabindex="0">${visible(result.synthesis.content)}</pre></section>`}
    <${Models} title="What it cost" usage=${result.usage_by_model ?? {}} />
    <${Models} title="What models on trial cost besides" usage=${result.shadows?.usage_by_model ?? {}} />
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

// Votes, comparisons of what was tied, and what an architect chose.
function Choices({ result }) {
  const { comparisons = [], selection } = result;
  if (comparisons.length === 0 && !selection) return null;
  const chosen = selection && (selection.chosen ? `chose ${selection.chosen}` : selection.contradicted ? "contradicted itself, so the ranking stands" : "gave no answer, so the ranking stands");
  return html`<section><h2>Who chose what</h2>
    ${selection && html`<p>${visible(selection.chooser_id)} ${visible(chosen)}.</p>`}
    ${comparisons.length > 0 && html`<${Grid} label="Choices" head=${["Reviewer", "Asked in", "Shown in this order", "Chosen", "Why"]}>
      ${comparisons.map((each, index) => html`<tr key=${index}><td>${visible(each.reviewer_id)}</td><td>${phaseName(each.phase)}</td><td>${visible(each.order.join(", "))}</td><td>${visible(each.chosen)}</td><td>${meant(each.rationale)}</td></tr>`)}</${Grid}>`}</section>`;
}

function Rounds({ rounds }) {
  if (rounds.length === 0) return null;
  return html`<section><h2>What rounds changed</h2><ul>${rounds.map((round) => {
    const revised = Object.entries(round.similarity).filter(([, similarity]) => similarity < 1);
    const lead = round.winner_changed ? `The leader changed from ${visible(round.leader_before)} to ${visible(round.leader_after)}.` : round.winner_changed === false ? "The leader stayed the same." : "";
    const agents = Object.keys(round.similarity).sort();
    return html`<li>Round ${round.round}: ${revised.length} of ${agents.length} texts were changed. ${lead} ${count(round.tokens)} tokens.
      <${Grid} label=${`Round ${round.round}`} head=${["Agent", "!Points before", "!Points after", "!Words kept"]}>
        ${agents.map((agent) => html`<tr key=${agent}><td>${visible(agent)}</td><td class="n">${points(round.scores_before[agent])}</td><td class="n">${points(round.scores_after[agent])}</td><td class="n">${Math.round(100 * round.similarity[agent])} %</td></tr>`)}</${Grid}></li>`;
  })}</ul></section>`;
}

function Proposal({ each, open }) {
  const texts = [...(each.earlier ?? []).map((text) => text.content), each.proposal.content];
  const critiques = each.reviews.filter((review) => review.strengths.length + review.weaknesses.length + review.changes.length > 0);
  return html`<details class="proposal" open=${open}>
    <summary>${each.rank}. ${visible(each.agent_id)}, ${visible(each.role)}${each.score != null ? `, ${points(each.score)} points` : ""}</summary>
    <pre class="text" tabindex="0">${visible(each.proposal.content)}</pre>
    ${each.proposal.truncated && html`<p class="bad">This text was cut off.</p>`}
    ${(each.declined ?? []).map((declined) => html`<p>Round ${declined.round}: kept its text. ${meant(declined.reason)}</p>`)}
    <${Checks} checks=${each.checks ?? {}} penalty=${each.penalty} />
    ${each.reviews.filter((review) => review.reward).map((review) => html`<p class="why">${visible(review.reviewer_id)} (${visible(review.reward.model)}) ${rewarded(review.reward)}${review.score != null ? `, which comes to ${points(review.score)} points` : ", which says nothing here"}.</p>`)}
    ${critiques.map(
      (review) => html`<section class="critique"><h3>${visible(review.reviewer_id)}${review.round ? `, round ${review.round}` : ""}</h3>
        <${Points} name="Good" points=${review.strengths} /><${Points} name="Weak" points=${review.weaknesses} /><${Points} name="To change" points=${review.changes} /></section>`,
    )}
    ${texts.slice(1).map((text, index) => html`<details><summary>What revision ${index + 1} changed</summary><${Difference} before=${texts[index]} after=${text} /></details>`)}
  </details>`;
}

function Checks({ checks, penalty }) {
  const of = (status) => Object.keys(checks).filter((name) => checks[name].status === status);
  const [failed, passed, idle] = ["failed", "passed", "not_applicable"].map(of);
  if (failed.length + passed.length + idle.length === 0) return null;
  return html`<section class="critique"><h3>Checks${penalty ? `, ${points(penalty)} points taken off` : ""}</h3><ul>
    ${failed.map((name) => html`<li><span class="bad"><strong>${visible(name)}</strong> failed</span><ul>${checks[name].findings.map((finding) => html`<li>${visible(finding)}</li>`)}</ul></li>`)}
    ${passed.length > 0 && html`<li>Passed: ${visible(passed.join(", "))}</li>`}
    ${idle.length > 0 && html`<li class="why">Had nothing to check: ${visible(idle.join(", "))}${idle.flatMap((name) => checks[name].findings).map((finding) => `; ${visible(finding)}`)}</li>`}</ul></section>`;
}

const Points = ({ name, points: said }) => said.length > 0 && html`<p class="why">${name}</p><ul>${said.map((point) => html`<li>${meant(point)}</li>`)}</ul>`;

function Difference({ before, after }) {
  if (!before || !after) return html`<p>One of the two texts is not stored.</p>`;
  return html`<pre class="text" tabindex="0">${diffWordsWithSpace(before, after).map((part) =>
    part.added ? html`<ins>${visible(part.value)}</ins>` : part.removed ? html`<del>${visible(part.value)}</del>` : visible(part.value),
  )}</pre>`;
}

function Models({ title, usage }) {
  const rows = Object.entries(usage);
  if (rows.length === 0) return null;
  return html`<section><h2>${title}</h2><${Grid} label=${`${title}: usage by model`} head=${["Model", "!Calls", "!Tokens read", "!Cached", "!Tokens written", "!Cost"]}>
    ${rows.map(([model, each]) => html`<tr><td>${visible(model)}</td><td class="n">${count(each.calls)}</td><td class="n">${count(each.prompt_tokens)}</td><td class="n">${count(each.cached_tokens)}</td><td class="n">${count(each.completion_tokens)}</td><td class="n">${money(each.cost) ?? "–"}</td></tr>`)}</${Grid}></section>`;
}

function Failures({ calls }) {
  if (calls.length === 0) return null;
  return html`<section><h2>Calls that failed</h2><ul>${calls.map((call) => html`<li>${visible(call.agent_id)}, ${phaseName(call.phase, call.round)}: ${reason(call.error_type)} (${visible(call.error_type)}). <span class="why">${visible(call.error)}</span></li>`)}</ul></section>`;
}
