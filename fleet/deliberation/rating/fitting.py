"""Takes scores apart into what proposals are worth and how their reviewers are.

    score = quality[author] + leniency[reviewer] + same_model · y

y is 1 where reviewer and author run the same model, else 0, less the mean of that over all scores at the same place. So
what a place adds to all scores at it moves nothing: each proposal stands once at each place (see `labels`), and the
residuals, too, are taken less their mean at their place.

* Leniency is shrunk as if w = error variance ÷ leniency variance more scores of each reviewer had said 0. Both are
  estimated from the scores, with priors: as if `PRIOR_SCORES` more scores and `PRIOR_REVIEWERS` more reviewers had
  shown `ERROR` and `LENIENCY`. So few or noisy scores leave reviewers almost as they are. `same_model` is shrunk in
  the same way, its variance being taken for `SAME_MODEL`.
* A score that is more than `CLAMP` error deviations off what the others make of it counts only so far (Huber 1964;
  1.345 loses one twentieth where errors are normal). So one reviewer that judges at random moves little. One that
  obeys a text moves more, since what is cut remains in the mean of its place: see `obedience`.

Only `quality` ranks: the mean of the `adjusted` scores. (Many-facet judging, as in Linacre 1989. Panickssery et al.
2024, arXiv:2404.13076, measured the taste for one's own model.)
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import fsum, sqrt
from typing import TypeVar

from fleet.deliberation.rating.scoring import Score

ERROR, LENIENCY, SAME_MODEL = 1.0, 0.15, 0.49
"""Variances in squared points, before anything is known."""
PRIOR_SCORES, PRIOR_REVIEWERS = 4, 2
CLAMP = 1.345
_STEADY = 1e-6
_MOST_TURNS = 100
_DIGITS = 6

Matrix = list[list[float]]
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Fit:
    """The scores taken apart. `quality` has only those that somebody scored."""

    quality: Mapping[str, float] = field(default_factory=dict)
    leniency: Mapping[str, float] = field(default_factory=dict)
    leniency_weight: float = 1.0
    """w of the formula above."""
    same_model: float = 0.0
    error: float = ERROR
    """The variance of a score's error."""
    adjusted: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """By (reviewer, author): the score as far as it counts, less leniency and same_model · y."""
    covariance: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Of the qualities, by (author, author), in squared points."""


def fit(scores: Sequence[Score]) -> Fit:
    """Least squares, clamping and variances by turns, until nothing moves."""
    return _fit(tuple(scores)) if scores else Fit()


@lru_cache(maxsize=64)
def _fit(scores: tuple[Score, ...]) -> Fit:
    table = _Table(scores)
    raw = [one.score for one in scores]
    error, leniency = ERROR, ERROR  # From below, differences between few reviewers would be taken for errors.
    counted = raw
    before: Sequence[float] = ()
    for _ in range(_MOST_TURNS):
        inverse = table.inverse(error / leniency, error / SAME_MODEL)
        solution = table.solve(inverse, counted)
        residual = table.residual(solution, raw, counted)
        limit = CLAMP * sqrt(error)
        counted = [score - rest + max(-limit, min(limit, rest)) for score, rest in zip(raw, residual, strict=True)]
        after = (error, leniency, *solution)
        if before and max(abs(one - other) for one, other in zip(before, after, strict=True)) < _STEADY:
            break
        before = after
        error, leniency = table.variances(inverse, solution, residual, error / leniency)
    return table.as_fit(inverse, solution, counted, error, error / leniency)


class _Table:
    """The scores by author, reviewer and place.

    Unknown are the leniencies, in the order of `reviewers`, then same_model. The qualities follow from them: means by
    author. So the equations are those of scores less their author's mean.
    """

    def __init__(self, scores: Sequence[Score]) -> None:
        self.author = [one.author for one in scores]
        self.reviewer = [one.reviewer for one in scores]
        self.by_author = _indices(self.author)
        self.by_reviewer = _indices(self.reviewer)
        self.by_place = _indices((one.position, one.reading) for one in scores)
        self.y = self.less_place([float(one.same_model) for one in scores])
        taste = any(abs(value) > _STEADY for value in self.y)
        self.freedom = len(scores) - len(self.by_author) - (len(self.by_place) - 1) - taste
        self.matrix = self._matrix()

    def less_place(self, values: Sequence[float]) -> list[float]:
        """Each less the mean at its place."""
        return _less_mean(values, self.by_place.values())

    def _less_author(self, values: Sequence[float]) -> list[float]:
        return _less_mean(values, self.by_author.values())

    def _matrix(self) -> Matrix:
        """Products of the unknowns' columns."""
        number = {name: index for index, name in enumerate(self.by_reviewer)}
        size = len(number) + 1
        matrix = [[0.0] * size for _ in range(size)]
        for at in self.by_author.values():
            rows = [number[self.reviewer[i]] for i in at]
            for one in rows:
                matrix[one][one] += 1
                for other in rows:
                    matrix[one][other] -= 1 / len(at)
        y = self._less_author(self.y)
        for name, row in number.items():
            matrix[row][-1] = matrix[-1][row] = fsum(y[i] for i in self.by_reviewer[name])
        matrix[-1][-1] = fsum(value * value for value in y)
        return matrix

    def inverse(self, leniency_weight: float, same_model_weight: float) -> Matrix:
        """Of the shrunk equations: the unknowns' covariance, in error variances."""
        shrunk = [list(row) for row in self.matrix]
        for index in range(len(shrunk)):
            shrunk[index][index] += same_model_weight if index == len(shrunk) - 1 else leniency_weight
        return _inverse(shrunk)

    def solve(self, inverse: Matrix, values: Sequence[float]) -> list[float]:
        """The unknowns."""
        rest = self._less_author(values)
        right = [fsum([rest[i] for i in at]) for at in self.by_reviewer.values()]
        right.append(fsum([rest[i] * self.y[i] for i in range(len(rest))]))
        return [fsum(map(float.__mul__, row, right)) for row in inverse]

    def explained(self, solution: Sequence[float]) -> list[float]:
        """Of each score, what is its reviewer's doing."""
        *leniency, same_model = solution
        of = dict(zip(self.by_reviewer, leniency, strict=True))
        return [of[name] + same_model * y for name, y in zip(self.reviewer, self.y, strict=True)]

    def residual(self, solution: Sequence[float], raw: Sequence[float], counted: Sequence[float]) -> list[float]:
        """What neither quality nor reviewer explains of what was said, less its mean at each place."""
        explained = self.explained(solution)
        rest = self._less_author([value - part for value, part in zip(counted, explained, strict=True)])
        cut = [value - other for value, other in zip(raw, counted, strict=True)]
        return self.less_place([value + other for value, other in zip(rest, cut, strict=True)])

    def variances(
        self, inverse: Matrix, solution: Sequence[float], residual: Sequence[float], weight: float
    ) -> tuple[float, float]:
        """Of errors and of leniencies, with their priors."""
        count = len(self.by_reviewer)
        open_ = fsum(inverse[i][i] for i in range(count))
        freedom = max(0.0, self.freedom - (count - weight * open_))
        error = (PRIOR_SCORES * ERROR + fsum(rest * rest for rest in residual)) / (PRIOR_SCORES + freedom)
        squares = fsum(value * value for value in solution[:count])
        return error, (PRIOR_REVIEWERS * LENIENCY + squares + error * open_) / (PRIOR_REVIEWERS + count)

    def as_fit(
        self, inverse: Matrix, solution: Sequence[float], counted: Sequence[float], error: float, weight: float
    ) -> Fit:
        adjusted = [value - part for value, part in zip(counted, self.explained(solution), strict=True)]
        return Fit(
            quality={name: _rounded(fsum([adjusted[i] for i in at]) / len(at)) for name, at in self.by_author.items()},
            leniency={name: _rounded(value) for name, value in zip(self.by_reviewer, solution, strict=False)},
            leniency_weight=_rounded(weight),
            same_model=_rounded(solution[-1]),
            error=_rounded(error),
            adjusted={
                (reviewer, author): _rounded(value)
                for reviewer, author, value in zip(self.reviewer, self.author, adjusted, strict=True)
            },
            covariance=self._covariance(inverse, error),
        )

    def _covariance(self, inverse: Matrix, error: float) -> dict[tuple[str, str], float]:
        """Of the qualities: the scores' own errors, and what is not known of the reviewers of each."""
        shares: dict[str, list[float]] = {}
        for name, at in self.by_author.items():
            seen = [self.reviewer[i] for i in at]
            share = [seen.count(reviewer) / len(at) for reviewer in self.by_reviewer]
            shares[name] = [*share, fsum(self.y[i] for i in at) / len(at)]
        spread = {name: [fsum(map(float.__mul__, row, share)) for row in inverse] for name, share in shares.items()}
        return {
            (one, other): error
            * (fsum(map(float.__mul__, share, spread[other])) + (one == other) / len(self.by_author[one]))
            for one, share in shares.items()
            for other in shares
        }


