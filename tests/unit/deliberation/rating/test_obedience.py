"""A full score that alone decides and that nothing else speaks for counts as others do; any missing sign keeps it."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.deliberation.labels import balanced_orders
from fleet.deliberation.rating.fitting import fit
from fleet.deliberation.rating.obedience import FULL, LEAST_READERS, counted, obeying
from fleet.deliberation.rating.ranking import Standings, by_score
from fleet.deliberation.rating.scoring import Score

QUALITY = {"a": 6.2, "b": 6.1, "c": 6.0, "d": 5.0, "e": 4.0}
WORST = {**QUALITY, "c": 3.0}
OBEYED = ("d", "c")
"""Reviewer and author of the 10."""
SPREAD = (-2.0, 0.0, 2.0)


def card(value: float, spread: Sequence[float] = SPREAD) -> tuple[float, ...]:
    """Points of three criteria, of which `value` is the mean."""
    return tuple(value + each for each in spread)


def council(quality: dict[str, float] = QUALITY, ten: tuple[str, str] | None = OBEYED) -> list[Score]:
    """What judges say who know the quality; one of them obeys a text."""
    names = list(quality)
    return [
        Score(reviewer, names[author], *given, place, len(order), points=points)
        for reviewer, order in zip(names, balanced_orders("1", len(names)), strict=True)
        for place, author in enumerate(order, start=1)
        for points in (card(10.0, (0, 0, 0)) if (reviewer, names[author]) == ten else card(quality[names[author]]),)
        for given in ([fmean(points)],)
    ]


def rank(scores: list[Score], **more: object) -> Standings:
    names = sorted({one.author for one in scores} | {one.reviewer for one in scores})
    none, models = dict.fromkeys(names, 0.0), dict.fromkeys(names, "m")
    return by_score(names, scores, none, {name: f"of {name}" for name in names}, models=models, **more)  # type: ignore[arg-type]


def test_a_ten_that_alone_decides_counts_as_what_others_say() -> None:
    """All numbers are as if its reviewer had agreed; without the rule it would have won."""
    scores, plain = council(), council(ten=None)
    ranked = rank(scores)
    assert max(fit(scores).quality, key=fit(scores).quality.__getitem__) == "c"
    assert ranked.instead == {OBEYED: pytest.approx(6.0, abs=0.1)}
    assert ranked.order[0] == "a"
    assert ranked.fit.quality == pytest.approx(fit(plain).quality, abs=0.05)


@pytest.mark.parametrize("effect", [(2.0, 0.0, 0.0, 0.0), (0.0, -3.0, 1.0, 0.5)])
def test_places_cancel_where_a_ten_does_not_count(effect: Sequence[float]) -> None:
    """What a place adds to all fair scores alike changes no distance between proposals."""
    moved = [one if one.score == 10 else replace(one, score=one.score + effect[one.position - 1]) for one in council()]
    before, after = rank(council()), rank(moved)
    assert set(before.instead) == set(after.instead) == {OBEYED}
    for name in QUALITY:
        shift = after.fit.quality[name] - after.fit.quality["a"]
        assert shift == pytest.approx(before.fit.quality[name] - before.fit.quality["a"], abs=1e-3)


def test_a_ten_that_decides_nothing_stays() -> None:
    """Its proposal leads without it, or does not lead with it."""
    assert rank(council({**QUALITY, "c": 8.0})).instead == {}
    assert rank(council(WORST)).instead == {}


def test_three_reviewers_cannot_say_which_of_them_is_off() -> None:
    """A council of four keeps it."""
    few = {name: value for name, value in QUALITY.items() if name != "e"}
    scores = council(few)
    assert fit(scores).quality["c"] > fit(scores).quality["a"]
    assert rank(scores).instead == {}


def changed(reviewer: str, author: str, score: float, points: Sequence[float]) -> list[Score]:
    return [
        replace(one, score=score, points=tuple(points)) if (one.reviewer, one.author) == (reviewer, author) else one
        for one in council()
    ]


@pytest.mark.parametrize(
    ("scores", "why"),
    [
        (changed(*OBEYED, 9.8, (9.8, 9.8, 9.8)), "it is not full"),
        (changed(*OBEYED, 10.0, ()), "it is a judge's, who reads each text alone"),
        (changed("d", "e", 9.2, (9, 9, 9.6)), "its reviewer gave another score nearly as high"),
        (changed("d", "e", 0.0, (0, 0, 0)), "its reviewer uses the scale more widely than others"),
        ([replace(one, points=(10.0, *one.points[1:])) for one in council()], "full points are common"),
        ([replace(one, points=(5.0,) * 3) for one in council()], "few levels of the scale are used"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_ten_without_one_of_the_signs_stays(scores: list[Score], why: str) -> None:
    """Each sign is needed."""
    assert fit(scores).quality["c"] > fit(scores).quality["a"]
    assert rank(scores).instead == {}, why


def test_where_reviewers_err_widely_a_ten_stays() -> None:
    """They say 2 and 9 of one text: a 10 may be meant."""
    random = Random(4)
    wide = {(r, a): random.choice((-3.5, 3.0)) for r in QUALITY for a in QUALITY}
    scores = [
        one if one.score == 10 else replace(one, score=min(8.9, max(0.0, one.score + wide[one.reviewer, one.author])))
        for one in council()
    ]
    assert fit(scores).error > 2.5
    assert rank(scores).instead == {}


def test_a_text_with_a_fault_decides_nothing() -> None:
    """It ranks behind all others anyway."""
    assert rank(council(), faulty={"c"}).instead == {}
    assert obeying(council(), {**dict.fromkeys(QUALITY, 0.0), "c": 2.0}, ()) == {}


def drawn(seed: int) -> list[Score]:
    """A council of 4 to 8, most judges fair, one of whom obeys some text."""
    random = Random(seed)
    names = [f"r{number}" for number in range(random.randint(4, 8))]
    quality = {name: random.gauss(5.5, 1.0) for name in names}
    reviewer, author = random.sample(names, 2)
    scores = []
    for one, order in zip(names, balanced_orders(str(seed), len(names)), strict=True):
        for place, index in enumerate(order, start=1):
            other = names[index]
            points = [min(10.0, max(0.0, round(random.gauss(quality[other], 1.0)))) for _ in range(3)]
            points = [10.0] * 3 if (one, other) == (reviewer, author) else points
            scores.append(Score(one, other, fmean(points), place, len(order), points=tuple(points)))
    return scores


def test_what_counts_otherwise_decided_alone() -> None:
    """Of 300 councils: it was full, one of four or more, and others lead now, by what the rest says."""
    found = 0
    for seed in range(300):
        scores = drawn(seed)
        ranked = rank(scores)
        out = [one for one in scores if (one.reviewer, one.author) in ranked.instead]
        found += bool(out)
        assert ranked.fit == fit(counted(scores, ranked.instead))
        for one in out:
            assert one.score >= FULL > ranked.instead[one.reviewer, one.author]
            assert sum(other.author == one.author for other in scores) >= LEAST_READERS
            assert one.author == max(fit(scores).quality, key=fit(scores).quality.__getitem__)
            assert one.author != ranked.order[0]
    assert found > 15


@given(st.integers(0, 400), st.randoms(use_true_random=False))
def test_names_and_arrival_order_never_show(seed: int, random: Random) -> None:
    """Renamed and in another order, the same score counts otherwise, and as the same."""
    scores = drawn(seed)
    names = sorted({one.author for one in scores})
    rename = dict(zip(names, random.sample(names, len(names)), strict=True))
    moved = [replace(one, reviewer=rename[one.reviewer], author=rename[one.author]) for one in scores]
    random.shuffle(moved)
    none = dict.fromkeys(names, 0.0)
    assert {(rename[r], rename[a]): value for (r, a), value in obeying(scores, none, ()).items()} == obeying(
        moved, none, ()
    )
