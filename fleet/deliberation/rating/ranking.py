"""Ranks proposals by scores, votes or checks. Neither an agent's number nor the order of arrival influences it.

The best score wins. Proposals within `TIE_POINTS` (or `options.tie_margin`) of the best are tied for the first place,
and decided by, in this order: the pairwise comparisons, if there were any; Borda points; the smaller SHA-256 of the
text, which is arbitrary, but the same whoever wrote it and wherever it sits. Equal scores further down stand in the
order of the last two. What nobody scored comes last, in agent order.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from fleet.deliberation.judges.rewards import ALONE
from fleet.deliberation.rating.chances import effective_reviewers, p_best
from fleet.deliberation.rating.fitting import Fit, fit
from fleet.deliberation.rating.obedience import counted, less_penalty, obeying
from fleet.deliberation.rating.scoring import Score, borda
from fleet.messages import Comparison, DecidedBy

TIE_POINTS = 0.005
"""Scores closer than this print alike."""
MOST_COMPARED = 3
"""More proposals than this tied for the first place are not compared: nothing separates them."""


@dataclass(frozen=True, slots=True)
class Standings:
    """An order, best first, and what it was computed from. `score` None: not scored. `confidence` None: one agent.
    `p_best`: only of scored ones, where there are two. `instead`: (reviewer, author) -> what counts for a score.
    """

    order: tuple[str, ...]
    score: Mapping[str, float | None]
    penalty: Mapping[str, float]
    fit: Fit = field(default_factory=Fit)
    instead: Mapping[tuple[str, str], float] = field(default_factory=dict)
    borda: Mapping[str, float] = field(default_factory=dict)
    votes: Mapping[str, int] = field(default_factory=dict)
    tied: tuple[str, ...] = ()
    separable: bool = True
    """Whether any reviewer gave two different scores; reviewers who never do are not asked to compare."""
    decided_by: DecidedBy = "score"
    margin: float | None = None
    confidence: float | None = None
    p_best: Mapping[str, float] = field(default_factory=dict)
    effective_reviewers: float | None = None


def by_score(
    agents: Sequence[str],
    scores: Sequence[Score],
    penalty: Mapping[str, float],
    texts: Mapping[str, str],
    *,
    models: Mapping[str, str],
    faulty: Collection[str] = (),
    tie_margin: float = 0.0,
    comparisons: Iterable[Comparison] = (),
) -> Standings:
    """Ranks by adjusted score less penalty, `faulty` ones behind all others. `agents` gives the order of what nobody
    scored; `models`: by reviewer.
    """
    instead = obeying(scores, penalty, faulty)
    scores = counted(scores, instead)
    fitted, points = fit(scores), borda(scores)
    score: dict[str, float | None] = dict.fromkeys(agents)
    for agent, quality in fitted.quality.items():
        score[agent] = less_penalty(quality, penalty[agent])
    scored = {agent: value for agent, value in score.items() if value is not None}
    if not scored:
        confidence = 0.0 if len(agents) > 1 else None
        return Standings(tuple(agents), score, penalty, decided_by="agent_order", confidence=confidence)
    first_tier = [agent for agent in scored if agent not in faulty] or list(scored)
    best = max(scored[agent] for agent in first_tier)
    margin = max(TIE_POINTS, tie_margin)
    tied = tuple(agent for agent in agents if agent in first_tier and round(best - scored[agent], 4) <= margin)
    wins = comparison_wins(tied, comparisons)
    # Within a margin that the request widened, a better score still counts, after the comparisons.
    level = tie_margin <= TIE_POINTS
    key = {
        agent: (
            agent not in first_tier,
            agent not in tied,
            -wins.get(agent, 0.0),
            0.0 if level and agent in tied else -value,
            -points.get(agent, 0.0),
            text_hash(texts[agent]),
        )
        for agent, value in scored.items()
    }
    ranked = sorted(scored, key=lambda agent: key[agent])
    order = (*ranked, *(agent for agent in agents if agent not in scored))
    return Standings(
        order,
        score,
        penalty,
        fit=fitted,
        instead=instead,
        borda=points,
        tied=tied if len(tied) > 1 else (),
        separable=_separable(scores),
        decided_by=_decided_by(ranked, key, tied, scored),
        margin=round(scored[ranked[0]] - scored[ranked[1]], 4) if len(ranked) > 1 else None,
        confidence=_confidence(order, scores) if len(agents) > 1 else None,
        p_best=_chances(fitted, scores, models, ranked, first_tier),
        effective_reviewers=effective_reviewers(fitted, scores, models),
    )


def by_votes(
    agents: Sequence[str],
    ballots: Sequence[Comparison],
    penalty: Mapping[str, float],
    texts: Mapping[str, str],
    *,
    faulty: Collection[str] = (),
    comparisons: Iterable[Comparison] = (),
) -> Standings:
    """Ranks by votes, `faulty` ones behind all others; equals by fewer failed checks, comparisons, the smaller hash.
    Without any vote: agent order.
    """
    votes = {agent: sum(ballot.chosen == agent for ballot in ballots) for agent in agents}
    unscored: dict[str, float | None] = dict.fromkeys(agents)
    if not ballots:
        confidence = 0.0 if len(agents) > 1 else None
        return Standings(tuple(agents), unscored, penalty, decided_by="agent_order", confidence=confidence)
    first_tier = [agent for agent in agents if agent not in faulty] or list(agents)
    most = max(votes[agent] for agent in first_tier)
    clean = min(penalty[agent] for agent in first_tier if votes[agent] == most)
    tied = tuple(agent for agent in first_tier if votes[agent] == most and penalty[agent] == clean)
    wins = comparison_wins(tied, comparisons)
    order = tuple(
        sorted(
            agents,
            key=lambda agent: (
                agent not in first_tier,
                -votes[agent],
                penalty[agent],
                -wins.get(agent, 0.0),
                text_hash(texts[agent]),
            ),
        )
    )
    if len(order) < 2:
        return Standings(order, unscored, penalty, votes=votes, decided_by="votes", confidence=0.0)
    first, second = order[:2]
    decided_by: DecidedBy = "checks" if votes[first] < max(votes.values()) else "votes"
    if votes[first] == votes[second]:
        decided_by = "checks" if penalty[first] != penalty[second] else "text_hash"
        if decided_by == "text_hash" and wins.get(first, 0.0) != wins.get(second, 0.0):
            decided_by = "comparison"
    able = [ballot for ballot in ballots if ballot.reviewer_id != first]
    share = sum(ballot.chosen == first for ballot in able) / len(able) if able else 0.0
    return Standings(
        order,
        unscored,
        penalty,
        votes=votes,
        tied=tied if len(tied) > 1 else (),
        decided_by=decided_by,
        margin=float(votes[first] - votes[second]),
        # Of two, each can only name the other: that is no verdict.
        confidence=round(min(1.0, len(ballots) / len(agents)) * (share if len(agents) > 2 else 0.5), 4),
    )


def by_checks(agents: Sequence[str], penalty: Mapping[str, float], texts: Mapping[str, str]) -> Standings:
    """Ranks by fewer failed checks, then the smaller hash: nobody was asked, so there is no score and no confidence."""
    order = tuple(sorted(agents, key=lambda agent: (penalty[agent], text_hash(texts[agent]))))
    best = tuple(agent for agent in agents if penalty[agent] == penalty[order[0]])
    return Standings(
        order,
        dict.fromkeys(agents),
        penalty,
        tied=best if len(best) > 1 else (),
        separable=False,
        decided_by="text_hash" if len(best) > 1 else "checks",
        confidence=0.0 if len(agents) > 1 else None,
    )


def preferring(standings: Standings, chosen: str, scores: Sequence[Score]) -> Standings:
    """The standings with one proposal put first; margin (negative, perhaps) and confidence are those of that order."""
    order = (chosen, *(agent for agent in standings.order if agent != chosen))
    first, second = (standings.score[agent] for agent in order[:2])
    return replace(
        standings,
        order=order,
        decided_by="architect",
        margin=None if first is None or second is None else round(first - second, 4),
        confidence=_confidence(order, counted(scores, standings.instead)),
    )


def with_copies(standings: Standings, same: Mapping[str, str], penalty: Mapping[str, float]) -> Standings:
    """Each copy right behind its original, with what was said of that. `same`: copy -> original."""
    if not same:
        return standings
    order = [
        agent for original in standings.order for agent in (original, *(c for c, of in same.items() if of == original))
    ]
    return replace(
        standings,
        order=tuple(order),
        score={agent: standings.score[same.get(agent, agent)] for agent in order},
        penalty=penalty,
        borda={
            agent: standings.borda[same.get(agent, agent)]
            for agent in order
            if same.get(agent, agent) in standings.borda
        },
    )


def shortlist(standings: Standings, most: int, faulty: Collection[str], same: Collection[str]) -> tuple[str, ...]:
    """The best, each text once; proposals with a fault only where the winner has one."""
    eligible = [agent for agent in standings.order if agent not in same]
    return tuple(agent for agent in eligible if (agent in faulty) == (eligible[0] in faulty))[:most]


def pairs_to_compare(standings: Standings, reviewers: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs among those tied for the first place, where somebody is left to judge them."""
    if not (standings.separable and 2 <= len(standings.tied) <= MOST_COMPARED and len(reviewers) > 2):
        return []
    return list(combinations(standings.tied, 2))


