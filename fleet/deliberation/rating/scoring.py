"""Turns what reviewers say into scores: a number 0 … 10 per review, by the rubric's weights."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import fsum

from fleet.messages import CriterionScore

DEFAULT_RUBRIC: Mapping[str, float] = {"correctness": 3.0, "completeness": 2.0, "clarity": 1.0}
OVERALL = "overall"
MAX_NAME_BYTES = 64
"""Of a criterion's name in schemas, reviews and results."""
_DIGITS = 4
_LEVEL_DIGITS = 9


def weights(rubric: str | dict[str, float] | None) -> Mapping[str, float]:
    """Criterion -> weight. A rubric in prose is one criterion, `overall`."""
    if rubric is None:
        return DEFAULT_RUBRIC
    if isinstance(rubric, str):
        return {OVERALL: 1.0}
    return {_criterion(name, place, rubric): weight for place, (name, weight) in enumerate(rubric.items(), start=1)}


def _criterion(name: str, place: int, rubric: Collection[str]) -> str:
    """Every score of every review repeats it: a long name stands in the prompts once, and is `c<place>` elsewhere."""
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    short = f"c{place}"
    while short in rubric:
        short += "_"
    return short


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
    """One score: by whom, for whose proposal, and at which place (1 …) of how many it was shown; place 0: alone, to a
    judge.
    """

    reviewer: str
    author: str
    score: float
    position: int
    shown: int
    same_model: bool = True
    reading: int = 1
    points: tuple[float, ...] = ()
    """What it is the mean of, by criterion; a judge's has none."""

    @property
    def level(self) -> float:
        """What is compared with another one's: means of equal numbers may differ in their last bits."""
        return round(self.score, _LEVEL_DIGITS)


def borda(scores: Iterable[Score]) -> dict[str, float]:
    """Author -> share (0 … 1) of the comparisons within reviewers' own scores that it won; a draw counts half."""
    by_reviewer: dict[str, list[tuple[str, float]]] = {}
    for score in scores:
        by_reviewer.setdefault(score.reviewer, []).append((score.author, score.level))
    won: dict[str, list[float]] = {}
    for cards in by_reviewer.values():
        for one in cards:
            for other in cards:
                if other is not one:
                    points = 1.0 if one[1] > other[1] else 0.5 if one[1] == other[1] else 0.0
                    won.setdefault(one[0], []).append(points)
    return {author: round(fsum(points) / len(points), _DIGITS) for author, points in won.items()}
