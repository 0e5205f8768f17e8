"""Says how likely each proposal is the best one, from the covariance of the fitted qualities.

Reviewers' own errors average out, and show in how far they disagree. Errors that reviewers of one model share do
neither. So each proposal's variance is its own part of the fit's covariance, plus what is likely shared: the variance
that scores usually have (`USUAL_ERROR`) less the one that was seen, at least `LEAST_SHARED`, times the sum of squares
of the shares that models have in its reviewers (1: one model judged it). Then

    p_best[j] ∝ (∫ density of quality j at x · Π over the others k of P(quality k < x) dx) ^ power

with normal distributions. The powers were learnt in simulated councils (`fleet.bench.quality.calibration`), so that of
proposals with a `p_best` of 0.8 about 80 % are truly the best.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import erf, exp, fsum, prod, sqrt

from fleet.deliberation.rating.fitting import Fit
from fleet.deliberation.rating.scoring import Score

USUAL_ERROR, LEAST_SHARED, LEAST_VARIANCE = 1.0, 0.1, 0.01
"""Squared points."""
POWERS: Mapping[int, float] = {2: 0.45, 3: 0.8, 5: 1.1, 8: 1.15, 12: 1.3}
"""By the number of proposals; numbers between take the nearest smaller one's."""
_STEPS, _REACH = 60, 4.5
_GRID = [_REACH * (2 * step / _STEPS - 1) for step in range(_STEPS + 1)]
_DENSITY = [exp(-x * x / 2) for x in _GRID]
_DIGITS = 4


def p_best(fit: Fit, scores: Sequence[Score], models: Mapping[str, str], among: Sequence[str]) -> dict[str, float]:
    """Of each of `among`: the chance that it is the best of them. `models`: by reviewer. Together they are 1."""
    variance = variances(fit, scores, models, among)
    power = powers_of(len(among))
    chances = {name: chance**power for name, chance in raw_chances(fit.quality, variance, among).items()}
    total = fsum(chances.values())
    return {name: round(chance / total, _DIGITS) for name, chance in chances.items()}


def powers_of(proposals: int) -> float:
    """The power for so many proposals."""
    return POWERS[max((size for size in POWERS if size <= proposals), default=min(POWERS))]


def effective_reviewers(fit: Fit, scores: Sequence[Score], models: Mapping[str, str]) -> float | None:
    """How many independent reviewers know as much as those that a proposal had, on average. None: no scores."""
    if not scores:
        return None
    shared = _shared(fit)
    seen = _reviewers(scores)
    counted = [
        (fit.error + shared) / (fit.error / len(reviewers) + shared * _concentration(reviewers, models))
        for reviewers in seen.values()
    ]
    return round(fsum(counted) / len(counted), 2)


def raw_chances(quality: Mapping[str, float], variance: Mapping[str, float], among: Sequence[str]) -> dict[str, float]:
    """The integral for each, not yet calibrated."""
    normals = tuple((quality[name], variance[name]) for name in among)
    return dict(zip(among, _integrals(normals), strict=True))


@lru_cache(maxsize=64)
def _integrals(normals: tuple[tuple[float, float], ...]) -> tuple[float, ...]:
    """`normals`: mean and variance of each quality. A council is ranked several times with the same scores."""
    scaled = [(mean, sqrt(2 * variance)) for mean, variance in normals]
    chances = []
    for own, (mean, variance) in enumerate(normals):
        others = scaled[:own] + scaled[own + 1 :]
        width = sqrt(variance)
        chances.append(
            fsum(
                density * prod(0.5 * (1 + erf((mean + width * x - other) / spread)) for other, spread in others)
                for x, density in zip(_GRID, _DENSITY, strict=True)
            )
        )
    return tuple(chances)


def variances(fit: Fit, scores: Sequence[Score], models: Mapping[str, str], among: Sequence[str]) -> dict[str, float]:
    """Of each proposal alone: what is common to all of them moves no order, and is left out."""
    shared, seen = _shared(fit), _reviewers(scores)
    common = _common(fit, among)
    return {
        name: max(LEAST_VARIANCE, fit.covariance[name, name] - common) + shared * _concentration(seen[name], models)
        for name in among
    }


def _common(fit: Fit, among: Sequence[str]) -> float:
    """The mean covariance of two proposals."""
    pairs = [fit.covariance[one, other] for one in among for other in among if one != other]
    return fsum(pairs) / len(pairs) if pairs else 0.0


def _shared(fit: Fit) -> float:
    return max(LEAST_SHARED, USUAL_ERROR - fit.error)


def _reviewers(scores: Sequence[Score]) -> dict[str, list[str]]:
    seen: dict[str, list[str]] = {}
    for one in scores:
        seen.setdefault(one.author, []).append(one.reviewer)
    return seen


def _concentration(reviewers: Sequence[str], models: Mapping[str, str]) -> float:
    """Sum of squares of the shares that models have in the reviewers: 1 where all run one."""
    run = [models[reviewer] for reviewer in reviewers]
    return fsum((run.count(model) / len(run)) ** 2 for model in set(run))