def comparison_wins(tied: Sequence[str], comparisons: Iterable[Comparison]) -> dict[str, float]:
    """Agent -> points. A reviewer gives a pair's point to the one it chose in both orders, else half to each."""
    chosen: dict[tuple[str, frozenset[str]], list[str]] = {}
    for choice in comparisons:
        if choice.phase == "compare" and set(choice.order) <= set(tied):
            chosen.setdefault((choice.reviewer_id, frozenset(choice.order)), []).append(choice.chosen)
    wins = dict.fromkeys(tied, 0.0) if chosen else {}
    for (_, pair), verdicts in chosen.items():
        agreed = len(verdicts) == 2 and verdicts[0] == verdicts[1]
        for agent in pair:
            wins[agent] += (agent == verdicts[0]) if agreed else 0.5
    return wins


def text_hash(text: str) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()


def _chances(
    fitted: Fit, scores: Sequence[Score], models: Mapping[str, str], ranked: Sequence[str], first_tier: Sequence[str]
) -> dict[str, float]:
    """Of proposals with a fault 0, where there are others."""
    if len(ranked) < 2:
        return {}
    return dict.fromkeys(ranked, 0.0) | p_best(fitted, scores, models, [name for name in ranked if name in first_tier])


def _decided_by(
    ranked: Sequence[str], key: Mapping[str, Sequence[object]], tied: Sequence[str], scored: Mapping[str, float]
) -> DecidedBy:
    if len(tied) > 1:
        return _deciding(key[ranked[0]], key[ranked[1]])
    return "checks" if scored[ranked[0]] < max(scored.values()) else "score"


