"""`fleet bench` of speed: what is computed from the times it takes."""

import pytest

from fleet.bench.speed import parallelism
from fleet.bench.speed.parallelism import ratio_of_medians


def test_median_ratio_has_an_error_from_enough_pairs_on() -> None:
    """A few pairs say nothing of how sure the ratio is."""
    values, baselines = [110.0, 120.0, 130.0], [100.0, 100.0, 400.0]
    assert ratio_of_medians(values, baselines) == (120, 100, None)
    enough = ratio_of_medians(values * parallelism.FEWEST, baselines * parallelism.FEWEST)
    assert enough[:2] == (120, 100)
    assert enough[2] is not None
    assert 0 < enough[2] < 1


def test_equal_pairs_have_no_error() -> None:
    """And every run of the bootstrap says the same."""
    value, baseline, error = ratio_of_medians([2.0] * 20, [1.0] * 20)
    assert (value, baseline) == (2, 1)
    assert error == pytest.approx(0)
