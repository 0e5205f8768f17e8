"""What the reviewers said in a state, as scores and standings: of the final scores, and of a round's votes."""

from collections.abc import Mapping

from fleet.deliberation.prompts import shuffled_labels
from fleet.deliberation.ranking import PENALTY_POINTS, Standings, by_checks, by_score, by_votes
from fleet.deliberation.scoring import Given, card_score, weighted, weights
from fleet.deliberation.state import Deliberation
from fleet.messages import Check, Phase

REQUIREMENTS = "requirements"


def final_scores(state: Deliberation) -> list[Given]:
    """The score phase's scores, each reviewer's weighted means, in agent order."""
    rubric = weights(state.rubric)
    found = []
    for reviewer in state.agents:
        cards = state.scores.get(reviewer, ())
        scores = {card.author_id: card_score(card.criteria, rubric) for card in cards}
        found += _given(state, "score", state.round, reviewer, scores)
    return found


def votes(state: Deliberation, round_: int) -> list[Given]:
    """The scores that the critiques of one round gave to the texts as they stood."""
    rubric = weights(state.rubric)
    by_reviewer = {call.reviewer_id: call.critiques for call in state.critiques if call.round == round_}
    found = []
    for reviewer in state.agents:
        critiques = by_reviewer.get(reviewer, ())
        scores = {critique.author_id: weighted(critique.votes, rubric) for critique in critiques}
        found += _given(state, "critique", round_, reviewer, scores)
    return found


def _given(
    state: Deliberation, phase: Phase, round_: int, reviewer: str, scores: Mapping[str, float | None]
) -> list[Given]:
    if not scores:
        return []
    order = shown_order(state, phase, round_, reviewer)
    model = state.candidates[reviewer].proposal.model
    return [
        Given(
            reviewer=reviewer,
            author=author,
            score=score,
            position=order.index(author) + 1,
            shown=len(order),
            same_model=model == state.candidates[author].proposal.model,
        )
        for author, score in scores.items()
        if score is not None
    ]


def shown_order(state: Deliberation, phase: Phase, round_: int, reviewer: str) -> tuple[str, ...]:
    """The authors of the proposals that a reviewer was shown, in their order."""
    return tuple(shuffled_labels(state, reviewer, phase, round_).values())


def standings(state: Deliberation) -> Standings:
    """The ranking as it is now, by the selection that was asked for. (An architect chooses on top of it.)"""
    agents, texts, penalty = state.ranked_agents, _texts(state), penalties(state)
    if state.task.selection == "vote":
        ballots = [given for given in state.comparisons if given.phase == "vote"]
        return by_votes(agents, ballots, penalty, texts, comparisons=state.comparisons)
    if state.task.selection == "checks":
        return by_checks(agents, penalty, texts)
    return by_score(
        agents,
        final_scores(state),
        penalty,
        texts,
        tie_margin=state.task.tie_margin,
        comparisons=state.comparisons,
    )


def vote_standings(state: Deliberation, round_: int) -> Standings:
    """The ranking by the votes of one round's critiques. Checks are left aside: they are those of later texts."""
    return _plain(state, votes(state, round_))


def score_standings(state: Deliberation) -> Standings:
    """The ranking by the final scores alone, to be compared with that by votes."""
    return _plain(state, final_scores(state))


def _plain(state: Deliberation, given: list[Given]) -> Standings:
    agents = state.ranked_agents
    return by_score(agents, given, dict.fromkeys(agents, 0.0), _texts(state))


def penalties(state: Deliberation) -> dict[str, float]:
    """Points off, by agent: one for each check that failed, coverage of the requirements included."""
    return {
        agent: PENALTY_POINTS * sum(check.status == "failed" for check in checks_of(state, agent).values())
        for agent in state.ranked_agents
    }


def checks_of(state: Deliberation, agent: str) -> Mapping[str, Check]:
    """What the worker checked, and the coverage of the requirements as the reviewers saw it."""
    return {**state.candidates[agent].checks, REQUIREMENTS: _coverage(state, agent)}


def _coverage(state: Deliberation, agent: str) -> Check:
    """A requirement is missed when more than half of those who judged it say so."""
    requirements = state.task.requirements
    answers = [
        card.requirements_met
        for reviewer in state.agents
        for card in state.scores.get(reviewer, ())
        if card.author_id == agent and len(card.requirements_met) == len(requirements)
    ]
    if not requirements or not answers:
        return Check(status="not_applicable")
    missed = [sum(not answer[number] for answer in answers) for number in range(len(requirements))]
    findings = tuple(
        f"R{number} is not met, say {count} of {len(answers)} reviewers: {requirements[number - 1]}"
        for number, count in enumerate(missed, start=1)
        if 2 * count > len(answers)
    )
    return Check(status="failed" if findings else "passed", findings=findings)


def _texts(state: Deliberation) -> dict[str, str]:
    return {agent: state.candidates[agent].proposal.content for agent in state.ranked_agents}
