import heapq
import random
from itertools import pairwise

import pytest

from fleet.model_servers import EndpointConfig
from workers.llm.servers.limits import Grant, Holder, Need, Record, part_of, settle

MINUTE_MS = 60_000


def endpoint(**limits: int) -> EndpointConfig:
    return EndpointConfig(url="http://a", **limits)


def turn(record: Record, config: EndpointConfig, worker: str, need: Need, **more: object) -> tuple[Record, Grant]:
    given = {"now_ms": 1_000, "beat": 1, **more}
    return settle(record, config, worker, need, **given)  # type: ignore[arg-type]


class Worker:
    """One that always has calls waiting; a call takes `call_ms`."""

    def __init__(self, name: str, waiting: int, call_ms: int, skew_ms: int) -> None:
        self.name, self.waiting, self.call_ms, self.skew_ms = name, waiting, call_ms, skew_ms
        self.ends: list[int] = []
        self.owed = 0.0
        self.beat = 0

    def take_turn(self, record: Record, config: EndpointConfig, now: int, expected: int, used: int) -> Record:
        while self.ends and self.ends[0] <= now:
            heapq.heappop(self.ends)
            self.owed += used - expected
        self.beat += 1
        need = Need(open_calls=len(self.ends), waiting=(expected,) * self.waiting, tokens=self.owed)
        self.owed = 0.0
        record, grant = settle(record, config, self.name, need, now_ms=now + self.skew_ms, beat=self.beat)
        for _ in range(grant.calls):
            heapq.heappush(self.ends, now + self.call_ms)
        self.granted = grant.calls
        return record


@pytest.mark.parametrize("waiting", [(50,), (50, 50, 50, 50), (1, 1, 1, 200)])
@pytest.mark.parametrize("limit", ["requests_per_minute", "tokens_per_minute"])
def test_rates_hold_over_the_fleet_in_any_minute(limit: str, waiting: tuple[int, ...]) -> None:
    """Within 5 %, with one worker and four, equally busy or not, whose clocks differ by some milliseconds."""
    tokens = 1 if limit == "requests_per_minute" else 100
    config = endpoint(**{limit: 600 * tokens})
    rng = random.Random(1)
    workers = [Worker(f"w{n}", count, 2_000, rng.randint(0, 40)) for n, count in enumerate(waiting)]
    record, began = Record(), []
    for now in range(0, 3 * MINUTE_MS, 20):
        worker = rng.choice(workers)
        record = worker.take_turn(record, config, now, expected=2 * tokens, used=tokens)
        began += [now] * worker.granted
    for start in range(0, 2 * MINUTE_MS, 5_000):
        calls = sum(start <= at < start + MINUTE_MS for at in began)
        # As long as no call has ended nobody knows that it uses less than was expected.
        assert calls <= 600 * 1.05
        assert start < 10_000 or calls >= 600 * 0.95


@pytest.mark.parametrize("waiting", [(50,), (50, 50, 50, 50), (1, 1, 1, 200), (0, 0, 0, 30)])
def test_seats_hold_over_the_fleet_and_all_are_used(waiting: tuple[int, ...]) -> None:
    """Whoever is busy."""
    config = endpoint(max_concurrency=8)
    rng = random.Random(2)
    workers = [Worker(f"w{n}", count, rng.randint(200, 900), 0) for n, count in enumerate(waiting)]
    record, open_calls = Record(), []
    for now in range(0, MINUTE_MS, 5):
        record = rng.choice(workers).take_turn(record, config, now, 10, 10)
        open_calls.append(sum(end > now for worker in workers for end in worker.ends))
    assert max(open_calls) == 8
    assert sum(open_calls) / len(open_calls) > 8 * 0.95


def test_every_worker_gets_its_turn_where_there_are_fewer_seats_than_workers() -> None:
    """Nobody keeps the only seat."""
    config = endpoint(max_concurrency=1)
    workers = [Worker(f"w{n}", 5, 100, 0) for n in range(4)]
    record, calls = Record(), dict.fromkeys("0123", 0)
    for step in range(4_000):
        worker = workers[step % 4]
        record = worker.take_turn(record, config, 20 * step, 10, 10)
        calls[worker.name[1]] += worker.granted
    assert min(calls.values()) > 0.5 * max(calls.values())


def test_a_dead_workers_seats_are_free_again() -> None:
    """Once somebody has seen that it is silent."""
    config = endpoint(max_concurrency=4)
    record, grant = turn(Record(), config, "dead", Need(waiting=(1,) * 4))
    assert grant.calls == 4
    record, grant = turn(record, config, "alive", Need(waiting=(1,) * 4), now_ms=2_000)
    assert grant.calls == 0
    record, grant = turn(record, config, "alive", Need(waiting=(1,) * 4), now_ms=3_000, lost=["dead"])
    assert grant.calls == 4
    assert record.workers == {"alive": Holder(beat=1, seats=4, wants=4)}


def test_what_was_granted_and_not_used_is_taken_back() -> None:
    """A call that waited was cancelled."""
    config = endpoint(requests_per_minute=60, tokens_per_minute=6_000)
    before, _ = turn(Record(), config, "w", Need())
    record, grant = turn(before, config, "w", Need(waiting=(100,)))
    assert grant.calls == 1
    record, _ = turn(record, config, "w", Need(requests=-1, tokens=-100.0))
    assert (record.requests, record.tokens, record.workers) == (before.requests, before.tokens, {})


def test_a_clock_that_is_behind_gives_nothing_twice() -> None:
    """Time never goes back."""
    config = endpoint(requests_per_minute=600)
    record, _ = turn(Record(), config, "fast", Need(waiting=(1,) * 100), now_ms=50_000)
    for worker, now in (("slow", 1_000), ("fast", 50_000), ("slow", 2_000)):
        record, grant = turn(record, config, worker, Need(waiting=(1,) * 100), now_ms=now)
        assert grant.calls == 0


@pytest.mark.parametrize(
    ("seats", "wants", "parts"),
    [
        (10, {"a": 3, "b": 4}, {"a": 6, "b": 7}),
        (10, {"a": 3, "b": 40}, {"a": 3, "b": 7}),
        (10, {"a": 40, "b": 40}, {"a": 5, "b": 5}),
        (10, {"a": 1, "b": 40, "c": 40, "d": 0}, {"a": 1, "b": 4, "c": 5, "d": 0}),
        (10, {"a": 99}, {"a": 10}),
    ],
)
def test_equal_parts(seats: int, wants: dict[str, int], parts: dict[str, int]) -> None:
    """Whoever wants less leaves the rest to others; where there is enough, all may have what is over."""
    assert {worker: part_of(seats, wants, worker) for worker in wants} == parts


def test_what_cannot_be_divided_goes_round() -> None:
    """By the turn."""
    wants = dict.fromkeys("abc", 9)
    parts = [{worker: part_of(4, wants, worker, turn) for worker in wants} for turn in range(3)]
    assert all(sum(each.values()) == 4 for each in parts)
    assert all(first != second for first, second in pairwise(parts))
