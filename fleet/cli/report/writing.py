"""Writes the report of a deliberation that has ended."""

from collections.abc import Iterator
from statistics import fmean

from fleet.cli.report.blocks import Block, Document, Folded, Grid, Items, Prose, Quote, Section
from fleet.cli.report.proposals import proposal_sections
from fleet.cli.report.words import COUNCIL, DECIDED_BY, PHASES, agreement, number, reason
from fleet.cli.verdict import count, first
from fleet.messages import (
    AcceptedTask,
    DeliberationCancelled,
    DeliberationCompleted,
    FailedCall,
    ModelUsage,
    RankedResult,
    TerminalEvent,
    TotalUsage,
)

TITLE_CHARACTERS = 100
NAMED = 5
"""So many reasons are given of each kind; the rest stands with the proposals."""


def document(event: TerminalEvent) -> Document:
    """`event` with all its texts in it."""
    if not isinstance(event, DeliberationCompleted):
        return Document(_title(event), _no_verdict(event), (*_question(event.task), _cost(event)))
    sections = (
        *_question(event.task),
        Section("The verdict", tuple(_verdict(event))),
        Section("The winning text", (Quote(event.results[0].proposal.content),)),
        *_synthesis(event),
        Section("Why", tuple(_why(event))),
        Section("Dissent", tuple(_dissent(event))),
        *_not_as_asked(event),
        *_rounds(event),
        *proposal_sections(event),
        _cost(event),
        Section("How to read this", tuple(map(Prose, COUNCIL))),
    )
    return Document(_title(event), tuple(_lead(event)), sections)


def _title(event: TerminalEvent) -> str:
    question = " ".join((event.task.task_description if event.task else "").split())
    if len(question) > TITLE_CHARACTERS:
        question = question[:TITLE_CHARACTERS].rpartition(" ")[0] + " …"
    return question or f"Deliberation {event.task_id}"


def _lead(event: DeliberationCompleted) -> Iterator[Block]:
    agents, seconds = count(event.total_agents, "agent"), _seconds(event)
    yield Prose(
        f"{agents} (language models, each on its own) proposed an answer, "
        f"went through {count(event.rounds_run, 'round')} of mutual review, and were ranked. It took {seconds}, "
        f"and ended on {event.completed_at[:10]} at {event.completed_at[11:19]} UTC. Its name is {event.task_id}."
    )
    yield Prose(f"Result: {first(event)}. {agreement(event)}")
    if event.cached_from is not None:
        yield Prose(
            f"No model was called for it: the same question was answered before, as {event.cached_from}, and this is "
            "that result. Rounds and texts are what was done then."
        )
    if event.degraded:
        yield Prose("Not everything that was asked for happened: see below what did not.")


def _seconds(event: TerminalEvent) -> str:
    return f"{event.duration_ms / 1000:,.{0 if event.duration_ms >= 10_000 else 1}f} s"


def _no_verdict(event: TerminalEvent) -> tuple[Block, ...]:
    seconds = _seconds(event)
    if isinstance(event, DeliberationCancelled):
        return (Prose(f"There is no verdict: it was stopped after {seconds}. The reason given: {event.reason}"),)
    assert not isinstance(event, DeliberationCompleted)
    failures = [_failure(call) for call in event.failed_agents]
    return (Prose(f"There is no verdict. After {seconds}: {event.error}"), Items(failures))


def _failure(call: FailedCall) -> str:
    round_ = f" {call.round}" if call.round else ""
    return f"{call.agent_id}, {PHASES[call.phase]}{round_}: {call.error_type}: {call.error}"


def _question(task: AcceptedTask | None) -> Iterator[Section]:
    if task is None:
        return
    blocks: list[Block] = [Quote(task.task_description)]
    if task.constraints.requirements:
        blocks += [Prose("It was required that:"), Items(task.constraints.requirements)]
    rubric = task.constraints.rubric
    if isinstance(rubric, str):
        blocks += [Prose("Proposals were judged by this:"), Quote(rubric)]
    elif task.options.selection != "checks":
        total = sum(rubric.values())
        blocks += [
            Prose("Proposals were judged by these criteria, from 0 to 10 each:"),
            Grid(("criterion", "share"), [(name, f"{weight / total:.0%}") for name, weight in rubric.items()]),
        ]
    yield Section("The question", blocks)


def _verdict(event: DeliberationCompleted) -> Iterator[Block]:
    yield Prose(f"In first place: {first(event)}.")
    yield Prose(agreement(event))
    if event.margin is not None and len(event.ranked) > 1:
        unit = "vote" if event.ranking.method == "vote" else "point"
        yield Prose(f"It is {count(round(event.margin, 2), unit)} ahead of the second.")
    if event.ranking.tied:
        yield Prose(f"{', '.join(event.ranking.tied)} were level; {DECIDED_BY[event.ranking.decided_by]}.")
    if event.selection is not None:
        chose = event.selection.chosen or "nobody: its answers contradicted each other, or it gave none"
        yield Prose(
            f"An architect, {event.selection.chooser_id}, was asked to choose among the best. It chose {chose}."
        )
    by = "votes" if event.ranking.method == "vote" else "score of 10"
    yield Grid(("place", "agent", by, "checks failed", "model"), [_ranked(result) for result in event.results])


def _ranked(result: RankedResult) -> tuple[str, ...]:
    failed = [name for name, check in result.checks.items() if check.status == "failed"]
    return (
        "shadow" if result.shadow else str(result.rank),
        result.agent_id,
        number(result.score) if result.votes is None else str(result.votes),
        ", ".join(failed) or "none",
        result.proposal.model,
    )