def _deciding(first: Sequence[object], second: Sequence[object]) -> DecidedBy:
    """The rule that separates the first from the second of those that are tied, by their sort keys."""
    rules: tuple[DecidedBy, ...] = ("comparison", "score", "borda", "text_hash")
    for rule, one, other in zip(rules, first[2:], second[2:], strict=True):
        if one != other:
            return rule
    return "agent_order"


def _of_members(scores: Sequence[Score]) -> list[Score]:
    return [one for one in scores if one.position != ALONE]


def _separable(scores: Sequence[Score]) -> bool:
    told = _of_members(scores)
    return len({(one.reviewer, one.level) for one in told}) > len({one.reviewer for one in told})


def _confidence(order: Sequence[str], scores: Sequence[Score]) -> float:
    """Share of the scores asked for that came (of copies more may come: at most 1), times the share of the reviewers
    who saw the first two and put the first one higher (equal counts half; nobody saw both: one half). Judges that are
    no members do not enter it.
    """
    pairs = len(order) * (len(order) - 1)
    scores = _of_members(scores)
    by_reviewer: dict[str, dict[str, float]] = {}
    for one in scores:
        by_reviewer.setdefault(one.reviewer, {})[one.author] = one.level
    first, second = order[:2]
    verdicts = [
        1.0 if cards[first] > cards[second] else 0.5 if cards[first] == cards[second] else 0.0
        for cards in by_reviewer.values()
        if first in cards and second in cards
    ]
    agreement = sum(verdicts) / len(verdicts) if verdicts else 0.5
    return round(min(1.0, len(scores) / pairs) * agreement, 4)
