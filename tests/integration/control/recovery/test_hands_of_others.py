"""What somebody does to a consumer of the fleet by hand is named by readiness, and is over when it is undone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from msgspec import structs
from nats.js.api import AckPolicy, ConsumerConfig

from fleet import subjects
from fleet.config import load
from fleet.control import collector
from fleet.control.recovery import watchdog
from fleet.jetstream import topology
from fleet.jetstream.connection import connect, disconnect
from tests.support import agents
from tests.support.fleets.control_plane import running
from tests.support.nats.servers import HOST, free_ports
from tests.support.waiting import until

WORK_QUEUES = [
    (subjects.DELIBERATION_REQUESTS, subjects.DISPATCHER, subjects.REQUESTED),
    (subjects.AGENT_REQUESTS, subjects.WORKERS, subjects.AGENT_REQUESTED),
]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "PROBE_INTERVAL_S", 0.3)


@asynccontextmanager
async def a_collector(nats_url: str) -> AsyncIterator[int]:
    """Inside it runs; gives the port of its health."""
    (port,) = free_ports(1)
    settings = structs.replace(load({"NATS_URL": nats_url}), health_host=HOST, health_port=port)
    task = asyncio.create_task(collector.run(settings, on_ready=lambda: None))
    try:
        yield port
    finally:
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def told(port: int, *, ready: bool) -> str:
    """What `/readyz` says as soon as it says so."""
    body: dict[str, Any] = {}
    async with aiohttp.ClientSession() as http:

        async def is_said() -> bool:
            async with http.get(f"http://{HOST}:{port}/readyz") as reply:
                body.clear()
                body.update(await reply.json())
            return body["ready"] == ready and "streams have not been seen" not in str(body)

        await until(is_said, not_yet=(aiohttp.ClientError,))
    return str(body)


@pytest.mark.parametrize(("stream", "consumer", "subject"), WORK_QUEUES)
async def test_a_consumer_of_others_that_takes_our_subject_is_told(
    nats_url: str, stream: str, consumer: str, subject: str
) -> None:
    """It waits, says which stream to look at, and goes on once the other one is gone: at the start, and later."""
    settings = load({"NATS_URL": nats_url})
    nc = await connect(settings, "test")
    js = nc.jetstream()
    await topology.declare(js, settings)

    async def take_its_place() -> None:
        await js.delete_consumer(stream, consumer)
        other = ConsumerConfig(durable_name="debug", filter_subject=subject, ack_policy=AckPolicy.EXPLICIT)
        await js.add_consumer(stream, other)

    await take_its_place()
    async with a_collector(nats_url) as port:
        assert f"nats consumer ls {stream}" in await told(port, ready=False)
        await js.delete_consumer(stream, "debug")
        await told(port, ready=True)
        await take_its_place()
        assert f"{stream}/{consumer}" in await told(port, ready=False)
        await js.delete_consumer(stream, "debug")
        await told(port, ready=True)
    await disconnect(nc)


@pytest.mark.parametrize(("stream", "consumer", "subject"), WORK_QUEUES)
async def test_a_paused_consumer_is_told(nats_url: str, stream: str, consumer: str, subject: str) -> None:
    """By name, with its time. Nothing is lost: NATS 2.15 delivers what waited with the next message."""
    async with running(nats_url, agents.answer) as fleet, a_collector(nats_url) as port:
        await told(port, ready=True)
        pause = f"$JS.API.CONSUMER.PAUSE.{stream}.{consumer}"
        await fleet.nc.request(pause, b'{"pause_until": "2100-01-01T00:00:00Z"}')
        await fleet.request(task_id="meanwhile", num_agents=1)
        said = await told(port, ready=False)
        assert f"consumer {consumer} is paused" in said
        assert "2100-01-01" in said
        await fleet.nc.request(pause, b"{}")
        await told(port, ready=True)
        await fleet.request(task_id="afterwards", num_agents=1)
        for task_id in ("meanwhile", "afterwards"):
            await fleet.inbox.next(subjects.COMPLETED, task_id=task_id)
