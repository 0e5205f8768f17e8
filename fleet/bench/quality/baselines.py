"""Ranks the same scores in simpler ways, to compare with the core's ranking."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import fmean

from fleet.deliberation.rating.scoring import Score, borda

AGGREGATORS = ("raw_mean", "borda", "copeland")


def points(name: str, scores: Sequence[Score]) -> Mapping[str, float]:
    """Author -> points by one of `AGGREGATORS`."""
    return {"raw_mean": raw_mean, "borda": borda, "copeland": copeland}[name](scores)


def raw_mean(scores: Iterable[Score]) -> dict[str, float]:
    """Author -> mean of its scores."""
    by_author: dict[str, list[float]] = {}
    for judgement in scores:
        by_author.setdefault(judgement.author, []).append(judgement.score)
    return {author: round(fmean(scores_of_author), 9) for author, scores_of_author in by_author.items()}


def copeland(scores: Iterable[Score]) -> dict[str, float]:
    """Author -> duels won (a draw: half), each decided by the reviewers who scored both."""
    by_reviewer: dict[str, dict[str, float]] = {}
    for judgement in scores:
        by_reviewer.setdefault(judgement.reviewer, {})[judgement.author] = judgement.score
    won = dict.fromkeys(sorted({author for cards in by_reviewer.values() for author in cards}), 0.0)
    for one, other in combinations(won, 2):
        both = [cards for cards in by_reviewer.values() if one in cards and other in cards]
        lead = sum((cards[one] > cards[other]) - (cards[one] < cards[other]) for cards in both)
        won[one] += 1.0 if lead > 0 else 0.5 if lead == 0 else 0.0
        won[other] += 1.0 if lead < 0 else 0.5 if lead == 0 else 0.0
    return won


def share_of_win(points: Mapping[str, float], author: str) -> float:
    """1 where `author` alone has the most points, 1/k where k share them, else 0."""
    if not points or points.get(author, -1.0) < max(points.values()):
        return 0.0
    return 1 / sum(value == points[author] for value in points.values())
