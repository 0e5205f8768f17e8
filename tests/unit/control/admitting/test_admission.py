import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from math import inf

import msgspec
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from fleet.control.admitting import admission
from fleet.control.admitting.admission import Admission
from fleet.messages import EndSummary
from fleet.messages.end_summary import HEADER
from fleet.messages.usage import TotalUsage
from fleet.tenants.limits import Tenant
from fleet.tenants.names import key_of
from tests.support.waiting import WITHIN_S, until


class Request:
    """A delivery that remembers what was done with it."""

    def __init__(self) -> None:
        self.kept = asyncio.Event()
        self.handed_back = False

    async def keep(self) -> None:
        self.kept.set()

    async def hand_back(self) -> None:
        self.handed_back = True


class Turn:
    """Of as many dispatchers as ask for it. `lost`: whoever had it was killed."""

    def __init__(self) -> None:
        self.taken = self.lost = False
        self.kept = asyncio.Event()

    async def take(self) -> bool:
        await asyncio.sleep(0)
        if self.taken or self.lost:
            return False
        self.taken = True
        return True

    async def keep(self) -> None:
        self.kept.set()

    async def give_back(self) -> None:
        await asyncio.sleep(0)
        self.taken = False


class Queue:
    """Calls that wait for a worker, as NATS would tell."""

    def __init__(self, room: float = inf) -> None:
        self.room = room
        self.waiting = self.looks = 0
        self.looked = asyncio.Event()

    @property
    def has_room(self) -> bool:
        return self.waiting < self.room

    def begin(self, calls: int, recorded: asyncio.Future[None]) -> None:
        self.waiting += calls

    async def look(self) -> None:
        self.looks += 1
        self.looked.set()


def recorded() -> asyncio.Future[None]:
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done


class Fleet:
    """Deliberations in progress: those before, and those let in since."""

    def __init__(self, limit: int, before: int = 0, tenants: dict[str, Tenant] | None = None) -> None:
        self.in_progress = before
        self.let_in: list[int] = []
        self.most = before
        self.broken = False
        self.counting = asyncio.Event()
        self.counting.set()
        self.admission = Admission(limit, tenants)
        self.turn, self.queue = Turn(), Queue()

    async def count(self) -> int:
        await self.counting.wait()
        if self.broken:
            raise TimeoutError
        return self.in_progress

    def submit(self, number: int, tenant: str = "default", expected: float = 0.0, urgency: int = 1) -> Request:
        request = Request()

        def admit() -> asyncio.Future[None]:
            self.let_in.append(number)
            self.in_progress += 1
            self.most = max(self.most, self.in_progress)
            return recorded()

        self.admission.submit(key_of(tenant, f"n{number}"), request, admit, expected, urgency)
        return request

    async def until(self, count: int) -> None:
        await until(lambda: len(self.let_in) >= count)


@asynccontextmanager
async def running(fleet: Fleet) -> AsyncIterator[None]:
    task = asyncio.create_task(fleet.admission.run(fleet.count, fleet.turn, fleet.queue))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(admission, "KEEP_EVERY_S", 0.005)


async def test_requests_are_let_in_in_their_order_while_there_is_room() -> None:
    """All of them, where nothing is in progress."""
    fleet = Fleet(limit=100)
    async with running(fleet):
        for number in range(50):
            fleet.submit(number)
        await fleet.until(50)
    assert fleet.let_in == list(range(50))


async def test_there_are_never_more_in_progress_than_the_limit() -> None:
    """What ends makes room for what waits; in the end all had their turn."""
    fleet = Fleet(limit=5, before=2)
    async with running(fleet):
        for number in range(30):
            fleet.submit(number)
        for ended in range(30):
            await fleet.until(min(30, ended + 3))
            fleet.in_progress -= 1
    assert fleet.let_in == list(range(30))
    assert fleet.most == 5


async def test_who_waits_is_kept_and_handed_back_at_the_end() -> None:
    """NATS must not take it for lost meanwhile."""
    fleet = Fleet(limit=1, before=1)
    async with running(fleet):
        request = fleet.submit(1)
        async with asyncio.timeout(WITHIN_S):
            await request.kept.wait()
    assert (fleet.let_in, request.handed_back) == ([], True)


