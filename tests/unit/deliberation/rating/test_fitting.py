"""Scores become one number per proposal: reviewers count alike, places cancel, nothing is made up."""

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.deliberation.labels import balanced_orders
from fleet.deliberation.rating.fitting import CLAMP, fit
from fleet.deliberation.rating.scoring import Score, borda

QUALITY = {"a": 8.0, "b": 6.0, "c": 5.0, "d": 3.0, "e": 2.0}
AGENTS = tuple(QUALITY)


def scores(
    *,
    leniency: dict[str, float] | None = None,
    by_place: Sequence[float] = (0.0,) * 8,
    same_model: float = 0.0,
    models: dict[str, str] | None = None,
    quality: dict[str, float] = QUALITY,
    seed: int = 1,
) -> list[Score]:
    """What judges who know the quality say, with the given distortions, in balanced orders."""
    names = list(quality)
    said = []
    for reviewer, order in zip(names, balanced_orders(str(seed), len(names)), strict=True):
        for place, index in enumerate(order, start=1):
            author = names[index]
            alike = (models or {}).get(reviewer) == (models or {}).get(author)
            value = quality[author] + (leniency or {}).get(reviewer, 0.0) + by_place[place - 1] + same_model * alike
            said.append(Score(reviewer, author, value, place, len(order), alike))
    return said


def order_of(said: list[Score]) -> list[str]:
    quality = fit(said).quality
    return sorted(quality, key=lambda agent: -quality[agent])


def test_undistorted_scores_are_what_they_say() -> None:
    """Where reviewers agree, quality is the plain mean, and nobody is called lenient by more than a shade."""
    fitted = fit(scores())
    assert fitted.quality == pytest.approx(QUALITY, abs=0.1)
    assert all(abs(value) < 0.2 for value in fitted.leniency.values())


def test_harsh_and_mild_reviewers_count_alike() -> None:
    """A harsh reviewer cannot hold down those that it judges: its own proposal would gain by being spared."""
    harsh = scores(leniency={"c": -5.0})
    mean = {author: sum(g.score for g in harsh if g.author == author) / 4 for author in AGENTS}
    assert mean["c"] > mean["b"]  # the raw mean falls for it
    assert order_of(harsh) == list(AGENTS)
    assert fit(harsh).leniency["c"] < -3


@pytest.mark.parametrize(
    ("agents", "added"),
    # Of three reviewers, each of whom scores two, one who is 3 points off may as well be right.
    [(3, -8.0), (3, -5.0), (3, 5.0), (3, 8.0), (5, -8.0), (5, -5.0), (5, -3.0), (5, 3.0), (5, 5.0), (5, 8.0)],
)
@pytest.mark.parametrize("who", ["a", "b", "c"])
def test_what_a_reviewer_adds_to_all_its_scores_hardly_moves_anything(agents: int, added: float, who: str) -> None:
    """Where the raw means shift by up to 4 points, the distances between the proposals shift by a fraction of one."""
    names = AGENTS[:agents]

    def said(more: float) -> list[Score]:
        order = {reviewer: [agent for agent in names if agent != reviewer] for reviewer in names}
        return [
            Score(reviewer, author, QUALITY[author] + more * (reviewer == who), place, agents - 1)
            for reviewer in names
            for place, author in enumerate(order[reviewer], start=1)
        ]

    before, after = fit(said(0.0)).quality, fit(said(added)).quality
    for name in names:
        assert after[name] - after["a"] == pytest.approx(before[name] - before["a"], abs=0.9 if agents == 3 else 0.4)


def test_agreed_winner_is_not_lost_to_one_harsh_reviewer() -> None:
    """Everybody who saw the first proposal put it first; the second one is spared by its harsh author."""
    said = [
        Score("a", "b", 8, 1, 2),
        Score("a", "c", 8, 2, 2),
        Score("b", "a", 3, 1, 2),
        Score("b", "c", 2, 2, 2),
        Score("c", "a", 9, 1, 2),
        Score("c", "b", 8, 2, 2),
    ]
    assert order_of(said)[0] == "a"


def test_reviewers_who_hardly_differ_are_left_almost_as_they_are() -> None:
    """The less leniency there is, the more it is taken for chance; the more, the more exactly it is taken out."""
    assert fit(scores(leniency={"c": -0.3})).leniency_weight > 2
    assert fit(scores(leniency={"c": -8.0})).leniency_weight < 0.2


TABLES = st.integers(2, 9).flatmap(
    lambda size: st.tuples(
        st.lists(st.floats(0, 10), min_size=size * size, max_size=size * size),
        st.lists(st.floats(-3, 3), min_size=size - 1, max_size=size - 1),
        st.integers(0, 99),
        st.sampled_from([1, 2, 3]),
    )
)