def _indices(names: Iterable[K]) -> dict[K, list[int]]:
    places: dict[K, list[int]] = {}
    for index, name in enumerate(names):
        places.setdefault(name, []).append(index)
    return places


def _less_mean(values: Sequence[float], groups: Iterable[Sequence[int]]) -> list[float]:
    rest = list(values)
    for at in groups:
        mean = fsum([values[i] for i in at]) / len(at)
        for i in at:
            rest[i] = values[i] - mean
    return rest


def _inverse(matrix: Matrix) -> Matrix:
    """Of a positive definite matrix, in place, by Gauss and Jordan."""
    inverse = [list(row) for row in matrix]
    for pivot in range(len(matrix)):
        head = inverse[pivot][pivot]
        inverse[pivot][pivot] = 1.0
        scaled = inverse[pivot] = [value / head for value in inverse[pivot]]
        for row in range(len(matrix)):
            factor = inverse[row][pivot]
            if row != pivot and factor:
                inverse[row][pivot] = 0.0
                inverse[row] = [one - factor * other for one, other in zip(inverse[row], scaled, strict=True)]
    return inverse


def _rounded(value: float) -> float:
    """Twice: names decide the order of some sums, and must not decide a half at the last digit."""
    return round(round(value, _DIGITS + 3), _DIGITS) + 0.0
