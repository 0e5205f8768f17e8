"""From scores or votes to an order: ties, comparisons, penalties, confidence."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.deliberation.rating.ranking import Standings, by_score, by_votes, pairs_to_compare, text_hash
from fleet.deliberation.rating.scoring import Score
from fleet.messages import Comparison

AGENTS = ("a", "b", "c", "d")
NONE = dict.fromkeys(AGENTS, 0.0)
MODELS = dict.fromkeys(AGENTS, "m")
TEXTS = {agent: f"text of {agent}" for agent in AGENTS}


def said(table: dict[str, dict[str, float]]) -> list[Score]:
    """{reviewer: {author: score}}, each shown in the order of the table."""
    return [
        Score(reviewer, author, score, place, len(cards))
        for reviewer, cards in table.items()
        for place, (author, score) in enumerate(cards.items(), start=1)
    ]


ALL_ALIKE = said({r: {a: 7.0 for a in AGENTS if a != r} for r in AGENTS})


def compared(reviewer: str, order: tuple[str, str], chosen: str) -> Comparison:
    return Comparison(phase="compare", reviewer_id=reviewer, order=order, chosen=chosen)


def ballot(reviewer: str, chosen: str) -> Comparison:
    return Comparison(phase="vote", reviewer_id=reviewer, order=AGENTS, chosen=chosen)


def rank(scores: list[Score], **more: object) -> Standings:
    return by_score(AGENTS, scores, NONE, TEXTS, models=MODELS, **more)  # type: ignore[arg-type]


TIED = said(
    {
        "c": {"a": 8, "b": 8, "d": 5},
        "d": {"b": 8, "a": 8, "c": 4},
        "a": {"b": 8, "c": 4},
        "b": {"a": 8, "c": 4},
    }
)


def test_best_score_wins_and_unscored_come_last_in_agent_order() -> None:
    """What nobody scored has no number, and stands behind all that has one."""
    standings = rank(said({"a": {"d": 3.0}, "b": {"d": 5.0}}))
    assert standings.order == ("d", "a", "b", "c")
    assert standings.score["a"] is None


def test_nobody_scored_anything_is_agent_order_without_confidence() -> None:
    """No scores: no margin, confidence 0, and no pretence of a verdict."""
    standings = rank([])
    assert (standings.order, standings.decided_by) == (AGENTS, "agent_order")
    assert (standings.margin, standings.confidence) == (None, 0.0)


def test_failed_checks_cost_points() -> None:
    """One point for each failed check, never below 0."""
    scores = said({"c": {"a": 8.0, "b": 7.5}, "d": {"a": 8.0, "b": 7.5}})
    plain = by_score(AGENTS, scores, NONE, TEXTS, models=MODELS)
    fined = by_score(AGENTS, scores, {**NONE, "a": 1.0, "b": 9.0}, TEXTS, models=MODELS)
    assert plain.order[0] == "a"
    assert plain.score["a"] is not None
    assert fined.score["a"] == pytest.approx(plain.score["a"] - 1)
    assert fined.score["b"] == 0.0


def test_a_fault_ranks_behind_whatever_its_score() -> None:
    """The best score with a fault stands behind the worst without; its chance is 0, and checks have decided."""
    scores = said({"c": {"a": 9.0, "b": 3.0, "d": 2.0}, "d": {"a": 9.0, "b": 4.0, "c": 2.0}, "a": {"b": 4.0}})
    clean, broken = rank(scores), rank(scores, faulty={"a"})
    assert clean.order[0] == "a"
    assert (broken.order[0], broken.order[-1], broken.decided_by) == ("b", "a", "checks")
    assert broken.p_best["a"] == 0.0
    assert sum(broken.p_best.values()) == pytest.approx(1, abs=1e-3)
    assert rank(scores, faulty=set(AGENTS)).order == clean.order


def test_votes_do_not_carry_a_fault_to_the_first_place() -> None:
    """All votes for it, and it is the last all the same."""
    ballots = [ballot("c", "a"), ballot("b", "a"), ballot("d", "b")]
    assert by_votes(AGENTS, ballots, NONE, TEXTS).order[0] == "a"
    standings = by_votes(AGENTS, ballots, NONE, TEXTS, faulty={"a"})
    assert (standings.order[0], standings.order[-1], standings.decided_by) == ("b", "a", "checks")


def test_tie_is_broken_by_comparisons_in_both_orders() -> None:
    """The one that a reviewer chooses in both orders gets its point."""
    tie = rank(TIED)
    assert set(tie.tied) == {"a", "b"}
    comparisons = [compared("c", ("a", "b"), "b"), compared("c", ("b", "a"), "b")]
    broken = rank(TIED, comparisons=comparisons)
    assert (broken.order[0], broken.decided_by) == ("b", "comparison")
    comparisons = [compared("c", ("a", "b"), "a"), compared("c", ("b", "a"), "a")]
    assert rank(TIED, comparisons=comparisons).order[0] == "a"


def test_reviewer_that_follows_the_order_decides_nothing() -> None:
    """Whoever is shown first, it chooses that: half a point each, and the stated rules decide."""
    comparisons = [compared("c", ("a", "b"), "a"), compared("c", ("b", "a"), "b")]
    broken = rank(TIED, comparisons=comparisons)
    assert broken.order == rank(TIED).order
    assert broken.decided_by != "comparison"


def test_last_resort_is_the_text_not_the_seat() -> None:
    """Alike in every judgement: the smaller hash of the text, wherever its author sits."""
    standings = rank(ALL_ALIKE)
    assert standings.decided_by == "text_hash"
    assert list(standings.order) == sorted(AGENTS, key=lambda agent: text_hash(TEXTS[agent]))


def test_comparisons_are_asked_for_a_tie_at_the_top_only() -> None:
    """Pairs of those tied for the first place; none where nothing is tied, too much is, or nobody is left to judge."""
    assert pairs_to_compare(rank(TIED), AGENTS) == [("a", "b")]
    assert pairs_to_compare(rank(TIED), ("a", "b")) == []
    assert pairs_to_compare(rank(said({"c": {"a": 8, "b": 7}, "d": {"a": 8, "b": 7}})), AGENTS) == []
    assert pairs_to_compare(rank(ALL_ALIKE), AGENTS) == []


def test_reviewers_who_make_no_difference_are_not_asked_again() -> None:
    """All scores of every reviewer alike: they have said that there is nothing to choose."""
    three = ("a", "b", "c")
    alike = said({r: {a: 7.0 for a in three if a != r} for r in three})
    standings = by_score(three, alike, NONE, TEXTS, models=MODELS)
    assert set(standings.tied) == set(three)
    assert pairs_to_compare(standings, three) == []


def test_tie_margin_widens_the_tie_and_the_score_still_counts() -> None:
    """Closer than the margin counts as tied; without comparisons the better score wins."""
    scores = said({"c": {"a": 8.0, "b": 7.7}, "d": {"b": 7.7, "a": 8.0}})
    assert rank(scores).tied == ()
    wide = rank(scores, tie_margin=0.5)
    assert set(wide.tied) == {"a", "b"}
    assert (wide.order[0], wide.decided_by) == ("a", "score")


def test_tie_margin_is_not_lost_to_rounding() -> None:
    """7.2 and 7.0 are within 0.2 of each other, as 8.1 and 7.9 are."""
    for high, low in ((7.2, 7.0), (8.1, 7.9)):
        scores = [Score("c", "a", high, 1, 1), Score("d", "b", low, 1, 1)]
        assert set(rank(scores, tie_margin=0.2).tied) == {"a", "b"}


def test_confidence_is_coverage_times_agreement() -> None:
    """3 of 4 comparing reviewers agree: 0.75; with half of the scores absent it is half of that."""
    table = {
        "a": {"b": 5.0, "c": 4.0, "d": 4.0},
        "b": {"a": 9.0, "c": 4.0, "d": 4.0},
        "c": {"a": 9.0, "b": 5.0, "d": 4.0},
        "d": {"a": 9.0, "b": 5.0, "c": 4.0},
    }
    assert rank(said(table)).confidence == 1.0
    table["d"] = {"a": 4.0, "b": 9.0, "c": 4.0}
    assert rank(said(table)).confidence == 0.5
    del table["a"], table["b"]
    assert rank(said(table)).confidence == pytest.approx(0.5 * 6 / 12)


def test_chances_of_being_the_best_are_one_together() -> None:
    """The better the score the likelier; a wider lead makes the leader surer; even ones have even chances."""
    close = rank(said({r: {a: 8.0 - "abcd".index(a) / 4 for a in AGENTS if a != r} for r in AGENTS}))
    clear = rank(said({r: {a: 9.0 if a == "a" else 5.0 for a in AGENTS if a != r} for r in AGENTS}))
    for standings in (close, clear):
        assert sum(standings.p_best.values()) == pytest.approx(1, abs=1e-3)
        chances = [standings.p_best[agent] for agent in standings.order]
        assert chances == sorted(chances, reverse=True)
    assert 0.25 < close.p_best["a"] < clear.p_best["a"]
    assert clear.p_best["a"] > 0.9
    assert rank(ALL_ALIKE).p_best == dict.fromkeys(AGENTS, 0.25)
    assert rank([]).p_best == {}


def test_reviewers_of_one_model_are_fewer_opinions() -> None:
    """Three judges of three models are worth more than three of one, and the verdict is surer for it."""
    table = said({r: {a: 9.0 if a == "a" else 7.0 for a in AGENTS if a != r} for r in AGENTS})
    one = by_score(AGENTS, table, NONE, TEXTS, models=MODELS)
    four = by_score(AGENTS, table, NONE, TEXTS, models={agent: agent for agent in AGENTS})
    assert one.effective_reviewers is not None
    assert four.effective_reviewers is not None
    assert 1 <= one.effective_reviewers < 2 < four.effective_reviewers <= 3
    assert one.p_best["a"] < four.p_best["a"]


def test_votes_rank_and_ties_go_to_the_comparison() -> None:
    """Most votes win; a tie is compared; what nobody scored has no score."""
    standings = by_votes(AGENTS, [ballot("a", "b"), ballot("c", "b"), ballot("d", "a")], NONE, TEXTS)
    assert standings.order[0] == "b"
    assert (standings.margin, standings.decided_by) == (1.0, "votes")
    assert standings.confidence == pytest.approx(3 / 4 * 2 / 3, abs=1e-4)
    assert set(standings.score.values()) == {None}
    ballots = [ballot("c", "b"), ballot("d", "a")]
    tie = by_votes(AGENTS, ballots, NONE, TEXTS)
    assert set(tie.tied) == {"a", "b"}
    comparisons = [compared("c", ("a", "b"), "b"), compared("c", ("b", "a"), "b")]
    broken = by_votes(AGENTS, ballots, NONE, TEXTS, comparisons=comparisons)
    assert (broken.order[0], broken.decided_by) == ("b", "comparison")


def test_equal_votes_go_to_fewer_failed_checks() -> None:
    """A failed check decides between proposals with as many votes."""
    ballots = [ballot("c", "b"), ballot("d", "a")]
    standings = by_votes(AGENTS, ballots, {**NONE, "a": 1.0}, TEXTS)
    assert (standings.order[0], standings.decided_by) == ("b", "checks")


SCORES = st.lists(
    st.tuples(st.sampled_from(AGENTS), st.sampled_from(AGENTS), st.integers(0, 10), st.integers(1, 3)),
    max_size=12,
    unique_by=lambda row: row[:2],
).map(lambda rows: [Score(r, a, float(s), p, 3) for r, a, s, p in rows if r != a])
CHOICES = st.lists(
    st.tuples(st.sampled_from(AGENTS), st.permutations(AGENTS).map(lambda p: tuple(p[:2])), st.integers(0, 1)),
    max_size=8,
    unique_by=lambda row: row[:2],
).map(lambda rows: [compared(r, order, order[i]) for r, order, i in rows])


@given(SCORES, CHOICES, st.permutations(AGENTS), st.sampled_from([0.0, 1.0]), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_permuting_agents_and_arrivals_never_changes_the_ranking(
    scores: list[Score], comparisons: list[Comparison], names: list[str], tie_margin: float, random: Random
) -> None:
    """The same texts with the same judgements rank alike, whoever wrote them, whoever judged, whatever came first."""
    rename = dict(zip(AGENTS, names, strict=True))
    moved = [Score(rename[g.reviewer], rename[g.author], g.score, g.position, g.shown) for g in scores]
    choices = [
        compared(rename[c.reviewer_id], (rename[c.order[0]], rename[c.order[1]]), rename[c.chosen]) for c in comparisons
    ]
    random.shuffle(moved)
    random.shuffle(choices)
    texts = {rename[agent]: text for agent, text in TEXTS.items()}
    before = by_score(AGENTS, scores, NONE, TEXTS, models=MODELS, tie_margin=tie_margin, comparisons=comparisons)
    after = by_score(AGENTS, moved, NONE, texts, models=MODELS, tie_margin=tie_margin, comparisons=choices)
    scored = [agent for agent in before.order if before.score[agent] is not None]
    assert [rename[agent] for agent in scored] == list(after.order)[: len(scored)]
    assert (before.margin, before.confidence) == (after.margin, after.confidence)
    assert {rename[agent]: chance for agent, chance in before.p_best.items()} == after.p_best
    if scored:
        assert before.decided_by == after.decided_by
