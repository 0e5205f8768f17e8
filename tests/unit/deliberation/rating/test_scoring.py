"""From a reviewer's criteria to its score, and how reviewers' own orders compare."""

from fleet.deliberation.rating.scoring import DEFAULT_RUBRIC, Score, borda, weighted


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


def test_means_that_differ_in_the_last_bit_are_a_draw() -> None:
    """(3 · 2.2 + 2 · 9.9 + 9.9) ÷ 6 and 6.05 are the same number, and not the same float."""
    mean = weighted({"correctness": 2.2, "completeness": 9.9, "clarity": 9.9}, DEFAULT_RUBRIC)
    assert mean is not None
    assert mean != 6.05
    said = [Score("r", "a", mean, 1, 2), Score("r", "b", 6.05, 2, 2)]
    assert borda(said) == {"a": 0.5, "b": 0.5}


def test_weights_count_only_scored_criteria() -> None:
    """The weighted mean is over what was scored; a criterion nobody asked for is ignored, none at all is None."""
    rubric = {"correctness": 3.0, "clarity": 1.0}
    assert weighted({"correctness": 8, "clarity": 4}, rubric) == 7.0
    assert weighted({"clarity": 4, "style": 10}, rubric) == 4.0
    assert weighted({}, rubric) is None
