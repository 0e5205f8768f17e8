"""Puts a judge's rewards on the scale of the council's scores.

A reward has no scale: 3.2 for one text says nothing until another one for the same task has 1.5. So rewards are equated
with the scores of the council (the linear equating of tests: mean to mean, deviation to deviation; Kolen and Brennan
2014): a judge is taken to tell texts apart as far as a reviewer of this council does.

    score = M + S · (reward − mean) ÷ deviation        held within 0 … 10

over the proposals that the judge and some reviewer scored. M is the mean of these proposals' mean scores. S² is the
variance of a reviewer's scores around its own mean, over all reviewers, as if `PRIOR_SCORES` more had shown
`USUAL_SPREAD`. A single proposal, or rewards that are equal but for rounding, say nothing: there are no scores then.
"""

from collections.abc import Mapping, Sequence
from math import fsum, sqrt

from fleet.deliberation.rating.scoring import Score
from fleet.messages import Reward

USUAL_SPREAD, PRIOR_SCORES = 2.0, 4
"""Squared points, before anything is known."""
ROUNDING = 1 / 256
"""What models of 16 bits (bfloat16) keep of a number: rewards that differ less than this part of them are equal."""
MOST_REWARD = 1e6
"""No reward model gives more."""
ALONE = 0
"""The place of a text that was shown alone."""
_DIGITS = 4


def as_scores(
    judge: str, rewards: Mapping[str, Reward], scores: Sequence[Score], models: Mapping[str, str]
) -> list[Score]:
    """The judge's scores. `rewards`: by author; `scores`: the council's; `models`: by author."""
    given: dict[str, list[float]] = {}
    for one in scores:
        given.setdefault(one.author, []).append(one.score)
    told = {author: rewards[author].value for author in rewards if author in given}
    largest = max(map(abs, told.values()), default=0.0)
    if len(told) < 2 or max(told.values()) - min(told.values()) <= ROUNDING * largest:
        return []
    told = {author: value / largest for author, value in told.items()}  # Squares of tiny numbers would be zero.
    mean = fsum(told.values()) / len(told)
    deviation = sqrt(fsum((value - mean) ** 2 for value in told.values()) / (len(told) - 1))
    middle = fsum(fsum(given[author]) / len(given[author]) for author in told) / len(told)
    spread = _spread(scores)
    return [
        Score(
            reviewer=judge,
            author=author,
            score=round(max(0.0, min(10.0, middle + spread * (value - mean) / deviation)), _DIGITS),
            position=ALONE,
            shown=1,
            same_model=rewards[author].model == models[author],
        )
        for author, value in told.items()
    ]


def _spread(scores: Sequence[Score]) -> float:
    by_reviewer: dict[str, list[float]] = {}
    for one in scores:
        by_reviewer.setdefault(one.reviewer, []).append(one.score)
    squares, freedom = PRIOR_SCORES * USUAL_SPREAD, float(PRIOR_SCORES)
    for own in by_reviewer.values():
        mean = fsum(own) / len(own)
        squares += fsum((score - mean) ** 2 for score in own)
        freedom += len(own) - 1
    return sqrt(squares / freedom)
