"""Health: what makes a component alive, ready, and what a stall is."""

from types import SimpleNamespace
from typing import Any

import pytest

from fleet.control.recovery.watchdog import STALLED_AFTER_S, Flow
from fleet.observability import health
from fleet.observability.health import Health


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(health, "time", made)
    return made


def test_a_loop_that_does_not_turn_is_not_alive(clock: Clock) -> None:
    """Only the loop itself beats."""
    component = Health("test")
    component.set("nats", ok=True)
    assert component.alive
    clock.now += health.STALE_S
    component.set("nats", ok=True)
    assert not component.alive
    component.beat()
    assert component.alive


def test_a_probe_that_is_not_answered_any_more_is_a_problem(clock: Clock) -> None:
    """An old good answer is none."""
    component = Health("test")
    component.set("nats", ok=True)
    assert component.problems() == []
    clock.now += health.STALE_S + 1
    assert component.problems() == ["nats"]


def test_each_problem_is_named_until_it_is_over() -> None:
    """Those that are told, and those that are asked for."""
    component = Health("test")
    component.set("stream X is full", ok=False)
    component.watch("workers", lambda: False)
    assert component.problems() == ["stream X is full", "workers"]
    component.forget("stream X is full")
    assert component.problems() == ["workers"]


def consumer(*, delivered: int, pending: int, unacknowledged: int = 0, acknowledged: int = 0) -> Any:
    return SimpleNamespace(
        delivered=SimpleNamespace(consumer_seq=delivered),
        ack_floor=SimpleNamespace(consumer_seq=acknowledged),
        num_pending=pending,
        num_ack_pending=unacknowledged,
        config=SimpleNamespace(max_ack_pending=10),
    )


LATER = STALLED_AFTER_S + 1


def test_messages_that_wait_and_do_not_come_are_a_stall() -> None:
    """Not at once: they may be on their way."""
    flow = Flow()
    assert not flow.stalled(consumer(delivered=5, pending=3), 0)
    assert not flow.stalled(consumer(delivered=5, pending=3), 1)
    assert flow.stalled(consumer(delivered=5, pending=4), LATER)
    assert not flow.stalled(consumer(delivered=6, pending=3), LATER + 1)


def test_nothing_to_do_is_no_stall() -> None:
    """However long."""
    flow = Flow()
    assert not flow.stalled(consumer(delivered=5, pending=0), 0)
    assert not flow.stalled(consumer(delivered=5, pending=0), LATER)
    assert not flow.stalled(consumer(delivered=5, pending=1), LATER + 1)


def test_a_consumer_that_has_its_hands_full_is_not_stalled() -> None:
    """Requests beyond `max_in_flight` wait as long as it takes."""
    flow = Flow()
    for now in (0.0, LATER):
        assert not flow.stalled(consumer(delivered=10, pending=3, unacknowledged=10), now)
