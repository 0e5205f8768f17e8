"""From scorecards to one number per proposal. What was not scored stays absent; no number is ever made up."""

from collections.abc import Iterable, Mapping
from statistics import fmean

from fleet.messages import CriterionScore

DEFAULT_RUBRIC: Mapping[str, float] = {"correctness": 3.0, "completeness": 2.0, "clarity": 1.0}
OVERALL = "overall"


def weights(rubric: str | dict[str, float] | None) -> Mapping[str, float]:
    """Criterion -> weight. A rubric in prose is one criterion, `overall`."""
    if rubric is None:
        return DEFAULT_RUBRIC
    return {OVERALL: 1.0} if isinstance(rubric, str) else rubric


def card_score(criteria: Mapping[str, CriterionScore], rubric: Mapping[str, float]) -> float | None:
    """Weighted mean (0 … 10) over the criteria that one reviewer scored; None when it scored none."""
    scored = [(rubric[name], given.score) for name, given in criteria.items() if name in rubric]
    total = sum(weight for weight, _ in scored)
    return sum(weight * score for weight, score in scored) / total if total else None


def combined(scores: Iterable[float]) -> float | None:
    """Mean over reviewers, rounded to 4 places; None when nobody scored."""
    given = list(scores)
    return round(fmean(given), 4) if given else None