async def test_while_nobody_can_count_nobody_is_let_in() -> None:
    """Until the count is there again."""
    fleet = Fleet(limit=5)
    fleet.broken = True
    async with running(fleet):
        request = fleet.submit(1)
        async with asyncio.timeout(WITHIN_S):
            await request.kept.wait()
        assert fleet.let_in == []
        fleet.broken = False
        await fleet.until(1)


async def test_who_waits_is_kept_while_the_count_takes_its_time() -> None:
    """Longer than `ack_wait`, perhaps: it would come again, and be admitted twice."""
    fleet = Fleet(limit=5)
    fleet.counting.clear()
    async with running(fleet):
        request = fleet.submit(1)
        async with asyncio.timeout(WITHIN_S):
            await request.kept.wait()
        assert fleet.let_in == []
        fleet.counting.set()
        await fleet.until(1)


async def test_of_several_tenants_the_one_with_the_least_service_is_next() -> None:
    """One deliberation of the first is expected to use what five of the other do; in each one's order."""
    fleet = Fleet(limit=24, tenants={"heavy": Tenant(), "light": Tenant()})
    for number in range(20):
        fleet.submit(number, "heavy", 5_000.0)
        fleet.submit(100 + number, "light", 1_000.0)
    async with running(fleet):
        await fleet.until(12)
    assert sum(number < 100 for number in fleet.let_in[:12]) == 2
    assert [number for number in fleet.let_in if number >= 100][:10] == list(range(100, 110))


async def test_nothing_begins_while_what_has_begun_waits_for_a_worker() -> None:
    """But for a tenant whose turn it is, and that has nothing in progress. Once the calls are taken, more begin."""
    fleet = Fleet(limit=100, tenants={"a": Tenant(), "b": Tenant()})
    fleet.queue.room = 3
    async with running(fleet):
        for number in range(8):
            fleet.submit(number, "a", 1_000.0)
        await fleet.until(3)
        fleet.submit(100, "b", 1_000.0)
        await fleet.until(4)
        fleet.submit(101, "b", 1_000.0)
        fleet.queue.looked.clear()
        async with asyncio.timeout(WITHIN_S):
            await fleet.queue.looked.wait()
        assert fleet.let_in == [0, 1, 2, 100]
        fleet.queue.waiting = 0
        await fleet.until(7)


@pytest.mark.parametrize("short_of", ["workers", "room"])
async def test_where_room_is_short_a_tenant_with_a_limit_has_its_share(short_of: str) -> None:
    """Its requests begin in turns only, and others have two of three. Nobody else takes what is its own in between."""
    fleet = Fleet(limit=100, tenants={"few": Tenant(max_in_flight=50), "many": Tenant()})
    take, turns = fleet.turn.take, count()

    async def take_the_third() -> bool:
        return next(turns) % 3 == 2 and await take()

    async def look() -> None:
        fleet.queue.waiting = 0

    fleet.turn.take = take_the_third  # type: ignore[method-assign]
    if short_of == "workers":
        fleet.queue.room, fleet.queue.look = 4, look  # type: ignore[method-assign]
    else:
        fleet.count = lambda: asyncio.sleep(0, 98)  # type: ignore[method-assign, assignment, return-value]
    for number in range(40):
        fleet.submit(number, "few", 1_000.0)
        fleet.submit(100 + number, "many", 1_000.0)
    async with running(fleet):
        await fleet.until(20)
    assert 9 <= sum(number < 100 for number in fleet.let_in[:20]) <= 11


async def test_nobody_waits_for_a_turn_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """However short room is: whoever has it may have been killed."""
    monkeypatch.setattr(admission, "TURN_S", 3_600.0)
    fleet = Fleet(limit=100, tenants={"few": Tenant(max_in_flight=50), "many": Tenant()})
    fleet.turn.lost, fleet.queue.room = True, 2
    for number in range(4):
        fleet.submit(number, "few", 1.0)
        fleet.submit(100 + number, "many", 1_000.0)
    async with running(fleet):
        await until(lambda: fleet.queue.looks > 0)
        assert fleet.let_in == [100, 101]
        fleet.queue.waiting = 0
        await fleet.until(4)


