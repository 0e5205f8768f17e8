import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import ConsumerConfig, ConsumerInfo, SequenceInfo
from structlog.testing import capture_logs

from fleet import subjects
from fleet.control.admitting import backlog
from fleet.control.admitting.backlog import LEAST, Backlog


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Nats:
    """Tells of both consumers what a test has set."""

    def __init__(self) -> None:
        self.away = False
        self.taken = self.at_work = 0
        self.calls = self.answers = self.delivered = self.redelivered = 0

    async def consumer_info(self, stream: str, _: str) -> Any:
        if self.away:
            raise NatsTimeoutError
        if stream == subjects.AGENT_REQUESTS:
            return _info(stream, self.calls, self.at_work, 0, self.taken)
        return _info(stream, self.answers, self.delivered, self.redelivered, 0)


def _info(stream: str, pending: int, delivered: int, redelivered: int, taken: int) -> ConsumerInfo:
    return ConsumerInfo(
        name="",
        stream_name=stream,
        config=ConsumerConfig(),
        created=datetime(2026, 1, 1, tzinfo=UTC),
        num_pending=pending,
        num_ack_pending=delivered,
        num_redelivered=redelivered,
        delivered=SequenceInfo(consumer_seq=taken, stream_seq=taken),
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(backlog, "time", clock)
    return clock


def begun() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


async def published(recorded: asyncio.Future[None]) -> None:
    recorded.set_result(None)
    await asyncio.sleep(0)


async def test_what_begins_takes_room_until_a_look_finds_it_taken(clock: Clock) -> None:
    """Also while it is being recorded, when NATS knows nothing of it."""
    nats = Nats()
    seen = Backlog(nats)  # type: ignore[arg-type]
    recorded = begun()
    seen.begin(LEAST, recorded)
    assert not seen.has_room
    await seen.look()
    assert not seen.has_room
    await published(recorded)
    assert not seen.has_room
    await seen.look()
    assert seen.has_room


async def test_what_was_published_after_nats_was_asked_still_counts(clock: Clock) -> None:
    """Its reply may tell of the time before."""
    nats = Nats()
    seen = Backlog(nats)  # type: ignore[arg-type]
    recorded = begun()
    seen.begin(LEAST, recorded)
    looking = asyncio.create_task(seen.look())
    await asyncio.sleep(0)
    await published(recorded)
    await looking
    assert not seen.has_room


async def look_on(seen: Backlog, nats: Nats, clock: Clock, every_s: float, *, taken: int) -> None:
    """For some seconds; between two looks workers take so many calls."""
    for _ in range(200):
        nats.taken += taken
        clock.now += every_s
        await seen.look()


@pytest.mark.parametrize(("calls", "answers", "delivered", "redelivered", "has_room"), [
    (LEAST, 0, 0, 0, False),
    (0, LEAST, 0, 0, False),
    (0, 0, LEAST, 0, False),
    (0, 0, LEAST, LEAST, True),  # what a newer process is to have, say
    (LEAST // 3, LEAST // 3, LEAST // 3 - 1, 0, True),
])  # fmt: skip
async def test_calls_and_answers_that_wait_take_room(
    calls: int, answers: int, delivered: int, redelivered: int, has_room: bool, clock: Clock
) -> None:
    nats = Nats()
    nats.calls, nats.answers, nats.delivered, nats.redelivered = calls, answers, delivered, redelivered
    seen = Backlog(nats)  # type: ignore[arg-type]
    await seen.look()
    assert seen.has_room is has_room


async def test_more_may_wait_where_workers_take_more(clock: Clock) -> None:
    """1,000 calls a second: at least 100 may wait. When they take none any more, as few as at first."""
    nats = Nats()
    seen = Backlog(nats)  # type: ignore[arg-type]
    nats.calls = 100
    await look_on(seen, nats, clock, 0.03, taken=30)
    assert seen.has_room
    await look_on(seen, nats, clock, 0.03, taken=0)
    assert not seen.has_room


async def test_no_more_than_twice_the_calls_that_models_take_at_once_are_begun(clock: Clock) -> None:
    """Where that is known; and some more, so that nobody stands still until the next look."""
    for seats in (None, 64):
        nats = Nats()
        seen = Backlog(nats, seats)  # type: ignore[arg-type]
        begins = 0
        while seen.has_room and begins < 2 * 64 + 2 * LEAST:
            recorded = begun()
            seen.begin(8, recorded)
            await published(recorded)
            begins += 8
            nats.taken = nats.at_work = begins
            clock.now += 0.01
            await seen.look()
        assert begins == (2 * 64 + LEAST if seats else 2 * 64 + 2 * LEAST)


async def test_more_are_begun_where_models_end_more(clock: Clock) -> None:
    """1,000 calls a second: two looks may be further apart than a call takes."""
    nats = Nats()
    seen = Backlog(nats, 8)  # type: ignore[arg-type]
    nats.at_work = 200
    await look_on(seen, nats, clock, 0.06, taken=60)
    assert seen.has_room
    await look_on(seen, nats, clock, 0.06, taken=0)
    assert not seen.has_room


async def test_a_consumer_that_was_made_anew_has_no_pace_of_less_than_none(clock: Clock) -> None:
    """It counts from the start again."""
    nats = Nats()
    seen = Backlog(nats)  # type: ignore[arg-type]
    for taken in (1_000_000, 0):
        nats.taken = taken
        clock.now += 0.03
        await seen.look()
    assert seen.has_room


async def test_what_cannot_be_had_counts_as_before(clock: Clock) -> None:
    """And a log says why nothing begins: not each time, for it is asked for again and again."""
    nats = Nats()
    nats.calls = LEAST
    seen = Backlog(nats)  # type: ignore[arg-type]
    await seen.look()
    nats.away, nats.calls = True, 0
    with capture_logs() as told:
        for _ in range(10):
            await seen.look()
    assert [(each["event"], each["log_level"]) for each in told] == [("backlog.not_seen", "warning")]
    assert not seen.has_room
    nats.away = False
    await seen.look()
    assert seen.has_room