def _synthesis(event: DeliberationCompleted) -> Iterator[Section]:
    if event.synthesis is not None:
        merged = f"{event.synthesis.author_id} merged the best {len(event.synthesis.sources)} proposals into this text."
        if event.synthesis.better is not None:
            merged += f" Reviewers judged it {'better' if event.synthesis.better else 'no better'} than the first one."
        yield Section("A merged text", (Prose(merged), Quote(event.synthesis.content)))


def _why(event: DeliberationCompleted) -> Iterator[Block]:
    winner = event.results[0]
    reasons = [
        f"{review.reviewer_id} on {criterion} ({number(card.score)} of 10): {reason(card.rationale)}"
        for review in winner.reviews
        for criterion, card in review.criteria.items()
        if card.rationale
    ]
    reasons += [
        f"{choice.reviewer_id} preferred it: {reason(choice.rationale)}"
        for choice in event.comparisons
        if choice.chosen == winner.agent_id and choice.rationale
    ]
    strengths = [
        f"{review.reviewer_id}: {reason(text)}"
        for review in winner.reviews
        if review.phase == "critique"
        for text in review.strengths
    ]
    if reasons:
        yield Prose("What its reviewers said of it:")
        yield from _first_few(reasons)
    if strengths:
        yield Prose("Strengths that they saw in the course of it:")
        yield from _first_few(strengths)
    if not reasons and not strengths:
        yield Prose("Nobody gave reasons.")
    if event.stop_explanation:
        yield Prose(f"The rounds of review ended because {event.stop_explanation}.")


def _dissent(event: DeliberationCompleted) -> Iterator[Block]:
    """Who would have chosen otherwise, and what was held against the winner."""
    winner = event.results[0]
    others = list(_otherwise(event))
    yield Items(others) if others else Prose("No reviewer put another proposal in front of it.")
    weaknesses = [
        f"{review.reviewer_id} on {criterion} ({number(card.score)} of 10): {reason(card.rationale)}"
        for review in winner.reviews
        for criterion, card in review.criteria.items()
        if card.rationale and review.score is not None and card.score < review.score
    ]
    missed = [finding for check in winner.checks.values() if check.status == "failed" for finding in check.findings]
    if weaknesses:
        yield Prose("Where its reviewers saw it weakest:")
        yield from _first_few(weaknesses)
    if missed:
        yield Prose("What checks found in it:")
        yield from _first_few(missed)


def _otherwise(event: DeliberationCompleted) -> Iterator[str]:
    winner = event.results[0].agent_id
    by_reviewer: dict[str, dict[str, float]] = {}
    for result in event.ranked:
        for review in result.reviews:
            if review.phase == "score" and review.score is not None:
                by_reviewer.setdefault(review.reviewer_id, {})[result.agent_id] = review.score
    for reviewer, scores in sorted(by_reviewer.items()):
        best = max(scores, key=lambda agent: scores[agent])
        if winner in scores and scores[best] > scores[winner]:
            yield f"{reviewer} gave {best} {number(scores[best])}, and the winner {number(scores[winner])}."
    for choice in event.comparisons:
        if choice.chosen != winner and winner in choice.order:
            because = f": {reason(choice.rationale)}" if choice.rationale else "."
            yield f"{choice.reviewer_id} preferred {choice.chosen}{because}"


def _first_few(texts: list[str]) -> Iterator[Block]:
    yield Items(texts[:NAMED])
    if len(texts) > NAMED:
        yield Folded(f"{len(texts) - NAMED} more", (Items(texts[NAMED:]),))


def _not_as_asked(event: DeliberationCompleted) -> Iterator[Section]:
    lines = [f"{agent} has no proposal." for agent in event.missing]
    lines += [_failure(call) for call in event.failed_agents]
    lines += [f"{each.agent_id} was disqualified: {each.reason}" for each in event.disqualified]
    lines += list(event.notes)
    if lines:
        yield Section("What did not happen as asked", (Items(lines),))


def _rounds(event: DeliberationCompleted) -> Iterator[Section]:
    if not event.rounds:
        return
    rows = []
    for report in event.rounds:
        means = [_mean(scores) for scores in (report.scores_before, report.scores_after)]
        kept = sum(similarity == 1 for similarity in report.similarity.values())
        rows.append(
            (
                str(report.round),
                *means,
                report.leader_before or "–",
                report.leader_after or "–",
                f"{len(report.similarity) - kept} of {len(report.similarity)}",
                f"{report.tokens:,}",
            )
        )
    head = ("round", "mean score before", "after", "leader before", "after", "texts changed", "tokens")
    yield Section("What the rounds changed", (Grid(head, rows),))


def _mean(scores: dict[str, float | None]) -> str:
    told = [score for score in scores.values() if score is not None]
    return number(fmean(told) if told else None)


def _cost(event: TerminalEvent) -> Section:
    rows = [(model, *_used(used), number(used.cost, 6)) for model, used in event.usage_by_model.items()]
    rows.append(("all", *_used(event.usage), number(event.cost, 6)))
    head = ("model", "calls", "failed", "prompt tokens", "of these cached", "completion tokens", "estimated", "cost")
    cost = (
        f"It cost {event.cost:,.6f}, in the currency of the prices that are set."
        if event.cost is not None
        else ("What it cost is not known: not every model server that was used has a price, or reported its tokens.")
    )
    if event.shadows is not None:
        rows.append(("shadows, apart", *_used(event.shadows.usage), number(event.shadows.cost, 6)))
    return Section("What it cost", (Prose(cost), Grid(head, rows)))


def _used(used: TotalUsage | ModelUsage) -> tuple[str, ...]:
    counts = (used.calls, used.failed_calls, used.prompt_tokens, used.cached_tokens, used.completion_tokens)
    return tuple("not reported" if one is None else f"{one:,}" for one in (*counts, used.estimated_tokens))