async def test_without_tenants_nobody_asks_what_waits() -> None:
    """One queue or another is the same for one tenant."""
    fleet = Fleet(limit=100)
    fleet.queue.room = 0
    async with running(fleet):
        for number in range(50):
            fleet.submit(number)
        await fleet.until(50)
    assert fleet.queue.looks == 0


STOPPED = (
    EndSummary(status="CANCELLED", duration_ms=1_000, usage=TotalUsage()),
    EndSummary(status="TIMEOUT", duration_ms=1_000, usage=TotalUsage()),
    EndSummary(status="COMPLETED", duration_ms=1_000, usage=TotalUsage(), failures={"DeadlineExceeded": 3}),
)
"""Ends while calls were open, which have told no tokens."""


@pytest.mark.parametrize("end", STOPPED)
async def test_a_tenant_whose_calls_were_stopped_has_had_its_turn(end: EndSummary) -> None:
    fleet = Fleet(limit=1, tenants={"a": Tenant(), "b": Tenant()})
    complete = EndSummary(status="COMPLETED", duration_ms=1_000, usage=TotalUsage(completion_tokens=1_000))
    for tenant, summary in (("a", complete), ("b", complete), ("a", end)):
        header = {HEADER: msgspec.json.encode(summary).decode()}
        subject = f"tenant.{tenant}.deliberation.{summary.status.lower().replace('timeout', 'failed')}"
        await fleet.admission.on_end(Msg(_client=Client(), subject=subject, headers=header))
    fleet.submit(1, "a", 1.0)
    fleet.submit(2, "b", 1.0)
    async with running(fleet):
        await fleet.until(1)
    assert fleet.let_in == [2]


async def test_what_came_from_the_cache_says_nothing_of_what_others_use() -> None:
    """Else a tenant with many cached results would be taken for one whose deliberations cost nothing."""
    fleet = Fleet(limit=100, tenants={"a": Tenant(), "b": Tenant()})
    ran = EndSummary(status="COMPLETED", duration_ms=1000, usage=TotalUsage(prompt_tokens=100))
    cached = ran.change(usage=TotalUsage(), cached_from="origin")
    for tenant, summary in (("a", ran), ("b", ran), *((("a", cached),) * 50)):
        header = {HEADER: msgspec.json.encode(summary).decode()}
        subject = f"tenant.{tenant}.deliberation.completed"
        await fleet.admission.on_end(Msg(_client=Client(), subject=subject, headers=header))
    for number in range(8):
        fleet.submit(number, "ab"[number % 2], 1.0)
    async with running(fleet):
        await fleet.until(8)
    assert [number % 2 for number in fleet.let_in] == [0, 1] * 4


async def completed(fleet: Fleet, tenant: str, number: int, duration_ms: int, overhead_ms: int) -> None:
    usage = TotalUsage(completion_tokens=100, calls=3)
    summary = EndSummary(status="COMPLETED", duration_ms=duration_ms, overhead_ms=overhead_ms, usage=usage)
    headers = {HEADER: msgspec.json.encode(summary).decode(), "Task-Id": f"n{number}"}
    subject = f"tenant.{tenant}.deliberation.completed"
    await fleet.admission.on_end(Msg(_client=Client(), subject=subject, headers=headers))


async def test_where_one_tenants_deliberations_slow_down_those_of_another_one_fewer_begin() -> None:
    """One more with each that ends, and at once. Who asks for little waits for none of them."""
    fleet = Fleet(limit=1000, tenants={"heavy": Tenant(), "light": Tenant()})
    async with running(fleet):
        for number in range(4):
            fleet.submit(number, "light")
            await fleet.until(number + 1)
            await completed(fleet, "light", number, 10, 5)
        for number in range(10, 26):
            fleet.submit(number, "heavy")
        fleet.submit(4, "light")
        await fleet.until(21)
        await completed(fleet, "light", 4, 100, 95)  # a quarter of them may be in progress now
        for number in range(30, 40):
            fleet.submit(number, "heavy")
        for number in range(10, 22):
            await completed(fleet, "heavy", number, 100, 95)
        assert (len(fleet.let_in), fleet.admission.held) == (21, 10)
        await completed(fleet, "heavy", 22, 100, 95)
        assert fleet.let_in[21:] == [30]
        fleet.submit(5, "light")
        assert fleet.let_in[21:] == [30, 5]


