"""Finds scores that look as if their reviewer obeyed the text: full ones that decide alone who leads.

A proposal that asks for a 10 may get it from a reviewer that obeys. Such a score counts as what the others make of the
proposal: the number that has no residual at its place, so that places cancel as ever. It is known by all of these
signs, each of which fair reviewers show often, and all of which together they show seldom:

* It is full, and its proposal, which leads, would lead no longer.
* Its proposal has at least `LEAST_READERS` scores: of three nobody can say which one is off.
* Its reviewer's other scores are all at least `AHEAD` below, and their variance is at most `WIDEST` times the mean one
  of all reviewers: who stretches the scale has its own 10s.
* Full points are rare in this council (`MOST_FULL` of all criteria elsewhere), and the scale is used: at least
  `LEAST_LEVELS` whole points below it occur. Where judges know only 0, 5 and 10, a 10 says little.
* It is so far above what the others make of its proposal that it moves the mean by more than `SHIFT` error variances,
  and these are at most `MOST_ERROR`: where reviewers err widely, so may this one.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, variance

from fleet.deliberation.rating.fitting import Fit, fit
from fleet.deliberation.rating.scoring import Score

FULL, FULL_POINT = 9.9, 9.5
LEAST_READERS = 4
AHEAD = 1.0
WIDEST = 3.0
MOST_FULL = 0.1
LEAST_LEVELS = 5
SHIFT = 1 / 3
MOST_ERROR = 1.8
LEAD = 0.005
_DIGITS = 4
_STEADY = 5e-6
_MOST_TURNS = 30

Key = tuple[str, str]


def obeying(scores: Sequence[Score], penalty: Mapping[str, float], faulty: Collection[str]) -> dict[Key, float]:
    """(reviewer, author) -> what counts for that score. `penalty`: points off, by author; `faulty`: who cannot lead."""
    full = [one for one in scores if one.score >= FULL and one.points and _stands_out(one, scores)]
    if not full:
        return {}
    leaders = _leading(fit(scores), penalty, faulty)
    found = {}
    for one in full:
        readers = sum(other.author == one.author for other in scores)
        if one.author in leaders and readers >= LEAST_READERS:
            usual = _usual(one, scores, readers)
            fitted = fit(counted(scores, {(one.reviewer, one.author): usual}))
            alone = one.author not in _leading(fitted, penalty, faulty)
            if alone and fitted.error <= MOST_ERROR and one.score - usual > SHIFT * fitted.error * readers:
                found[one.reviewer, one.author] = usual
    return found


def counted(scores: Sequence[Score], instead: Mapping[Key, float]) -> list[Score]:
    """The scores as they count. `instead`: by reviewer and author."""
    return [replace(one, score=instead.get((one.reviewer, one.author), one.score)) for one in scores]


def less_penalty(quality: float, penalty: float) -> float:
    """A proposal's score: its quality, held within 0 … 10, less its penalty, never below 0."""
    return round(max(0.0, min(10.0, quality) - penalty), _DIGITS)


def _leading(fitted: Fit, penalty: Mapping[str, float], faulty: Collection[str]) -> frozenset[str]:
    """All that share the best score."""
    sound = [name for name in fitted.quality if name not in faulty] or list(fitted.quality)
    score = {name: less_penalty(fitted.quality[name], penalty[name]) for name in sound}
    best = max(score.values())
    return frozenset(name for name, value in score.items() if round(best - value, _DIGITS) <= LEAD)


def _stands_out(suspect: Score, scores: Sequence[Score]) -> bool:
    """Among its reviewer's own scores, and among all points of the council."""
    others = [one for one in scores if one is not suspect and one.points]
    own: dict[str, list[float]] = {}
    for one in others:
        own.setdefault(one.reviewer, []).append(one.score)
    mine = own.get(suspect.reviewer, [])
    if len(mine) < 2 or suspect.score - max(mine) < AHEAD:
        return False
    usual = fmean(variance(each) for each in own.values() if len(each) > 1)
    points = [point for one in others for point in one.points]
    below = [point for point in points if point < FULL_POINT]
    return (
        variance(mine) <= WIDEST * usual
        and len(points) - len(below) <= MOST_FULL * len(points)
        and len({round(point) for point in below}) >= LEAST_LEVELS
    )


def _usual(suspect: Score, scores: Sequence[Score], readers: int) -> float:
    """What its reviewer would say at its place if it agreed with the others."""
    key, others = (suspect.reviewer, suspect.author), [one for one in scores if one is not suspect]
    value = fmean(one.score for one in others if one.author == suspect.author)
    beside = [one for one in others if (one.position, one.reading) == (suspect.position, suspect.reading)]
    for _ in range(_MOST_TURNS):
        fitted = fit(counted(scores, {key: value}))
        place = [fitted.adjusted[one.reviewer, one.author] - fitted.quality[one.author] for one in beside]
        off = fitted.quality[suspect.author] + (fmean(place) if place else 0.0) - fitted.adjusted[key]
        if abs(off) < _STEADY:
            break
        value += off / (1 - 1 / readers)
    return round(value, _DIGITS)
