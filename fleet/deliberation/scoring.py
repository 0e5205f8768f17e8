"""From scores that reviewers gave to one number per proposal. What was not scored stays absent; nothing is made up.

Reviewers differ in leniency, are swayed by the order in which they are shown proposals, and like what their own model
writes. So the scores are taken apart, by least squares, into

    score = quality[author] + leniency[reviewer] + position · x + first · f + same_model · y

with x from −0.5 (shown first) to 0.5 (shown last); f = 1 for what is shown first, else 0, less its mean (0 where fewer
than three are shown: there x says it all); y = 1 where reviewer and author run the same model, else 0, less its mean.
So a harsh and a mild reviewer count alike, whatever one of them adds to all its scores. The last three effects are
shrunk as if one more unit of evidence had said 0: few scores make small corrections. Only `quality` ranks. (The model
is that of many-facet judging: Linacre 1989; the effects are those that Wang et al. 2023, arXiv:2305.17926, and
Panickssery et al. 2024, arXiv:2404.13076, measured.)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum

from fleet.messages import CriterionScore

DEFAULT_RUBRIC: Mapping[str, float] = {"correctness": 3.0, "completeness": 2.0, "clarity": 1.0}
OVERALL = "overall"
PRIOR_WEIGHT = 1.0
"""How much evidence for "no effect" each of `EFFECTS` starts with, in units of its own sum of squares."""
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


EFFECTS = ("position", "first", "same_model")


def columns(scores: Sequence[Given]) -> tuple[list[float], ...]:
    """x, f and y of each score, in the order of `EFFECTS`."""
    alike = fsum(given.same_model for given in scores) / max(1, len(scores))
    return (
        [(given.position - 1) / (given.shown - 1) - 0.5 if given.shown > 1 else 0.0 for given in scores],
        [(given.position == 1) - 1 / given.shown if given.shown > 2 else 0.0 for given in scores],
        [given.same_model - alike for given in scores],
    )


@dataclass(frozen=True, slots=True)
class Fit:
    """The scores taken apart. `quality` has only those that somebody scored; it is the mean of their `adjusted`."""

    quality: Mapping[str, float] = field(default_factory=dict)
    leniency: Mapping[str, float] = field(default_factory=dict)
    effects: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(EFFECTS, 0.0))
    """By the names in `EFFECTS`."""
    adjusted: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """By (reviewer, author): the score less leniency and effects."""


def fit(scores: Sequence[Given]) -> Fit:
    """Least squares by turns, until nothing moves. Sums are exact, so the order of `scores` never shows."""
    if not scores:
        return Fit()
    count = range(len(scores))
    author, reviewer = [given.author for given in scores], [given.reviewer for given in scores]
    by_author, by_reviewer = _places(author), _places(reviewer)
    parts = columns(scores)
    room = [fsum(value * value for value in part) + PRIOR_WEIGHT for part in parts]

    quality = {name: fsum(scores[i].score for i in at) / len(at) for name, at in by_author.items()}
    leniency = dict.fromkeys(by_reviewer, 0.0)
    effects = [0.0] * len(parts)
    for _ in range(_MOST_PASSES):
        before = (*effects, *quality.values(), *leniency.values())
        plain = [scores[i].score - _swayed(effects, parts, i) for i in count]
        leniency = {name: fsum(plain[i] - quality[author[i]] for i in at) / len(at) for name, at in by_reviewer.items()}
        quality = {name: fsum(plain[i] - leniency[reviewer[i]] for i in at) / len(at) for name, at in by_author.items()}
        rest = [scores[i].score - quality[author[i]] - leniency[reviewer[i]] for i in count]
        for number, part in enumerate(parts):
            effects[number] = 0.0
            effects[number] = fsum((rest[i] - _swayed(effects, parts, i)) * part[i] for i in count) / room[number]
        after = (*effects, *quality.values(), *leniency.values())
        if max(abs(one - other) for one, other in zip(before, after, strict=True)) < _STEADY:
            break
    return Fit(
        quality=_rounded(quality),
        leniency=_rounded(leniency),
        effects=_rounded(dict(zip(EFFECTS, effects, strict=True))),
        adjusted={
            (reviewer[i], author[i]): round(
                scores[i].score - leniency[reviewer[i]] - _swayed(effects, parts, i), _DIGITS
            )
            for i in count
        },
    )


def _swayed(effects: Sequence[float], parts: Sequence[Sequence[float]], index: int) -> float:
    return fsum(effect * part[index] for effect, part in zip(effects, parts, strict=True))


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
