"""From scores that reviewers gave to one number per proposal. What was not scored stays absent; nothing is made up.

Reviewers differ in leniency, are swayed by the order in which they are shown proposals, and like what their own model
writes. So the scores are taken apart, by least squares, into

    score = quality[author] + leniency[reviewer] + position_effect · x + same_model_effect · y

with x from −0.5 (shown first) to 0.5 (shown last), and y = 1 where reviewer and author run the same model, else 0, less
the mean of that over all scores. Each effect but quality is shrunk as if one more unit of evidence had said 0, so that
few scores make small corrections. Only `quality` ranks. (The model is that of many-facet judging: Linacre 1989; the
effects are those that Wang et al. 2023, arXiv:2305.17926, and Panickssery et al. 2024, arXiv:2404.13076, measured.)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum

from fleet.messages import CriterionScore

DEFAULT_RUBRIC: Mapping[str, float] = {"correctness": 3.0, "completeness": 2.0, "clarity": 1.0}
OVERALL = "overall"
PRIOR_WEIGHT = 1.0
"""How much evidence for "no effect" every correction starts with, in units of its own sum of squares."""
_STEADY = 1e-10
_MOST_PASSES = 500
_DIGITS = 6


def weights(rubric: str | dict[str, float] | None) -> Mapping[str, float]:
    """Criterion -> weight. A rubric in prose is one criterion, `overall`."""
    if rubric is None:
        return DEFAULT_RUBRIC
    return {OVERALL: 1.0} if isinstance(rubric, str) else rubric


def weighted(scores: Mapping[str, float], rubric: Mapping[str, float]) -> float | None:
    """Mean (0 … 10) over the criteria that one reviewer scored, by their weights; None when it scored none."""
    given = [(rubric[name], score) for name, score in scores.items() if name in rubric]
    total = fsum(weight for weight, _ in given)
    return fsum(weight * score for weight, score in given) / total if total else None


def card_score(criteria: Mapping[str, CriterionScore], rubric: Mapping[str, float]) -> float | None:
    """`weighted` of a scorecard."""
    return weighted({name: given.score for name, given in criteria.items()}, rubric)


@dataclass(frozen=True, slots=True)
class Given:
    """One score: by whom, for whom, and at which place (1 …) of how many it was shown."""

    reviewer: str
    author: str
    score: float
    position: int
    shown: int
    same_model: bool = True

    @property
    def x(self) -> float:
        return (self.position - 1) / (self.shown - 1) - 0.5 if self.shown > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Fit:
    """The scores taken apart. `quality` has only those that somebody scored; it is the mean of their `adjusted`."""

    quality: Mapping[str, float] = field(default_factory=dict)
    leniency: Mapping[str, float] = field(default_factory=dict)
    position_effect: float = 0.0
    same_model_effect: float = 0.0
    adjusted: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """By (reviewer, author): the score less all effects."""


def fit(scores: Sequence[Given]) -> Fit:
    """Least squares by turns, until nothing moves. Sums are exact, so the order of `scores` never shows."""
    if not scores:
        return Fit()
    count = range(len(scores))
    author, reviewer = [given.author for given in scores], [given.reviewer for given in scores]
    by_author, by_reviewer = _places(author), _places(reviewer)
    x = [given.x for given in scores]
    alike = fsum(given.same_model for given in scores) / len(scores)
    y = [given.same_model - alike for given in scores]
    room_x, room_y = (fsum(part * part for part in parts) + PRIOR_WEIGHT for parts in (x, y))

    quality = {name: fsum(scores[i].score for i in at) / len(at) for name, at in by_author.items()}
    leniency = dict.fromkeys(by_reviewer, 0.0)
    position = same = 0.0
    for _ in range(_MOST_PASSES):
        before = (position, same, *quality.values(), *leniency.values())
        plain = [scores[i].score - position * x[i] - same * y[i] for i in count]
        leniency = {
            name: fsum(plain[i] - quality[author[i]] for i in at) / (len(at) + PRIOR_WEIGHT)
            for name, at in by_reviewer.items()
        }
        quality = {name: fsum(plain[i] - leniency[reviewer[i]] for i in at) / len(at) for name, at in by_author.items()}
        rest = [scores[i].score - quality[author[i]] - leniency[reviewer[i]] for i in count]
        position = fsum((rest[i] - same * y[i]) * x[i] for i in count) / room_x
        same = fsum((rest[i] - position * x[i]) * y[i] for i in count) / room_y
        after = (position, same, *quality.values(), *leniency.values())
        if max(abs(one - other) for one, other in zip(before, after, strict=True)) < _STEADY:
            break
    return Fit(
        quality=_rounded(quality),
        leniency=_rounded(leniency),
        position_effect=round(position, _DIGITS),
        same_model_effect=round(same, _DIGITS),
        adjusted={
            (reviewer[i], author[i]): round(
                scores[i].score - leniency[reviewer[i]] - position * x[i] - same * y[i], _DIGITS
            )
            for i in count
        },
    )


def _places(names: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        found.setdefault(name, []).append(index)
    return found


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, _DIGITS) for name, value in values.items()}


def borda(scores: Iterable[Given]) -> dict[str, float]:
    """Author -> share (0 … 1) of the comparisons within reviewers' own scores that it won; a draw counts half."""
    by_reviewer: dict[str, list[Given]] = {}
    for given in scores:
        by_reviewer.setdefault(given.reviewer, []).append(given)
    won: dict[str, list[float]] = {}
    for cards in by_reviewer.values():
        for one in cards:
            for other in cards:
                if other is not one:
                    points = 1.0 if one.score > other.score else 0.5 if one.score == other.score else 0.0
                    won.setdefault(one.author, []).append(points)
    return {author: round(fsum(points) / len(points), _DIGITS) for author, points in won.items()}
