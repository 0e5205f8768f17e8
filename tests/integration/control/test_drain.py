"""SIGTERM under load: what is in flight is finished or handed back, and nothing of the process is left."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Any

import nats
import pytest

from fleet import subjects
from fleet.config import load
from fleet.jetstream import topology
from tests.support.fleets.control_plane import Fleet, Inbox
from tests.support.fleets.processes import Component
from tests.support.nats import servers
from tests.support.nats.servers import Server
from workers.simulator.server import Simulator, SimulatorConfig

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nats_binary")]

PACE = SimulatorConfig(latency_ms=200)
KINDS = ("dispatcher", "collector", "worker")


class Running:
    """A fleet in processes of its own, its model server here."""

    def __init__(self, server: Server, fleet: Fleet, simulator: Simulator, components: dict[str, Component]) -> None:
        self.server = server
        self.fleet = fleet
        self.simulator = simulator
        self.components = components

    async def load(self, count: int) -> list[str]:
        """Requests that are accepted, and far from their end."""
        asked = [await self.fleet.request(num_agents=3) for _ in range(count)]
        for task_id in asked:
            await self.fleet.inbox.next(subjects.ACCEPTED, task_id=task_id)
        return asked

    async def left(self) -> dict[str, Any]:
        """Who is connected, and what consumers there are beside the durables."""
        js = self.fleet.nc.jetstream()
        durables = {config.durable_name for _, config in topology.consumers(load({}))}
        streams = [info.config.name or "" for info in await js.streams_info()]
        consumers = {info.name for stream in streams for info in await js.consumers_info(stream)}
        return {"connections": sorted(await self.server.connections()), "consumers": sorted(consumers - durables)}


@asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(servers.one(tmp_path / "nats", max_payload="64KB"))
        simulator = await stack.enter_async_context(Simulator(PACE))
        environ = {"NATS_URL": server.url, "VLLM_URL": simulator.url}
        components = {kind: Component(kind, tmp_path / f"{kind}.log", **environ) for kind in KINDS}
        for component in components.values():
            stack.push_async_callback(component.end, SIGKILL)
        await components["dispatcher"].start()  # declares what the others read
        await asyncio.gather(components["collector"].start(), components["worker"].start())
        nc, inbox = await nats.connect(server.url, name="client"), Inbox()
        stack.push_async_callback(nc.close)
        for subject in (subjects.ACCEPTED, *subjects.TERMINAL):
            await nc.subscribe(subject, cb=inbox.take)
        await nc.flush()
        yield Running(server, Fleet(nc, inbox), simulator, components)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_component_drains_under_load(tmp_path: Path, kind: str) -> None:
    """It exits 0 and leaves no connection and no consumer; once there is another, everything ends as it should have,
    and no call of the model was made twice.
    """
    async with running(tmp_path) as fleet:
        before = set((await fleet.left())["connections"])
        asked = await fleet.load(10)
        assert await fleet.components[kind].end() == 0
        left = await fleet.left()
        own = {name for name in before if name.startswith(f"fleet-{kind}")}
        assert own
        assert not own & set(left["connections"])
        assert left["consumers"] == []
        await fleet.components[kind].start()
        for task_id in asked:
            done = await fleet.fleet.inbox.next(subjects.COMPLETED, task_id=task_id)
            assert done["degraded"] is False
        assert [fleet.fleet.inbox.of(task_id).count(subjects.COMPLETED) for task_id in asked] == [1] * len(asked)
        assert fleet.simulator.requests == len(asked) * 3 * 4


async def test_a_whole_fleet_drains_under_load(tmp_path: Path) -> None:
    """All of it at once: nobody is connected any more, and nothing but the durables reads a stream."""
    async with running(tmp_path) as fleet:
        asked = await fleet.load(10)
        statuses = await asyncio.gather(*(component.end() for component in fleet.components.values()))
        assert statuses == [0, 0, 0]
        assert await fleet.left() == {"connections": ["client"], "consumers": []}
        await asyncio.gather(*(component.start() for component in fleet.components.values()))
        for task_id in asked:
            await fleet.fleet.inbox.next(subjects.COMPLETED, task_id=task_id)


async def test_components_drain_while_nats_is_away(tmp_path: Path) -> None:
    """There is nobody to hand back to: they exit 0 all the same."""
    async with running(tmp_path) as fleet:
        await fleet.load(3)
        await fleet.server.kill()
        statuses = await asyncio.gather(*(component.end() for component in fleet.components.values()))
        assert statuses == [0, 0, 0]


async def test_components_drain_while_nats_hangs(tmp_path: Path) -> None:
    """Connected, and without an answer: they exit 0 all the same."""
    async with running(tmp_path) as fleet:
        await fleet.load(3)
        fleet.server.signal(SIGSTOP)
        try:
            statuses = await asyncio.gather(*(component.end() for component in fleet.components.values()))
        finally:
            fleet.server.signal(SIGCONT)
        assert statuses == [0, 0, 0]
