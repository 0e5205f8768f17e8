"""Builds the parts of a result that explain it. Every number can be computed again from the reviews in the result."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec import structs

from fleet.deliberation.labels import shown_order
from fleet.deliberation.rating.judging import choice_of, chooser_of, round_standings, score_standings
from fleet.deliberation.rating.ranking import Standings
from fleet.deliberation.rating.scoring import card_score, weighted, weights
from fleet.deliberation.state import Deliberation
from fleet.messages import (
    AcceptedConstraints,
    AcceptedOptions,
    AcceptedTask,
    Disqualified,
    Phase,
    Ranking,
    Review,
    RoundReport,
    Scorecard,
    Selection,
)

AS_SENT = ("task_description", "role", "num_agents", "rounds", "priority", "correlation")


def task(state: Deliberation) -> AcceptedTask:
    """The request as it was accepted, with the rubric that counts."""
    fields = structs.asdict(state.task)
    rubric = state.rubric if isinstance(state.rubric, str) else dict(weights(state.rubric))
    constraints = {name: fields[name] for name in AcceptedConstraints.__struct_fields__} | {"rubric": rubric}
    return AcceptedTask(
        task_id=state.name.task_id,
        constraints=AcceptedConstraints(**constraints),
        options=AcceptedOptions(**{name: _or_null(fields[name]) for name in AcceptedOptions.__struct_fields__}),
        **{name: fields[name] for name in AS_SENT},
    )


def _or_null(value: Any) -> Any:
    """An empty list of seats is an error in a request."""
    return None if value == () else value


def reviews(
    state: Deliberation,
    author: str,
    final: Standings,
    judged: Mapping[tuple[str, str], float],
    same: Mapping[str, str],
) -> tuple[Review, ...]:
    """Critiques in the order of their rounds, then scores, each in reviewer order; then what judges gave.

    `judged`: what that comes to, by judge and author; `same`: copy -> original.
    """
    place = {agent: index for index, agent in enumerate(state.agents)}
    rubric = weights(state.rubric)
    original = same.get(author, author)

    def adjusted(reviewer: str, score: float | None) -> float | None:
        return None if score is None else final.fit.adjusted.get((reviewer, original))

    critiques = [
        Review(
            reviewer_id=call.reviewer_id,
            phase="critique",
            round=call.round,
            position=_place(state, "critique", call.round, call.reviewer_id, author),
            strengths=critique.strengths,
            weaknesses=critique.weaknesses,
            changes=critique.changes,
            scores=critique.scores,
            score=score,
            adjusted=adjusted(call.reviewer_id, score),
            counted_as=final.instead.get((call.reviewer_id, original)) if score is not None else None,
        )
        for call in sorted(state.critiques, key=lambda call: (call.round, place[call.reviewer_id]))
        for critique in call.critiques
        if critique.author_id == author
        for score in (weighted(critique.scores, rubric) if call.round == state.verdict_round else None,)
    ]
    scores = [
        Review(
            reviewer_id=reviewer,
            phase="score",
            round=state.round,
            reading=reading,
            position=order.index(author) + 1,
            criteria=card.criteria,
            requirements_met=card.requirements_met,
            score=score,
            adjusted=adjusted(reviewer, score),
            counted_as=final.instead.get((reviewer, original)),
        )
        for reviewer in state.agents
        for reading, order, cards in _readings(state, reviewer)
        for card in cards
        if card.author_id == author
        for score in (card_score(card.criteria, rubric),)
    ]
    return (*critiques, *scores, *_of_judges(state, author, judged, adjusted))


def _of_judges(
    state: Deliberation,
    author: str,
    judged: Mapping[tuple[str, str], float],
    adjusted: Callable[[str, float | None], float | None],
) -> Iterator[Review]:
    for judge in state.judges:
        if (reward := state.rewards.get(judge.judge_id, {}).get(author)) is not None:
            score = judged.get((judge.judge_id, author))
            yield Review(
                reviewer_id=judge.judge_id,
                phase="score",
                round=state.round,
                score=score,
                adjusted=adjusted(judge.judge_id, score),
                reward=reward,
            )


def _readings(state: Deliberation, reviewer: str) -> Iterator[tuple[int, tuple[str, ...], tuple[Scorecard, ...]]]:
    """Number, order as shown, and scores of each reading of the score phase."""
    if reviewer in state.scores:
        yield 1, shown_order(state, "score", state.round, reviewer), state.scores[reviewer]
    if reviewer in state.second_scores:
        yield 2, state.second_orders[reviewer], state.second_scores[reviewer]


def _place(state: Deliberation, phase: Phase, round_: int, reviewer: str, author: str) -> int:
    return shown_order(state, phase, round_, reviewer).index(author) + 1


def ranking(state: Deliberation, final: Standings) -> Ranking:
    """How the order came about."""
    return Ranking(
        method="score" if state.task.selection == "architect" else state.task.selection,
        leniency=dict(final.fit.leniency),
        leniency_weight=final.fit.leniency_weight,
        effects={"same_model": final.fit.same_model} if final.fit.quality else {},
        error=final.fit.error,
        effective_reviewers=final.effective_reviewers,
        tied=final.tied,
        decided_by=final.decided_by,
    )


def notes_on_obedience(final: Standings) -> tuple[str, ...]:
    """Which scores count as something else, and why."""
    return tuple(
        f"a full score of {reviewer} for {author} counts as {value:g}: it alone would put that first, far above what "
        "others say"
        for (reviewer, author), value in sorted(final.instead.items())
    )


def selection(state: Deliberation, candidates: tuple[str, ...]) -> Selection | None:
    """The architect's choice among the `candidates`, where one was asked."""
    if not any(record.phase == "choose" for record in state.phases):
        return None
    chosen, contradicted = choice_of(state)
    return Selection(
        chooser_id=chooser_of(state),
        candidates=candidates,
        chosen=chosen,
        contradicted=contradicted,
    )


def rounds(state: Deliberation) -> tuple[RoundReport, ...]:
    """What each round that was run changed."""
    return tuple(_round(state, number) for number in range(1, state.rounds_run + 1))


def _round(state: Deliberation, number: int) -> RoundReport:
    before = round_standings(state, number)
    last = number == state.rounds_run
    after = score_standings(state) if last and state.scores else round_standings(state, number + 1)
    leaders = [_leader(standing) for standing in (before, after)]
    return RoundReport(
        round=number,
        scores_before=dict(before.score),
        scores_after=dict(after.score),
        leader_before=leaders[0],
        leader_after=leaders[1],
        winner_changed=leaders[0] != leaders[1] if None not in leaders else None,
        similarity={
            agent: state.candidates[agent].similarity[number]
            for agent in state.ranked_agents
            if number in state.candidates[agent].similarity
        },
        tokens=sum(
            record.tokens
            for record in state.phases
            if record.round == number and record.phase in ("critique", "revise")
        ),
    )


def _leader(standing: Standings) -> str | None:
    """None where nobody scored anything."""
    first = standing.order[0]
    return None if standing.score[first] is None else first


def disqualified(state: Deliberation) -> tuple[Disqualified, ...]:
    """Agents whose proposals broke the format that the request set."""
    if state.task.output_schema is None:
        return ()
    return tuple(
        Disqualified(agent_id=failed.agent_id, reason=failed.error)
        for agent in state.agents
        for failed in state.failures
        if failed.agent_id == agent and failed.phase == "propose" and failed.error_type == "InvalidAnswer"
    )
