"""A model that is half a point better is found, equal ones seldom differ, and taste for one's own is no quality."""

from collections.abc import Callable, Iterator
from random import Random

import pytest

from fleet.cli.models.comparing import LEAST, Observation, compare

LOOK_EVERY, MOST = 20, 200
Judged = Callable[[Random, float], list[Observation]]


def on_trial(random: Random, better: float) -> list[Observation]:
    """Three members score a shadow and each other; a third model judges."""
    texts, shadow = [random.gauss(0, 1) for _ in range(3)], random.gauss(better, 1)
    return [
        Observation(shadow + random.gauss(0, 1) - sum(texts[i] + random.gauss(0, 1) for i in others) / 2, 0)
        for others in ((1, 2), (0, 2), (0, 1))
    ]


def by_shares(random: Random, better: float) -> list[Observation]:
    """Five agents, each of one of two models; a judge gives texts of its own model 0.7 points more."""
    is_new = [random.random() < 0.5 for _ in range(5)]
    quality = [random.gauss(better if new else 0, 1) for new in is_new]
    seen = []
    for reviewer in range(5):
        given: dict[bool, list[float]] = {True: [], False: []}
        for author in {*range(5)} - {reviewer}:
            taste = 0.7 * (is_new[author] == is_new[reviewer])
            given[is_new[author]].append(quality[author] + taste + random.gauss(0, 1))
        if all(given.values()):
            means = {new: sum(scores) / len(scores) for new, scores in given.items()}
            seen.append(Observation(means[True] - means[False], 1 if is_new[reviewer] else -1))
    return seen


def verdicts(judged: Judged, better: float, trials: int = 60) -> Iterator[str]:
    """Of trials that are looked at every few deliberations, and end with the first verdict."""
    for seed in range(trials):
        random, deliberations, verdict = Random(seed), [], "open"
        for number in range(MOST):
            if seen := judged(random, better):
                deliberations.append(seen)
            if number % LOOK_EVERY == 0 and deliberations:
                verdict = compare(deliberations).verdict
            if verdict != "open":
                break
        yield verdict


@pytest.mark.parametrize("judged", [on_trial, by_shares])
def test_half_a_point_is_found_within_two_hundred_deliberations(judged: Judged) -> None:
    """Four times of five, though somebody looks all the time."""
    found = list(verdicts(judged, 0.5))
    assert found.count("better") >= 0.8 * len(found)
    assert "worse" not in found


@pytest.mark.slow
@pytest.mark.parametrize("judged", [on_trial, by_shares])
def test_equal_models_are_seldom_told_apart(judged: Judged) -> None:
    """One time of twenty, with what chance adds to that in so few trials."""
    found = list(verdicts(judged, 0.0))
    assert found.count("open") >= 0.9 * len(found)


def test_taste_is_taken_out_where_it_can_be_told() -> None:
    """Judges of both models: what each adds to its own is no quality."""
    random = Random(1)
    compared = compare([seen for _ in range(400) if (seen := by_shares(random, 0.0))])
    assert compared.taste == pytest.approx(0.7, abs=0.1)
    assert compared.low is not None
    assert compared.high is not None
    assert compared.low < 0 < compared.high


def test_judges_of_one_model_leave_it_open_whether_it_is_taste() -> None:
    """All of the usual model: half a point less may be their taste, however many say so."""
    seen = [[Observation(-0.5 + 0.01 * (number % 3), -1)] * 3 for number in range(1000)]
    compared = compare(seen)
    assert (compared.verdict, round(compared.taste_error, 1)) == ("open", 0.7)


def test_nothing_is_said_of_few_deliberations() -> None:
    """However far they lie apart."""
    compared = compare([[Observation(5.0, 0)]] * (LEAST - 1))
    assert (compared.low, compared.high, compared.verdict) == (None, None, "open")
