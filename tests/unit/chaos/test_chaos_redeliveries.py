"""What must, and what may, have been counted of deliveries that were not the first, by what NATS tells."""

from typing import Any

import pytest

from fleet.chaos.counters import Life, differences, series
from fleet.chaos.history import Backlog, InjectedFault, Settled
from fleet.chaos.redeliveries import facts

COLLECTOR, WORKERS = (series("fleet_redelivered_total", consumer=name) for name in ("collector", "workers"))


def settled(sequence: int, delivery: int, number: int, at: float = 50.0, consumer: str = "collector") -> Settled:
    return Settled(at=at, consumer=consumer, tenant="default", sequence=sequence, delivery=delivery, number=number)


def look(
    at: float, delivered: int, created: float = 1.0, unacknowledged: int = 0, consumer: str = "collector"
) -> Backlog:
    return Backlog(
        at=at,
        consumer=consumer,
        pending=0,
        unacknowledged=unacknowledged,
        floor=0,
        last=0,
        delivered=delivered,
        created=created,
    )


# Three messages in five deliveries: the second came twice, the third did, and its first delivery reached nobody.
SETTLED = (settled(1, 1, 1), settled(2, 1, 2), settled(2, 2, 3), settled(3, 2, 5))
LOOKS = tuple(look(at, 5) for at in range(40, 60))


def wrong(counted: dict[str, float], *lives: Life, **seen: Any) -> list[str]:
    """What is said to be wrong of one process that has lived all the time, beside these."""
    one = Life(process="collector", began=0, first=0, last=100, counted=counted)
    known: dict[str, Any] = {"settled": SETTLED, "backlogs": LOOKS, "injected": ()} | seen
    return [name for name, _ in differences([one, *lives], list(facts(**known)))]


def test_what_came_again_and_was_settled_is_counted_once() -> None:
    assert wrong({COLLECTOR: 2}) == []


@pytest.mark.parametrize("counted", [0, 1, 3, 4])
def test_false_sums_are_seen(counted: int) -> None:
    """One that was forgotten, one that was counted twice."""
    assert wrong({COLLECTOR: counted}) == [COLLECTOR]


def test_what_nobody_settled_may_be_counted_or_not() -> None:
    """NATS has delivered it again: to a process that died, perhaps after it had counted it."""
    looks = tuple(look(at, 7) for at in range(40, 60))
    assert [wrong({COLLECTOR: counted}, backlogs=looks) for counted in (1, 2, 3, 4, 5)] == [
        [COLLECTOR],
        [],
        [],
        [],
        [COLLECTOR],
    ]


def test_what_a_process_that_died_counted_last_may_be_missing() -> None:
    """After its last scrape, as with every other counter."""
    died = Life(process="collector-2", began=0, first=0, last=49, counted={COLLECTOR: 0})
    next_one = Life(process="collector-2", began=52, first=52, last=100, counted={COLLECTOR: 0})
    assert wrong({COLLECTOR: 0}, died, next_one) == []
    early = Life(process="collector-2", began=0, first=0, last=20, counted={COLLECTOR: 0})
    after = Life(process="collector-2", began=22, first=22, last=100, counted={COLLECTOR: 0})
    assert wrong({COLLECTOR: 0}, early, after) == [COLLECTOR]


def test_of_a_consumer_that_was_deleted_both_lives_count() -> None:
    """The numbers of its deliveries begin anew. Those since the last look at it nobody knows."""
    looks = (
        *(look(at, 4, unacknowledged=1) for at in range(40, 48)),
        *(look(at, 1, created=47.5) for at in range(48, 60)),
    )
    made = (settled(1, 1, 1, 41.0), settled(2, 1, 2, 41.0), settled(2, 2, 3, 42.0), settled(3, 1, 1, 55.0))
    assert [wrong({COLLECTOR: n}, settled=made, backlogs=looks) for n in (0, 1, 2, 3, 4)] == [
        [COLLECTOR],
        [],
        [],
        [],
        [COLLECTOR],
    ]


def test_what_a_killed_server_has_forgotten_may_be_counted() -> None:
    """It wrote five deliveries, made two more, was killed, and goes on after five."""
    made = (*SETTLED, settled(3, 3, 6, 50.2), settled(3, 4, 7, 50.3))
    looks = tuple(look(at, 5) for at in range(40, 60))
    killed = InjectedFault(number=0, kind="kill", target="nats", began=50.4, ended=50.6, what="")
    assert [wrong({COLLECTOR: n}, settled=made, backlogs=looks, injected=(killed,)) for n in (3, 4, 6, 7)] == [
        [COLLECTOR],
        [],
        [],
        [COLLECTOR],
    ]


def test_of_workers_there_is_no_lower_bound() -> None:
    """One of two answers to a call counts, and tells of its own delivery."""
    made = [settled(1, 1, 1, consumer="workers"), settled(1, 2, 2, consumer="workers")]
    looks = [look(at, 2, consumer="workers") for at in range(40, 60)]
    seen: dict[str, Any] = {"settled": made, "backlogs": looks}
    assert [wrong({WORKERS: n}, **seen) for n in (0, 1, 2)] == [[], [], [WORKERS]]


def test_counted_out_of_nothing_is_seen() -> None:
    """Of a consumer that has delivered nothing again."""
    assert wrong({COLLECTOR: 1}, settled=(settled(1, 1, 1),), backlogs=(look(50, 1), look(51, 1))) == [COLLECTOR]
