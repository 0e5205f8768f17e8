"""How a process of the control plane ends: in order, and completely, on a real nats-server."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import nats
import pytest
from msgspec import structs

from fleet import subjects
from fleet.config import Limits, load
from fleet.control import dispatcher, intake
from fleet.control.service.server import Service
from tests.support.waiting import WITHIN_S, until


class Launcher:
    """Remembers that it was stopped."""

    def __init__(self) -> None:
        self.stopped = False

    async def start(self) -> None: ...

    async def stop(self) -> None:
        self.stopped = True

    def resize(self, wanted: int) -> None: ...

    def answering(self) -> int:
        return 1


@asynccontextmanager
async def dispatching(nats_url: str, launcher: Launcher) -> AsyncIterator[asyncio.Task[None]]:
    settings = structs.replace(load({"NATS_URL": nats_url}), limits=Limits(max_in_flight=1))
    ready = asyncio.Event()
    running = asyncio.create_task(dispatcher.run(settings, launcher, on_ready=ready.set))
    async with asyncio.timeout(WITHIN_S):
        await ready.wait()
    try:
        yield running
    finally:
        running.cancel()
        await asyncio.wait([running])


async def is_read(nc: Any) -> bool:
    """Whether NATS knows a reader of the consumer of requests."""
    info = json.loads((await nc.request("$JS.API.CONSUMER.INFO.DELIBERATION_REQUESTS.dispatcher", b"")).data)
    return bool(info.get("push_bound"))


async def test_an_error_in_one_step_of_the_end_skips_no_other(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is raised, after everything else was ended: connections are closed, the launcher is stopped."""
    nc = await nats.connect(nats_url)

    async def breaks(_: Service) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Service, "retire", breaks)
    launcher = Launcher()
    async with dispatching(nats_url, launcher) as running:
        await until(lambda: is_read(nc))
        running.cancel()
        async with asyncio.timeout(WITHIN_S):
            await asyncio.wait([running])
    with pytest.raises(ZeroDivisionError):
        await running
    assert launcher.stopped
    assert not await is_read(nc)
    with pytest.raises(nats.errors.NoRespondersError):
        await nc.request("$SRV.PING.deliberations", b"", timeout=WITHIN_S)
    await nc.close()


async def test_no_request_is_left_with_a_dispatcher_that_ends(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it holds is handed back once nothing can come again to it: else that would wait for `ack_wait`."""
    held: set[int] = set()
    news = asyncio.Event()

    class Watched(intake.JetStreamDelivery):
        """Stands in `held` from its arrival until it is settled."""

        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            held.add(self.sequence)
            news.set()

        async def ack(self) -> None:
            held.discard(self.sequence)
            await super().ack()

        async def hand_back(self) -> None:
            held.discard(self.sequence)
            await super().hand_back()

    def slowly(step: Callable[[Service], Awaitable[None]]) -> Callable[[Service], Awaitable[None]]:
        """Time for something to come, in the middle of the end."""

        async def slow(service: Service) -> None:
            news.clear()
            await asyncio.wait([asyncio.create_task(news.wait())], timeout=0.5)
            await step(service)

        return slow

    monkeypatch.setattr(Service, "retire", slowly(Service.retire))
    monkeypatch.setattr(Service, "leave", slowly(Service.leave))
    monkeypatch.setattr(intake, "JetStreamDelivery", Watched)
    nc = await nats.connect(nats_url)
    async with dispatching(nats_url, Launcher()) as running:
        for number in range(3):
            body = json.dumps({"task_description": str(number)}).encode()
            await nc.jetstream().publish(subjects.REQUESTED, body)
        await until(lambda: held == {2})  # the first one is in progress, and there is room for no other
        running.cancel()
        async with asyncio.timeout(WITHIN_S):
            await asyncio.wait([running])
    assert held == set()
    await nc.close()