@given(TABLES)
@settings(max_examples=120, deadline=None)
def test_what_a_place_does_to_all_judges_alike_moves_nothing(
    table: tuple[list[float], list[float], int, int],
) -> None:
    """Any scores, any effect of the places, one model or several: the distances between proposals stay as they are."""
    values, effect, seed, families = table
    size = len(effect) + 1
    orders = balanced_orders(str(seed), size)

    def said(by_place: Sequence[float]) -> list[Score]:
        return [
            Score(
                f"r{reviewer}",
                f"r{author}",
                values[reviewer * size + author] + by_place[place],
                place + 1,
                size - 1,
                reviewer % families == author % families,
            )
            for reviewer, order in enumerate(orders)
            for place, author in enumerate(order)
        ]

    plain, moved = fit(said([0.0] * len(effect))), fit(said(effect))
    mean = sum(effect) / len(effect)
    for name, quality in plain.quality.items():
        # Published with 6 digits.
        assert moved.quality[name] - mean == pytest.approx(quality, abs=1.1e-6)
    assert moved.error == pytest.approx(plain.error, abs=1.1e-6)


def test_places_cancel_to_the_last_digit() -> None:
    """A table of points whose means come out even: nothing moves by 1e-9."""
    effect = [4.0, -1.0, 0.0, -3.0]
    plain, moved = fit(scores()), fit(scores(by_place=effect))
    for name, quality in plain.quality.items():
        assert abs(moved.quality[name] - quality) < 1e-9


def test_one_reviewer_far_off_counts_only_so_far() -> None:
    """A 10 for the worst from one of four: it gains less than the mean would give it, and nobody else moves much."""
    plain = scores()
    obeying = [
        Score(one.reviewer, one.author, 10.0, one.position, one.shown)
        if (one.reviewer, one.author) == ("a", "e")
        else one
        for one in plain
    ]
    before, after = fit(plain), fit(obeying)
    assert after.quality["e"] - before.quality["e"] < 0.75 * (10 - QUALITY["e"]) / 4
    assert after.adjusted["a", "e"] < 10 - CLAMP
    for name in "abcd":
        assert after.quality[name] == pytest.approx(before.quality[name], abs=0.5)


def test_preference_for_the_own_model_is_found_and_taken_out() -> None:
    """Points for what the reviewer's own model wrote, in a council of two models."""
    models = {"a": "x", "b": "y", "c": "y", "d": "x", "e": "y"}
    said = scores(same_model=3.0, models=models)
    assert fit(said).same_model > 1.5
    assert order_of(said) == list(AGENTS)


def test_quality_is_the_mean_of_the_adjusted_scores() -> None:
    """Anybody can check: a score within the clamp, less leniency and taste, is `adjusted`; its mean is the quality."""
    models = {"a": "x", "b": "y", "c": "y", "d": "x", "e": "y"}
    said = scores(leniency={"b": 0.5, "d": -0.3}, same_model=0.5, models=models)
    fitted = fit(said)
    for one in said:
        alike = [other.same_model for other in said if other.position == one.position]
        taste = fitted.same_model * (one.same_model - sum(alike) / len(alike))
        by_hand = one.score - fitted.leniency[one.reviewer] - taste
        assert fitted.adjusted[one.reviewer, one.author] == pytest.approx(by_hand, abs=1e-4)
    for author in AGENTS:
        adjusted = [fitted.adjusted[one.reviewer, author] for one in said if one.author == author]
        assert fitted.quality[author] == pytest.approx(sum(adjusted) / len(adjusted), abs=1e-5)


def test_more_reviewers_know_more() -> None:
    """The covariance of the qualities shrinks with the reviewers, and is larger for what fewer have scored."""
    few, many = fit(scores(quality={"a": 8.0, "b": 6.0, "c": 5.0})), fit(scores())
    assert few.covariance["a", "a"] > many.covariance["a", "a"]
    partly = fit([one for one in scores() if one.author != "e" or one.reviewer in "ab"])
    assert partly.covariance["e", "e"] > partly.covariance["a", "a"]


def test_what_nobody_scored_is_absent() -> None:
    """A proposal without any score has no quality, and reviewers without any have no leniency."""
    fitted = fit([g for g in scores() if g.author != "a" and g.reviewer != "b"])
    assert "a" not in fitted.quality
    assert "b" not in fitted.leniency
    assert fit([]).quality == {}


def test_two_agents_keep_their_raw_scores() -> None:
    """With one score each nothing can be told apart, so nothing is taken out."""
    fitted = fit([Score("a", "b", 7.0, 1, 1), Score("b", "a", 4.0, 1, 1)])
    assert fitted.quality == {"b": 7.0, "a": 4.0}


SCORES = st.lists(
    st.tuples(st.sampled_from(AGENTS), st.sampled_from(AGENTS), st.integers(0, 10), st.integers(1, 4), st.booleans()),
    max_size=20,
    unique_by=lambda row: row[:2],
).map(lambda rows: [Score(r, a, float(s), p, 4, m) for r, a, s, p, m in rows if r != a])


@given(SCORES, st.permutations(AGENTS), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_names_and_arrival_order_never_show(said: list[Score], names: list[str], random: Random) -> None:
    """Agents and reviewers renamed, scores in another order: the same numbers, to the last digit, under new names."""
    rename = dict(zip(AGENTS, names, strict=True))
    moved = [Score(rename[g.reviewer], rename[g.author], g.score, g.position, g.shown, g.same_model) for g in said]
    random.shuffle(moved)
    before, after = fit(said), fit(moved)
    assert {rename[agent]: value for agent, value in before.quality.items()} == after.quality
    assert {rename[agent]: value for agent, value in before.leniency.items()} == after.leniency
    assert before.same_model == after.same_model
    assert {rename[agent]: value for agent, value in borda(said).items()} == borda(moved)