async def test_a_tenant_has_a_limit_of_its_own() -> None:
    """Its further requests wait, and nobody waits for them."""
    fleet = Fleet(limit=100, tenants={"few": Tenant(max_in_flight=2), "many": Tenant()})
    for number in range(5):
        fleet.submit(number, "few", 1.0)
    for number in range(5, 10):
        fleet.submit(number, "many", 1.0)
    async with running(fleet):
        await fleet.until(7)
    assert sorted(fleet.let_in) == [0, 1, 5, 6, 7, 8, 9]


async def test_nobody_waits_for_a_look_while_another_tenant_is_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the last look has found holds for them."""
    monkeypatch.setattr(admission, "LOOK_EVERY_S", 60.0)
    monkeypatch.setattr(admission, "ROOM_VALID_S", 60.0)
    fleet = Fleet(limit=100, tenants={"few": Tenant(max_in_flight=1), "many": Tenant()})
    fleet.submit(1, "few", 1.0)
    fleet.submit(2, "few", 1.0)
    async with running(fleet):
        await fleet.until(1)
        fleet.submit(3, "many", 1.0)
        assert fleet.let_in == [1, 3]


async def test_an_end_that_somebody_has_read_and_sent_on_is_no_end() -> None:
    """A consumer may deliver to whatever subject it names: an end is counted once."""
    fleet = Fleet(limit=1, tenants={"a": Tenant(), "b": Tenant()})
    end = EndSummary(status="CANCELLED", duration_ms=1_000, usage=TotalUsage(completion_tokens=1_000))
    header = {HEADER: msgspec.json.encode(end).decode()}
    delivered = "$JS.ACK.DELIBERATIONS.mine.1.1.1.1.0"
    subject = "tenant.a.deliberation.cancelled"
    await fleet.admission.on_end(Msg(_client=Client(), subject=subject, reply=delivered, headers=header))
    fleet.submit(1, "b", 1.0)
    fleet.submit(2, "a", 1.0)
    async with running(fleet):
        await fleet.until(1)
    assert fleet.let_in == [2]


async def test_more_urgent_requests_go_first_then_older_ones() -> None:
    fleet = Fleet(limit=100)
    for number, urgency in enumerate((1, 0, 1, 2, 0, 2)):
        fleet.submit(number, urgency=urgency)
    async with running(fleet):
        await fleet.until(6)
    assert fleet.let_in == [3, 5, 0, 2, 1, 4]


class Dispatchers:
    """Several, which record what they let in only a moment later, where all of them see it."""

    def __init__(self, tenant: Tenant, count: int = 2) -> None:
        self.turn = Turn()
        self.admissions = [Admission(100, {"few": tenant}) for _ in range(count)]
        self.recording: dict[int, asyncio.Future[None]] = {}
        self.open: set[int] = set()
        self.most = 0

    def submit(self, dispatcher: int, number: int) -> None:
        def admit() -> asyncio.Future[None]:
            self.recording[number] = asyncio.get_running_loop().create_future()
            self.most = max(self.most, len(self.recording) + len(self.open))
            return self.recording[number]

        self.admissions[dispatcher].submit(f"few.n{number}", Request(), admit, 1.0)

    def record(self) -> None:
        for number, done in self.recording.items():
            done.set_result(None)
            self.open.add(number)
        self.recording.clear()

    def end(self) -> None:
        self.open.clear()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async def look(admission: Admission) -> int:
            seen = len(self.open)
            await asyncio.sleep(0)
            admission.see([f"few.n{number}" for number in range(seen)])
            return seen

        tasks = [asyncio.create_task(each.run(partial(look, each), self.turn, Queue())) for each in self.admissions]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_tenants_limit_holds_over_several_dispatchers() -> None:
    """Each has enough of its requests to fill it, and what one of them begins is recorded only later."""
    dispatchers = Dispatchers(Tenant(max_in_flight=3))
    async with dispatchers.running():
        for number in range(20):
            dispatchers.submit(number % 2, number)
        while any(admission.held for admission in dispatchers.admissions):
            await until(lambda: bool(dispatchers.recording))
            for _ in range(20):  # whatever the others do meanwhile
                await asyncio.sleep(0.001)
            dispatchers.record()
            for _ in range(20):
                await asyncio.sleep(0.001)
            dispatchers.record()
            dispatchers.end()
    assert dispatchers.most == 3


async def test_the_turn_is_kept_while_something_is_being_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others would take it for lost."""
    monkeypatch.setattr(admission, "TURN_S", 0.01)
    dispatchers = Dispatchers(Tenant(max_in_flight=1), count=1)
    async with dispatchers.running():
        dispatchers.submit(0, 1)
        async with asyncio.timeout(WITHIN_S):
            await dispatchers.turn.kept.wait()
        assert dispatchers.turn.taken
        dispatchers.record()
        await until(lambda: not dispatchers.turn.taken)


