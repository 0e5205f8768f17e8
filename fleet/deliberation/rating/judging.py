"""Turns what reviewers answered into scores and rankings: final ones, and those of one round's critiques."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import fsum

from fleet.deliberation.judges.rewards import ALONE, as_scores
from fleet.deliberation.labels import shown_order
from fleet.deliberation.rating.faults import Examined, examined
from fleet.deliberation.rating.ranking import (
    Standings,
    by_checks,
    by_score,
    by_votes,
    comparison_wins,
    preferring,
    shortlist,
    with_copies,
)
from fleet.deliberation.rating.scoring import Score, weighted, weights
from fleet.deliberation.state import Deliberation
from fleet.messages import Comparison, Scorecard

CHOOSER_ROLE = "ARCHITECT"
SYNTHESIS = "synthesis"
"""Stands for the merged text where agents stand for their proposals."""


def final_scores(state: Deliberation) -> list[Score]:
    """What counts in the end, each reviewer's weighted means, in agent order; then what judges' rewards come to.

    The score phase's scores, or those of the critiques that settled the verdict. What a reviewer read twice has one
    score, the mean, at its first place.
    """
    if state.verdict_round:
        return round_scores(state, state.verdict_round)
    rubric = weights(state.rubric)
    scores: list[Score] = []
    for reviewer in state.agents:
        order = shown_order(state, "score", state.round, reviewer) if reviewer in state.scores else ()
        scores += _scores(state, order, reviewer, _points(state.scores.get(reviewer, ())), rubric)
        again = _points(state.second_scores.get(reviewer, ()))
        scores += _scores(state, state.second_orders.get(reviewer, ()), reviewer, again, rubric, reading=2)
    scores = pooled(scores, {})
    return [*scores, *(score for judge in state.judges for score in _of_judge(state, judge.judge_id, scores))]


def judges_scores(state: Deliberation) -> dict[tuple[str, str], float]:
    """Those of `final_scores` that are judges', by judge and author."""
    scores = final_scores(state) if state.rewards else []
    return {(one.reviewer, one.author): one.score for one in scores if one.position == ALONE}


def _of_judge(state: Deliberation, judge: str, scores: Sequence[Score]) -> list[Score]:
    given = state.rewards.get(judge, {})
    rewards = {author: given[author] for author in state.ranked_agents if author in given}
    return as_scores(judge, rewards, scores, _models(state))


def _points(cards: Sequence[Scorecard]) -> dict[str, dict[str, float]]:
    """Author -> criterion -> score."""
    return {card.author_id: {name: each.score for name, each in card.criteria.items()} for card in cards}


def round_scores(state: Deliberation, round_: int) -> list[Score]:
    """The scores that the critiques of one round gave to the texts as they stood."""
    rubric = weights(state.rubric)
    by_reviewer = {call.reviewer_id: call.critiques for call in state.critiques if call.round == round_}
    scores: list[Score] = []
    for reviewer in state.agents:
        critiques = by_reviewer.get(reviewer, ())
        if critiques:
            order = shown_order(state, "critique", round_, reviewer)
            by_author = {critique.author_id: critique.scores for critique in critiques}
            scores += _scores(state, order, reviewer, by_author, rubric)
    return scores


def _scores(
    state: Deliberation,
    order: Sequence[str],
    reviewer: str,
    by_author: Mapping[str, Mapping[str, float]],
    rubric: Mapping[str, float],
    *,
    reading: int = 1,
) -> list[Score]:
    """`order`: as they were shown."""
    if not by_author:
        return []
    model = state.candidates[reviewer].proposal.model
    return [
        Score(
            reviewer=reviewer,
            author=author,
            score=score,
            position=order.index(author) + 1,
            shown=len(order),
            same_model=model == state.candidates[author].proposal.model,
            reading=reading,
            points=tuple(value for name, value in points.items() if name in rubric),
        )
        for author, points in by_author.items()
        if (score := weighted(points, rubric)) is not None
    ]


