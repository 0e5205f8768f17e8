"""How a process of the control plane ends: in order, and completely, on a real nats-server."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
import pytest
from msgspec import structs

from fleet import subjects
from fleet.config import Limits, load
from fleet.control import dispatcher
from fleet.control.service.server import Service

WITHIN_S = 30


class Launcher:
    """Remembers that it was stopped."""

    def __init__(self) -> None:
        self.stopped = False

    async def start(self) -> None: ...

    async def stop(self) -> None:
        self.stopped = True

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
        assert await is_read(nc)
        running.cancel()
        async with asyncio.timeout(WITHIN_S):
            await asyncio.wait([running])
    with pytest.raises(ZeroDivisionError):
        await running
    assert launcher.stopped
    assert not await is_read(nc)
    with pytest.raises(nats.errors.NoRespondersError):
        await nc.request("$SRV.PING.deliberations", b"", timeout=5)
    await nc.close()


async def test_no_request_is_left_with_a_dispatcher_that_ends(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes while it ends is not taken, or is handed back at once: nobody waits for `ack_wait`."""
    nc = await nats.connect(nats_url)
    js = nc.jetstream()
    retire = Service.retire

    async def consumer() -> Any:
        return await js.consumer_info(subjects.DELIBERATION_REQUESTS, subjects.DISPATCHER)

    async def one_more(service: Service) -> None:
        """Comes in the middle of the end."""
        await js.publish(subjects.REQUESTED, json.dumps({"task_description": "late"}).encode())
        try:
            async with asyncio.timeout(1):
                while not (await consumer()).num_ack_pending:  # noqa: ASYNC110 - it may never be delivered
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pass
        await retire(service)

    monkeypatch.setattr(Service, "retire", one_more)
    async with dispatching(nats_url, Launcher()) as running:
        for number in range(3):
            await js.publish(subjects.REQUESTED, json.dumps({"task_description": str(number)}).encode())
        async with asyncio.timeout(WITHIN_S):
            while (await consumer()).delivered.stream_seq < 1:  # noqa: ASYNC110 - the consumer tells nobody
                await asyncio.sleep(0.02)
        running.cancel()
        async with asyncio.timeout(WITHIN_S):
            await asyncio.wait([running])
    info = await consumer()
    left = (await js.stream_info(subjects.DELIBERATION_REQUESTS)).state.messages
    assert (left, info.num_ack_pending) == (info.num_pending + info.num_ack_pending, 0)
    await nc.close()
