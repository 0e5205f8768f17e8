"""Scores become one number per proposal: reviewers count alike, bias is taken out, nothing is made up."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.deliberation.scoring import Score, borda, columns, fit, weighted

QUALITY = {"a": 8.0, "b": 6.0, "c": 5.0, "d": 3.0, "e": 2.0}
AGENTS = tuple(QUALITY)
EARLY = (23 / 36, -1 / 36, -9 / 36, -13 / 36)
"""x at the four places that each of five agents sees."""


def scores(
    *,
    leniency: dict[str, float] | None = None,
    per_position: float = 0.0,
    same_model: float = 0.0,
    models: dict[str, str] | None = None,
    seed: int = 1,
) -> list[Score]:
    """What judges who know the quality say, with the given distortions, each in a shuffled order."""
    rng = Random(seed)
    said = []
    for reviewer in AGENTS:
        order = [agent for agent in AGENTS if agent != reviewer]
        rng.shuffle(order)
        for place, author in enumerate(order, start=1):
            alike = (models or {}).get(reviewer) == (models or {}).get(author)
            shift = per_position * ((place - 1) / (len(order) - 1) - 0.5)
            value = QUALITY[author] + (leniency or {}).get(reviewer, 0.0) + shift + same_model * alike
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


@pytest.mark.parametrize("agents", [3, 5])
@pytest.mark.parametrize("added", [-8.0, -5.0, -3.0, 3.0, 5.0, 8.0])
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
    assert fit(scores(leniency={"c": -0.5})).leniency_weight == 1.0
    assert fit(scores(leniency={"c": -8.0})).leniency_weight < 0.2


def test_position_bias_is_found_and_taken_out() -> None:
    """The same points for being shown early, in everybody's order: the effect is seen, and the order is right."""
    assert fit(scores(per_position=-3.0)).effects["position"] > 1.0
    assert order_of(scores(per_position=-3.0)) == list(AGENTS)


def test_bonus_for_the_first_shown_is_found_and_taken_out() -> None:
    """The same points for standing first: the effect is seen, and the order is right."""
    said = scores(seed=3)
    bonus = [Score(g.reviewer, g.author, g.score + 3.0 * (g.position == 1), g.position, g.shown) for g in said]
    assert fit(bonus).effects["position"] > 1.5
    assert order_of(bonus) == list(AGENTS)


def test_places_weigh_most_at_the_beginning() -> None:
    """x falls from the first place to the last, most steeply at first, over a range of 1 and with mean 0."""
    for shown, expected in ((2, (0.5, -0.5)), (4, EARLY)):
        said = [Score("r", f"p{place}", 5, place, shown) for place in range(1, shown + 1)]
        assert columns(said)[0] == pytest.approx(list(expected))
    assert columns([Score("r", "p", 5, 1, 1)])[0] == [0.0]


def test_preference_for_the_own_model_is_found_and_taken_out() -> None:
    """Points for what the reviewer's own model wrote, in a council of two models."""
    models = {"a": "x", "b": "y", "c": "y", "d": "x", "e": "y"}
    said = scores(same_model=3.0, models=models)
    assert fit(said).effects["same_model"] == pytest.approx(3.0, abs=1.0)
    assert order_of(said) == list(AGENTS)


def test_quality_is_the_mean_of_the_adjusted_scores() -> None:
    """Anybody can check: score less leniency, position and model is `adjusted`, and its mean is the quality."""
    models = {"a": "x", "b": "y", "c": "y", "d": "x", "e": "y"}
    said = scores(leniency={"b": 2.0, "d": -1.0}, per_position=2.0, same_model=1.0, models=models)
    fitted = fit(said)
    alike = sum(g.same_model for g in said) / len(said)
    for one in said:
        by_hand = (
            one.score
            - fitted.leniency[one.reviewer]
            - fitted.effects["position"] * EARLY[one.position - 1]
            - fitted.effects["same_model"] * (one.same_model - alike)
        )
        assert fitted.adjusted[one.reviewer, one.author] == pytest.approx(by_hand, abs=1e-4)
    for author in AGENTS:
        adjusted = [fitted.adjusted[one.reviewer, author] for one in said if one.author == author]
        assert fitted.quality[author] == pytest.approx(sum(adjusted) / len(adjusted), abs=1e-5)


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
    assert before.effects == after.effects
    assert {rename[agent]: value for agent, value in borda(said).items()} == borda(moved)


def test_borda_counts_wins_within_each_reviewers_scores() -> None:
    """A share of the comparisons won, draws counting half; harshness does not matter."""
    said = [
        Score("a", "b", 9, 1, 2),
        Score("a", "c", 5, 2, 2),
        Score("b", "a", 2, 1, 2),
        Score("b", "c", 2, 2, 2),
        Score("c", "a", 1, 1, 2),
        Score("c", "b", 3, 2, 2),
    ]
    assert borda(said) == {"b": 1.0, "a": 0.25, "c": 0.25}


def test_weights_count_only_scored_criteria() -> None:
    """The weighted mean is over what was scored; a criterion nobody asked for is ignored, none at all is None."""
    rubric = {"correctness": 3.0, "clarity": 1.0}
    assert weighted({"correctness": 8, "clarity": 4}, rubric) == 7.0
    assert weighted({"clarity": 4, "style": 10}, rubric) == 4.0
    assert weighted({}, rubric) is None
