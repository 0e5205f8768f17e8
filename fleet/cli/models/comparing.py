"""Says how much better one model is than another, by the scores that the same reviewers gave to both.

In each deliberation each reviewer has scored texts of both models; the difference of their means is one observation:

    difference = quality + taste · x + error

*x* is 1 where the reviewer is of the new model, -1 where it is of the usual one, else 0.
*Taste* for one's own model is estimated from reviewers of one deliberation who differ in *x*, shrunk as if it usually
were 0.7 points, and taken out. Where all reviewers are of one model it cannot be told from quality: then the
interval is wide.

The interval holds at every look, however often one looks: it is an asymptotic confidence sequence (Waudby-Smith et al.
2021, arXiv:2103.06476), narrowest at about `MOST_AT` deliberations. Its price is that it is half as wide again as one
for a single look.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, hypot, log, sqrt

ALPHA = 0.05
MOST_AT = 100
LEAST = 10
"""Deliberations before anything is said."""
NORMAL = 1.96
"""Standard deviations of 95 %."""
USUAL_TASTE = 0.7
"""Points: its standard deviation over models."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One reviewer of one deliberation: the new model's mean score less the usual one's, and `x`."""

    difference: float
    own: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """In points. `low`, `high`: 95 % at every look; null: there are too few deliberations."""

    deliberations: int
    difference: float
    low: float | None
    high: float | None
    taste: float
    taste_error: float

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `open`."""
        if self.low is None or self.high is None:
            return "open"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "open"


def compare(deliberations: Sequence[Sequence[Observation]]) -> Comparison:
    """Of deliberations that each have an observation."""
    taste, taste_error = _taste(deliberations)
    means = [fsum(one.difference - taste * one.own for one in each) / len(each) for each in deliberations]
    own = fsum(fsum(one.own for one in each) / len(each) for each in deliberations) / len(deliberations)
    count, difference = len(means), fsum(means) / len(means)
    low = high = None
    if count >= LEAST:
        variance = fsum((mean - difference) ** 2 for mean in means) / (count - 1)
        # What the taste is not known by goes with the mean of x, whatever the number of deliberations.
        width = hypot(sqrt(variance) * radius(count), NORMAL * own * taste_error)
        low, high = difference - width, difference + width
    return Comparison(count, difference, low, high, taste, taste_error)


def radius(count: int) -> float:
    """Half the interval of a mean of so many, in standard deviations of one."""
    # The width is least at MOST_AT for this spread (equation 10 there, approximated).
    spread = (2 * log(1 / ALPHA) + log(1 + 2 * log(1 / ALPHA))) / MOST_AT
    scaled = count * spread
    return sqrt(2 * (scaled + 1) / (count * scaled) * log(sqrt(scaled + 1) / ALPHA))


def _taste(deliberations: Sequence[Sequence[Observation]]) -> tuple[float, float]:
    """(taste, its standard error), within deliberations."""
    products, squares, total, free = [], [], [], 0
    for each in deliberations:
        mean = fsum(one.difference for one in each) / len(each)
        own = fsum(one.own for one in each) / len(each)
        products += [(one.own - own) * (one.difference - mean) for one in each]
        squares += [(one.own - own) ** 2 for one in each]
        total += [(one.difference - mean) ** 2 for one in each]
        free += len(each) - 1
    error = max(fsum(total) / free, 0.01) if free else 1.0
    known = fsum(squares) / error + 1 / USUAL_TASTE**2
    return fsum(products) / error / known, sqrt(1 / known)
