import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fleet.control import admission
from fleet.control.admission import Admission


class Request:
    """A delivery that remembers what was done with it."""

    def __init__(self) -> None:
        self.kept = asyncio.Event()
        self.handed_back = False

    async def keep(self) -> None:
        self.kept.set()

    async def hand_back(self) -> None:
        self.handed_back = True


class Fleet:
    """Deliberations in progress: those before, and those let in since."""

    def __init__(self, limit: int, before: int = 0) -> None:
        self.in_progress = before
        self.let_in: list[int] = []
        self.most = before
        self.broken = False
        self.counting = asyncio.Event()
        self.counting.set()
        self.admission = Admission(limit)

    async def count(self) -> int:
        await self.counting.wait()
        if self.broken:
            raise TimeoutError
        return self.in_progress

    def submit(self, number: int) -> Request:
        request = Request()

        def admit() -> None:
            self.let_in.append(number)
            self.in_progress += 1
            self.most = max(self.most, self.in_progress)

        self.admission.submit(request, admit)
        return request

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.let_in) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


@asynccontextmanager
async def running(fleet: Fleet) -> AsyncIterator[None]:
    task = asyncio.create_task(fleet.admission.run(fleet.count))
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
        async with asyncio.timeout(10):
            await request.kept.wait()
    assert (fleet.let_in, request.handed_back) == ([], True)


async def test_while_nobody_can_count_nobody_is_let_in() -> None:
    """Until the count is there again."""
    fleet = Fleet(limit=5)
    fleet.broken = True
    async with running(fleet):
        request = fleet.submit(1)
        async with asyncio.timeout(10):
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
        async with asyncio.timeout(10):
            await request.kept.wait()
        assert fleet.let_in == []
        fleet.counting.set()
        await fleet.until(1)