def standings(state: Deliberation, found: Examined | None = None) -> Standings:
    """The ranking by the answers so far and the selection that the task asks for, before an architect's choice.

    Identical texts are one proposal: what was said of one of them counts for all.
    """
    found = found or examined(state)
    return with_copies(_of_distinct_texts(state, found), found.copies, found.penalties)


def _of_distinct_texts(state: Deliberation, found: Examined) -> Standings:
    same = found.copies
    agents = tuple(agent for agent in state.ranked_agents if agent not in same)
    texts, penalty, faults = _texts(state), found.penalties, found.faulty
    comparisons = _of_originals(state.comparisons, same)
    if state.task.selection == "vote":
        ballots = [choice for choice in comparisons if choice.phase == "vote"]
        return by_votes(agents, ballots, penalty, texts, faulty=faults, comparisons=comparisons)
    if state.task.selection == "checks":
        return by_checks(agents, penalty, texts)
    return by_score(
        agents,
        pooled(final_scores(state), same),
        penalty,
        texts,
        models=_models(state),
        faulty=faults,
        tie_margin=state.task.tie_margin,
        comparisons=comparisons,
    )


def pooled(scores: Sequence[Score], same: Mapping[str, str]) -> list[Score]:
    """The scores with those that one reviewer gave to one text as one, their mean, at the first one's place.

    `same`: copy -> original.
    """
    together: dict[tuple[str, str], list[Score]] = {}
    for one in scores:
        together.setdefault((one.reviewer, same.get(one.author, one.author)), []).append(one)
    return [
        replace(
            group[0],
            author=author,
            score=fsum(one.score for one in group) / len(group),
            points=tuple(point for one in group for point in one.points),
        )
        for (_, author), group in together.items()
    ]


def _of_originals(comparisons: Sequence[Comparison], same: Mapping[str, str]) -> tuple[Comparison, ...]:
    return tuple(choice.change(chosen=same.get(choice.chosen, choice.chosen)) for choice in comparisons)


def shortlisted(state: Deliberation) -> tuple[str, ...]:
    """Among which an architect chooses, and which a synthesis merges."""
    found = examined(state)
    return shortlist_of(state, final_standings(state, found), found)


def shortlist_of(state: Deliberation, final: Standings, found: Examined) -> tuple[str, ...]:
    """`shortlisted`, by what is known already."""
    return shortlist(final, state.task.top_k, found.faulty, found.copies)


def synthesis_is_better(state: Deliberation) -> bool | None:
    """Whether the merged text got more than half of the points against the winner; None: nobody compared them."""
    if state.synthesis is None:
        return None
    pair = (state.synthesis.author_id, SYNTHESIS)
    wins = comparison_wins(pair, state.comparisons)
    return wins[SYNTHESIS] > wins[pair[0]] if wins else None


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


def final_standings(state: Deliberation, found: Examined) -> Standings:
    """The ranking, with the architect's choice in front."""
    ranked, same = _of_distinct_texts(state, found), found.copies
    chosen, _ = choice_of(state)
    if chosen is not None:
        ranked = preferring(ranked, chosen, pooled(final_scores(state), same))
    return with_copies(ranked, same, found.penalties)


def round_standings(state: Deliberation, round_: int) -> Standings:
    """The ranking by one round's critiques. Checks are left out: they were made of later texts."""
    return _plain(state, round_scores(state, round_))


def score_standings(state: Deliberation) -> Standings:
    """The ranking by the final scores alone, to compare with `round_standings`."""
    return _plain(state, final_scores(state))


def _plain(state: Deliberation, scores: list[Score]) -> Standings:
    agents = state.ranked_agents
    return by_score(agents, scores, dict.fromkeys(agents, 0.0), _texts(state), models=_models(state))


def _texts(state: Deliberation) -> dict[str, str]:
    return {agent: state.candidates[agent].proposal.content for agent in state.ranked_agents}


def _models(state: Deliberation) -> dict[str, str]:
    """By reviewer; a judge's is that of its first reward, in agent order."""
    models = {agent: state.candidates[agent].proposal.model for agent in state.ranked_agents}
    for judge, given in state.rewards.items():
        models[judge] = next(given[agent].model for agent in state.ranked_agents if agent in given)
    return models
