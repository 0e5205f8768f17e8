"""Computes one number per proposal from the reviewers' scores. A proposal without scores gets none.

Reviewers differ in leniency, are swayed by the order in which they are shown proposals, and like what their own model
writes. So the scores are taken apart, by least squares, into

    score = quality[author] + leniency[reviewer] + position · x + same_model · y

with x = p − mean(p) over the m places that a reviewer was shown, where p = (1/k − 1/m) / (1 − 1/m) at place k: 1 for
what stands first, 0 for the last, most of the fall right behind the first (x = 0 where one is shown); and y = 1 where
reviewer and author run the same model, else 0, less its mean. Both effects are shrunk as if one more unit of evidence
had said 0, so that few scores make small corrections. Leniency is shrunk by how little of it there is (empirical
Bayes): as if w = 1 / (mean square of the leniencies, fitted alone), at most 1, more scores had said 0. So reviewers
who differ by less than scores err anyway are left almost as they are, and harsh and mild ones count alike. (A constant
between quality and leniency is free: leniencies, each as often as its reviewer scored, sum to 0.) Only `quality` ranks.
(Many-facet judging, as in Linacre 1989; the effects are those that Wang et al. 2023, arXiv:2305.17926, and Panickssery
et al. 2024, arXiv:2404.13076, measured.)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import fsum

from fleet.messages import CriterionScore

DEFAULT_RUBRIC: Mapping[str, float] = {"correctness": 3.0, "completeness": 2.0, "clarity": 1.0}
OVERALL = "overall"
PRIOR_WEIGHT = 1.0
"""How much evidence for "none" each of `EFFECTS` starts with, in units of its own sum of squares."""
_STEADY = 1e-8
_MOST_PASSES = 500
_DIGITS = 6


def weights(rubric: str | dict[str, float] | None) -> Mapping[str, float]:
    """Criterion -> weight. A rubric in prose is one criterion, `overall`."""
    if rubric is None:
        return DEFAULT_RUBRIC
    return {OVERALL: 1.0} if isinstance(rubric, str) else rubric


def weighted(scores: Mapping[str, float], rubric: Mapping[str, float]) -> float | None:
    """Mean (0 … 10) over the criteria that one reviewer scored, by their weights; None when it scored none."""
    pairs = [(rubric[name], score) for name, score in scores.items() if name in rubric]
    total = fsum(weight for weight, _ in pairs)
    return fsum(weight * score for weight, score in pairs) / total if total else None


def card_score(criteria: Mapping[str, CriterionScore], rubric: Mapping[str, float]) -> float | None:
    """`weighted` of a scorecard."""
    return weighted({name: criterion.score for name, criterion in criteria.items()}, rubric)


@dataclass(frozen=True, slots=True)
class Score:
    """One score: by whom, for whose proposal, and at which place (1 …) of how many it was shown."""

    reviewer: str
    author: str
    score: float
    position: int
    shown: int
    same_model: bool = True


EFFECTS = ("position", "same_model")


def columns(scores: Sequence[Score]) -> tuple[list[float], ...]:
    """x and y of each score, in the order of `EFFECTS`."""
    alike = fsum(one.same_model for one in scores) / max(1, len(scores))
    return (
        [_place_weights(one.shown)[one.position - 1] for one in scores],
        [one.same_model - alike for one in scores],
    )


@cache
def _place_weights(shown: int) -> tuple[float, ...]:
    """x by place: the first one's is the greatest, and all together are 0."""
    if shown < 2:
        return (0.0,)
    fall = [(1 / place - 1 / shown) / (1 - 1 / shown) for place in range(1, shown + 1)]
    return tuple(value - fsum(fall) / shown for value in fall)


@dataclass(frozen=True, slots=True)
class Fit:
    """The scores taken apart. `quality` has only those that somebody scored; it is the mean of their `adjusted`."""

    quality: Mapping[str, float] = field(default_factory=dict)
    leniency: Mapping[str, float] = field(default_factory=dict)
    leniency_weight: float = 1.0
    """w of the formula above."""
    effects: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(EFFECTS, 0.0))
    """By the names in `EFFECTS`."""
    adjusted: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """By (reviewer, author): the score less leniency and effects."""


def fit(scores: Sequence[Score]) -> Fit:
    """Least squares by turns, until nothing moves. Sums are exact, so the order of `scores` never shows."""
    if not scores:
        return Fit()
    nothing = [0.0] * len(scores)
    alone = _solve(scores, nothing, nothing, 0.0)
    spread = fsum(value * value for value in alone.leniency.values()) / len(alone.leniency)
    x, y = columns(scores)
    return _solve(scores, x, y, min(1.0, 1 / spread) if spread else 1.0)


def _solve(scores: Sequence[Score], x: Sequence[float], y: Sequence[float], weight: float) -> Fit:
    """`weight`: how many more scores of 0 each leniency is shrunk by."""
    count = range(len(scores))
    author, reviewer = [one.author for one in scores], [one.reviewer for one in scores]
    by_author, by_reviewer = _places(author), _places(reviewer)
    room_x, room_y = (fsum(value * value for value in part) + PRIOR_WEIGHT for part in (x, y))
    score = [one.score for one in scores]

    quality = {name: fsum(score[i] for i in at) / len(at) for name, at in by_author.items()}
    leniency = dict.fromkeys(by_reviewer, 0.0)
    position = same_model = 0.0
    for _ in range(_MOST_PASSES):
        before = (position, same_model, *quality.values(), *leniency.values())
        plain = [score[i] - position * x[i] - same_model * y[i] for i in count]
        leniency = {
            name: fsum([plain[i] - quality[author[i]] for i in at]) / (len(at) + weight)
            for name, at in by_reviewer.items()
        }
        quality = {
            name: fsum([plain[i] - leniency[reviewer[i]] for i in at]) / len(at) for name, at in by_author.items()
        }
        rest = [score[i] - quality[author[i]] - leniency[reviewer[i]] for i in count]
        position = fsum([(rest[i] - same_model * y[i]) * x[i] for i in count]) / room_x
        same_model = fsum([(rest[i] - position * x[i]) * y[i] for i in count]) / room_y
        after = (position, same_model, *quality.values(), *leniency.values())
        if max(abs(one - other) for one, other in zip(before, after, strict=True)) < _STEADY:
            break
    return Fit(
        quality=_rounded(quality),
        leniency=_rounded(leniency),
        leniency_weight=round(weight, _DIGITS),
        effects=_rounded(dict(zip(EFFECTS, (position, same_model), strict=True))),
        adjusted={
            (reviewer[i], author[i]): round(
                score[i] - leniency[reviewer[i]] - position * x[i] - same_model * y[i], _DIGITS
            )
            for i in count
        },
    )


def _places(names: Sequence[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        places.setdefault(name, []).append(index)
    return places


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, _DIGITS) for name, value in values.items()}


def borda(scores: Iterable[Score]) -> dict[str, float]:
    """Author -> share (0 … 1) of the comparisons within reviewers' own scores that it won; a draw counts half."""
    by_reviewer: dict[str, list[Score]] = {}
    for score in scores:
        by_reviewer.setdefault(score.reviewer, []).append(score)
    won: dict[str, list[float]] = {}
    for cards in by_reviewer.values():
        for one in cards:
            for other in cards:
                if other is not one:
                    points = 1.0 if one.score > other.score else 0.5 if one.score == other.score else 0.0
                    won.setdefault(one.author, []).append(points)
    return {author: round(fsum(points) / len(points), _DIGITS) for author, points in won.items()}
