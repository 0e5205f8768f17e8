"""A tenant that asks one thing after the other, beside one that keeps many deliberations going."""

import asyncio
import json
from typing import Any

from fleet import subjects
from fleet.limits.workers import Workers
from fleet.tenants.limits import Tenant
from fleet.tenants.names import EVERY, subject_of, tenant_of
from tests.support.fleets.control_plane import Fleet
from tests.support.fleets.whole_fleet import whole
from tests.support.waiting import WITHIN_S, until
from workers.simulator.server import SimulatorConfig

HEAVY, LIGHT = "heavy", "light"
IN_FLIGHT = 12
FEW = IN_FLIGHT // 3
AT_MOST = 100


class Clients:
    """Ask with one agent, and without a round. `ends`: whose deliberation has ended, in their order."""

    def __init__(self, fleet: Fleet) -> None:
        self._js = fleet.nc.jetstream()
        self._ended: dict[str, asyncio.Future[None]] = {}
        self._asked = 0
        self.ends: list[str] = []

    async def ask(self, tenant: str) -> None:
        self._asked += 1
        task_id = f"n{self._asked}"
        ended = self._ended[task_id] = asyncio.get_running_loop().create_future()
        body = {"task_id": task_id, "task_description": "Design it", "num_agents": 1, "rounds": 0}
        options = {"options": {"selection": "checks"}}
        await self._js.publish(subject_of(tenant, subjects.REQUESTED), json.dumps(body | options).encode())
        async with asyncio.timeout(WITHIN_S):
            await ended

    async def on_end(self, msg: Any) -> None:
        self.ends.append(tenant_of(msg.subject))
        self._ended.pop(json.loads(msg.data)["task_id"]).set_result(None)


async def test_who_asks_for_little_does_not_wait_behind_all_that_another_tenant_has_begun(nats_url: str) -> None:
    """One worker makes one call at a time, in their order. Without more ado each answer to the light one would come
    after those to all that the heavy one has in progress; soon it comes after a few."""
    tenants = {HEAVY: Tenant(), LIGHT: Tenant()}
    one_at_a_time = Workers(ack_wait_s=3, calls_per_worker=1)
    slow = SimulatorConfig(latency_ms=20)
    async with whole(nats_url, slow, tenants=tenants, workers=one_at_a_time) as fleet:
        clients = Clients(fleet)
        await fleet.nc.subscribe(subject_of(EVERY, subjects.COMPLETED), cb=clients.on_end)
        for _ in range(8):
            await clients.ask(LIGHT)

        async def flood() -> None:
            while True:
                await clients.ask(HEAVY)

        async with asyncio.TaskGroup() as group:
            floods = [group.create_task(flood()) for _ in range(IN_FLIGHT)]
            await until(lambda: clients.ends.count(HEAVY) >= IN_FLIGHT)
            before: list[int] = []
            while len(before) < AT_MOST and (not before or before[-1] > FEW):
                before.append(await earlier(clients))
            for each in floods:
                each.cancel()
        assert before[-1] <= FEW


async def earlier(clients: Clients) -> int:
    """How many answers the heavy tenant got before the light one got its own."""
    ends = len(clients.ends)
    await clients.ask(LIGHT)
    return clients.ends[ends:].count(HEAVY)
