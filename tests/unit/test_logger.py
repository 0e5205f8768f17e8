"""What may come in thousands: how often a log tells of it."""

import pytest

from fleet import logger
from fleet.logger import Seldom
from tests.support.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(logger, "time", clock)
    return clock


def test_one_line_a_second_says_how_many_there_were(clock: Clock) -> None:
    """Of each kind, whatever comes of another."""
    seldom = Seldom()
    assert [seldom.count("one") for _ in range(3)] == [1, None, None]
    assert seldom.count("other") == 1
    clock.now += 1
    assert seldom.count("one") == 3
    assert seldom.count("other") == 1


def test_kinds_that_a_stranger_makes_up_share_a_line(clock: Clock) -> None:
    """As names of consumers are: a flood of them is told of seldom, too."""
    seldom = Seldom()
    lines = sum(seldom.count(f"made up {number}") is not None for number in range(1000))
    assert lines == Seldom.MOST + 1
    clock.now += 1
    assert [seldom.count(f"later {number}") for number in range(3)] == [1, 1, 1]
