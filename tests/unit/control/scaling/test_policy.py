"""How many workers there should be: grows at once, falls late, and does not flap."""

import itertools
import random

import pytest
from msgspec import structs

from fleet.control.scaling.policy import STARTING_MS, Load, first_size, next_size
from fleet.limits.workers import Workers
from fleet.messages.workers import PoolSize

WORKERS = Workers(min=1, max=8, calls_per_worker=10, shrink_after_s=60)
NOW = 1_767_225_600_000
TICK_MS = 2_000


def load(calls: float) -> Load:
    return Load(open_calls=0, coming=calls)


def follow(loads: list[float], workers: Workers = WORKERS, before: PoolSize | None = None) -> list[PoolSize]:
    """The decisions, one every two seconds."""
    sizes: list[PoolSize] = []
    size = before or first_size(workers, load(0), 0, NOW)
    for calls in loads:
        size = next_size(size, workers, load(calls), size.decided_at_ms + TICK_MS)
        sizes.append(size)
    return sizes


def wanted(sizes: list[PoolSize]) -> list[int]:
    return [size.wanted for size in sizes]


@pytest.mark.parametrize(("calls", "expected"), [(0, 1), (1, 1), (10, 1), (10.5, 2), (35, 4), (80, 8), (10_000, 8)])
def test_it_grows_at_once_to_what_is_needed(calls: float, expected: int) -> None:
    """Whole workers, and never more or fewer than the settings allow."""
    assert wanted(follow([calls])) == [expected]


def test_calls_that_are_coming_count_like_open_ones() -> None:
    """Between two phases nothing is open, and the next phase brings as many; requests that wait come beside them."""
    assert Load(open_calls=4, coming=30.0).calls_at_once == 30
    assert Load(open_calls=40, coming=30.0).calls_at_once == 40
    assert Load(open_calls=4, coming=30.0, begins=5, width=3.0).calls_at_once == 45
    assert Load(open_calls=0, coming=0.0, begins=2, width=0.0).calls_at_once == 2


def test_it_falls_after_a_while_to_the_most_that_were_needed_in_it() -> None:
    """Not to what this one moment needs."""
    ticks = int(WORKERS.shrink_after_s * 1000 / TICK_MS)
    sizes = follow([75] + [5] * (ticks // 2) + [35] + [5] * (ticks // 2) + [5] * 2)
    assert wanted(sizes)[:ticks] == [8] * ticks
    assert wanted(sizes)[-1] == 4
    later = follow([5] * (ticks + 2), before=sizes[-1])
    assert wanted(later)[-1] == 1


def test_a_short_lull_ends_nobody() -> None:
    """Each time it gets busy again, the wait begins anew."""
    ticks = int(WORKERS.shrink_after_s * 1000 / TICK_MS)
    sizes = follow(([75] + [0] * (ticks - 1)) * 5)
    assert set(wanted(sizes)) == {8}


def test_a_load_at_the_edge_of_a_workers_room_does_not_flap() -> None:
    """It goes a little above and a little below, for long each time: nothing is started or ended."""
    ticks = 2 * int(WORKERS.shrink_after_s * 1000 / TICK_MS)
    sizes = follow(([31.0] * ticks + [29.5] * ticks) * 4)
    assert set(wanted(sizes)) == {4}


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_it_is_enough_and_changes_rarely(seed: int) -> None:
    """Always as many as are needed, as far as allowed; and it falls no more often than the wait lets it."""
    chance = random.Random(seed)
    loads: list[float] = []
    while len(loads) < 2_000:
        loads += [chance.choice([0, 5, 29.5, 31, 60, 200])] * chance.randint(1, 60)
    sizes = follow(loads)
    assert all(size.wanted >= size.needed for size in sizes)
    falls = [after.decided_at_ms for before, after in itertools.pairwise(sizes) if after.wanted < before.wanted]
    assert all(b - a >= WORKERS.shrink_after_s * 1000 for a, b in itertools.pairwise(falls))


def test_from_none_to_none() -> None:
    """With a minimum of 0 the first request that waits brings a worker; without work the last one ends."""
    workers = structs.replace(WORKERS, min=0)
    none = first_size(workers, load(0), 0, NOW)
    assert none.wanted == 0
    one = next_size(none, workers, Load(0, 0.0, begins=1, width=3.0), NOW + TICK_MS)
    assert one.wanted == 1
    ticks = int(WORKERS.shrink_after_s * 1000 / TICK_MS)
    assert wanted(follow([0] * (ticks + 2), workers, one))[-1] == 0


def test_where_nothing_is_known_those_that_answer_stay_at_first() -> None:
    """The last decision is forgotten with the memory of NATS; what runs is no reason to end it."""
    first = first_size(WORKERS, load(5), 6, NOW)
    assert first.wanted == 6
    assert first_size(WORKERS, load(5), 60, NOW).wanted == 8
    ticks = int(WORKERS.shrink_after_s * 1000 / TICK_MS)
    assert wanted(follow([5] * (ticks + 2), before=first))[-1] == 1


def test_a_worker_is_due_when_a_node_had_time_to_come() -> None:
    """Until then nobody is alarmed that it is missing; one that is not wanted any more is not missing either."""
    (grown,) = follow([75])
    assert (grown.wanted, grown.due) == (8, 0)
    late = next_size(grown, WORKERS, load(75), grown.decided_at_ms + STARTING_MS)
    assert late.due == 8
    assert wanted(follow([5] * 32, before=late))[-1] == 1
    assert follow([5] * 32, before=late)[-1].due == 1


def test_other_settings_hold_from_the_next_decision_on() -> None:
    """A pool that is larger than it may be now, or smaller."""
    (size,) = follow([75])
    assert next_size(size, structs.replace(WORKERS, max=4), load(75), NOW).wanted == 4
    (small,) = follow([0])
    assert next_size(small, structs.replace(WORKERS, min=3), load(0), NOW).wanted == 3
