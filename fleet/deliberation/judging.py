"""Turns what reviewers answered into scores and rankings: final ones, and those of one round's critiques."""

from collections.abc import Mapping

from fleet.deliberation.labels import shown_order
from fleet.deliberation.ranking import PENALTY_POINTS, Standings, by_checks, by_score, by_votes, preferring
from fleet.deliberation.scoring import Score, card_score, weighted, weights
from fleet.deliberation.state import Deliberation
from fleet.messages import Check, Phase

CHOOSER_ROLE = "ARCHITECT"
REQUIREMENTS = "requirements"


def final_scores(state: Deliberation) -> list[Score]:
    """The score phase's scores, each reviewer's weighted means, in agent order."""
    rubric = weights(state.rubric)
    scores: list[Score] = []
    for reviewer in state.agents:
        cards = state.scores.get(reviewer, ())
        by_author = {card.author_id: card_score(card.criteria, rubric) for card in cards}
        scores += _scores(state, "score", state.round, reviewer, by_author)
    return scores


def round_scores(state: Deliberation, round_: int) -> list[Score]:
    """The scores that the critiques of one round gave to the texts as they stood."""
    rubric = weights(state.rubric)
    by_reviewer = {call.reviewer_id: call.critiques for call in state.critiques if call.round == round_}
    scores: list[Score] = []
    for reviewer in state.agents:
        critiques = by_reviewer.get(reviewer, ())
        by_author = {critique.author_id: weighted(critique.scores, rubric) for critique in critiques}
        scores += _scores(state, "critique", round_, reviewer, by_author)
    return scores


def _scores(
    state: Deliberation, phase: Phase, round_: int, reviewer: str, by_author: Mapping[str, float | None]
) -> list[Score]:
    if not by_author:
        return []
    order = shown_order(state, phase, round_, reviewer)
    model = state.candidates[reviewer].proposal.model
    return [
        Score(
            reviewer=reviewer,
            author=author,
            score=score,
            position=order.index(author) + 1,
            shown=len(order),
            same_model=model == state.candidates[author].proposal.model,
        )
        for author, score in by_author.items()
        if score is not None
    ]


def standings(state: Deliberation) -> Standings:
    """The ranking by the answers so far and the selection that the task asks for, before an architect's choice."""
    agents, texts, penalty = state.ranked_agents, _texts(state), penalties(state)
    if state.task.selection == "vote":
        ballots = [choice for choice in state.comparisons if choice.phase == "vote"]
        return by_votes(agents, ballots, penalty, texts, comparisons=state.comparisons)
    if state.task.selection == "checks":
        return by_checks(agents, penalty, texts)
    return by_score(
        agents,
        final_scores(state),
        penalty,
        texts,
        models=_models(state),
        tie_margin=state.task.tie_margin,
        comparisons=state.comparisons,
    )


def chooser_of(state: Deliberation) -> str:
    """The architect who chooses is no member of the council: its number follows theirs."""
    members = sum(state.role_of(agent) == CHOOSER_ROLE for agent in state.agents)
    return f"agent-{CHOOSER_ROLE.lower()}-{members + 1:03d}"


def choice_of(state: Deliberation) -> tuple[str | None, bool]:
    """(the author that the architect chose in both orders, whether it contradicted itself)."""
    chosen = [choice.chosen for choice in state.comparisons if choice.phase == "choose"]
    if len(chosen) < 2:
        return None, False
    return (chosen[0], False) if chosen[0] == chosen[1] else (None, True)


def final_standings(state: Deliberation) -> Standings:
    """The ranking, with the architect's choice in front."""
    ranked = standings(state)
    chosen, _ = choice_of(state)
    return ranked if chosen is None else preferring(ranked, chosen, final_scores(state))


def round_standings(state: Deliberation, round_: int) -> Standings:
    """The ranking by one round's critiques. Checks are left out: they were made of later texts."""
    return _plain(state, round_scores(state, round_))


def score_standings(state: Deliberation) -> Standings:
    """The ranking by the final scores alone, to compare with `round_standings`."""
    return _plain(state, final_scores(state))


def _plain(state: Deliberation, scores: list[Score]) -> Standings:
    agents = state.ranked_agents
    return by_score(agents, scores, dict.fromkeys(agents, 0.0), _texts(state), models=_models(state))


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


def _models(state: Deliberation) -> dict[str, str]:
    return {agent: state.candidates[agent].proposal.model for agent in state.ranked_agents}
