"""What `fleet status` says of the consumer that workers pull from."""

import pytest

from fleet.cli.doctor.fleet_state import Consumer, FleetState
from fleet.cli.doctor.workers import pool_in_words
from fleet.cli.overview.status import is_at_work
from fleet.clock import now_ms
from fleet.messages.workers import SILENT_S, PoolSize, WorkerStatus
from fleet.times import rfc3339

NONE_WANTED = PoolSize(wanted=0, needed=0, due=0, decided_at_ms=1)


def state(*, pulls: bool, workers: tuple[WorkerStatus, ...] = (), pool: PoolSize | None = None) -> FleetState:
    calls = Consumer(name="workers", served=pulls, waiting=5, open=2, again=0, silent_s=None)
    return FleetState(
        instances=("a",),
        consumers=(calls,),
        running=(),
        requests=0,
        oldest_s=0.0,
        dead_letters=0,
        workers=workers,
        pool=pool,
    )


def worker(open_calls: int, *, silent_s: float = 0.0) -> WorkerStatus:
    told_at = rfc3339(now_ms() - round(silent_s * 1000))
    return WorkerStatus(
        name="w", started_at=told_at, told_at=told_at, open_calls=open_calls, done=0, failed=0, last_fetch_age_s=0.0
    )


@pytest.mark.parametrize(
    ("pulls", "open_calls", "silent_s", "pool", "at_work"),
    [
        (True, None, 0, None, True),
        (False, None, 0, None, False),
        (False, 0, 0, None, False),
        (False, 2, 0, None, True),
        (False, 2, SILENT_S + 1, None, False),
        (False, None, 0, NONE_WANTED, True),
        (False, None, 0, NONE_WANTED.change(wanted=1), False),
    ],
)
def test_workers_that_ask_for_no_call_may_be_at_work(
    pulls: bool, open_calls: int | None, silent_s: float, pool: PoolSize | None, at_work: bool
) -> None:
    """They hold as many as they may, or none is needed. Else a part of the fleet is missing."""
    workers = () if open_calls is None else (worker(open_calls, silent_s=silent_s),)
    seen = state(pulls=pulls, workers=workers, pool=pool)
    assert is_at_work(seen.consumer("workers"), seen) is at_work


def test_a_consumer_that_nobody_reads_is_not_at_work() -> None:
    """Only workers pull; the others are bound or not."""
    lost = Consumer(name="collector", served=False, waiting=0, open=0, again=0, silent_s=None)
    assert not is_at_work(lost, state(pulls=True, workers=(worker(2),), pool=NONE_WANTED))


def test_a_pool_says_how_many_workers_should_have_come() -> None:
    """Those that drain or are silent do not count."""
    pool = PoolSize(wanted=3, needed=3, due=2, decided_at_ms=1, calls_at_once=5.0)
    silent = worker(1, silent_s=SILENT_S + 1)
    words = pool_in_words(pool, (worker(1), silent))
    assert words == "1 running, 0 draining, 3 needed now for up to 5 calls at once; 1 should have come by now"
    assert "should" not in pool_in_words(pool, (worker(1), worker(0)))