async def test_nobody_without_a_limit_waits_for_what_another_tenant_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that is stuck; until it is over nobody of its tenant begins, for a count does not hold it."""
    monkeypatch.setattr(admission, "CONTROL_ACK_WAIT_S", 3_600.0)
    monkeypatch.setattr(admission, "ROOM_VALID_S", 0.0)
    fleet = Fleet(limit=100, tenants={"few": Tenant(max_in_flight=2), "many": Tenant()})
    stuck: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    begun: list[int] = []
    fleet.admission.submit("few.n1", Request(), lambda: (begun.append(1), stuck)[1], 1.0)
    async with running(fleet):
        await until(lambda: begun == [1])
        fleet.submit(2, "many", 1.0)
        fleet.submit(3, "few", 1.0)
        await fleet.until(1)
        fleet.submit(4, "many", 1.0)
        await fleet.until(2)
        assert (fleet.let_in, fleet.turn.taken) == ([2, 4], True)
        stuck.set_result(None)
        await fleet.until(3)


async def test_a_count_that_is_not_cancelled_ends_nevertheless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11 returns an answer that comes at this very moment, and forgets that somebody cancelled."""
    monkeypatch.setattr(admission, "ROOM_VALID_S", 0.0)
    fleet = Fleet(limit=100, tenants={"few": Tenant(max_in_flight=2), "many": Tenant()})
    stuck: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    counting = asyncio.Event()

    async def count() -> int:
        if fleet.let_in and not stuck.done():
            counting.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return 0

    fleet.admission.submit("few.n0", Request(), lambda: (fleet.let_in.append(0), stuck)[1], 1.0)
    fleet.count = count  # type: ignore[method-assign]
    async with running(fleet):
        await fleet.until(1)
        fleet.submit(1, "many", 1.0)
        await counting.wait()
        stuck.set_result(None)
        fleet.submit(2, "few", 1.0)
        await fleet.until(3)


async def test_without_the_turn_only_requests_of_tenants_without_a_limit_begin() -> None:
    """Its holder was killed: nobody else waits until it is taken over."""
    fleet = Fleet(limit=100, tenants={"few": Tenant(max_in_flight=2), "many": Tenant()})
    fleet.turn.lost = True
    fleet.submit(1, "few", 1.0)
    fleet.submit(2, "many", 1.0)
    async with running(fleet):
        await fleet.until(1)
        assert fleet.let_in == [2]
        fleet.turn.lost = False
        await fleet.until(2)


async def test_a_turn_that_cannot_be_asked_for_is_told_now_and_then() -> None:
    """It is asked for again at once, for as long as NATS is away."""
    fleet = Fleet(limit=100, tenants={"few": Tenant(max_in_flight=2)})
    failed = 0

    async def take() -> bool:
        nonlocal failed
        failed += 1
        raise TimeoutError

    fleet.turn.take = take  # type: ignore[method-assign]
    fleet.submit(1, "few", 1.0)
    with capture_logs() as logs:
        async with running(fleet):
            await until(lambda: failed > 10)
    assert [entry["times"] for entry in logs if entry["event"] == "admission.no_turn"] == [1]
