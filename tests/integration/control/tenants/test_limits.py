"""A tenant's `max_in_flight` holds over several dispatchers, also after one of them was killed."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest

from fleet import subjects
from fleet.config import Settings
from fleet.control.admitting.turns import LOST_AFTER_S, Turns
from fleet.jetstream import topology
from fleet.tenants.names import of_all, subject_of
from tests.support import agents
from tests.support.clock import Clock
from tests.support.fleets.processes import Component
from tests.support.nats import servers
from tests.support.waiting import WITHIN_S, until

pytestmark = pytest.mark.usefixtures("nats_binary")

TENANT, LIMIT = "few", 3
KINDS = ("dispatcher", "dispatcher", "collector")


class Client:
    """It asks as the tenant, and hears which deliberations begin and end. `open_calls` are not answered."""

    def __init__(self, nc: Any) -> None:
        self.nc = nc
        self.open_calls: list[Any] = []
        self.answers = False
        self.events: list[tuple[str, str]] = []

    async def request(self, count: int) -> None:
        for _ in range(count):
            body = json.dumps({"task_description": "Design it", "num_agents": 1}).encode()
            await self.nc.request(subject_of(TENANT, subjects.REQUESTED), body, timeout=WITHIN_S)

    async def hear(self, msg: Any) -> None:
        self.events.append((msg.subject, json.loads(msg.data)["task_id"]))

    def respond(self, call: Any) -> Any:
        if self.answers:
            return agents.answer(call)
        self.open_calls.append(call)
        return None

    async def answer(self) -> None:
        """All that is open, and whatever comes."""
        self.answers = True
        for call in self.open_calls:
            await agents.publish(self.nc.jetstream(), agents.answer(call))

    @property
    def begun(self) -> int:
        """How many tasks. Where a process dies, it may be told again that one was accepted."""
        return len({task_id for subject, task_id in self.events if subject == subject_of(TENANT, subjects.ACCEPTED)})

    @property
    def ended(self) -> int:
        return sum(subject == subject_of(TENANT, subjects.COMPLETED) for subject, _ in self.events)

    async def most(self) -> int:
        """Deliberations that were in progress at the same time, by the order of events in their stream."""
        most = open_ = 0
        js = self.nc.jetstream()
        for sequence in range(1, (await js.stream_info(subjects.DELIBERATIONS)).state.last_seq + 1):
            open_ += 1 if (await js.get_msg(subjects.DELIBERATIONS, sequence)).subject.endswith("accepted") else -1
            most = max(most, open_)
        return most


@asynccontextmanager
async def fleet(tmp_path: Path) -> AsyncIterator[tuple[list[Component], Client]]:
    config = tmp_path / "fleet.toml"
    config.write_text(f"[tenants.{TENANT}]\nmax_in_flight = {LIMIT}\n")
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(servers.one(tmp_path / "nats"))
        environ = {"NATS_URL": server.url, "FLEET_CONFIG": str(config)}
        components = [Component(kind, tmp_path / f"{kind}-{n}.log", **environ) for n, kind in enumerate(KINDS)]
        for component in components:
            stack.push_async_callback(component.end, signal.SIGKILL)
        await asyncio.gather(*(component.start() for component in components))
        nc = await nats.connect(server.url)
        stack.push_async_callback(nc.close)
        client = Client(nc)
        for subject in of_all(subjects.ACCEPTED, subjects.COMPLETED):
            await nc.subscribe(subject, cb=client.hear)
        await stack.enter_async_context(agents.answering(nc, client.respond))
        yield components, client


async def test_a_limit_holds_for_all_dispatchers_together(tmp_path: Path) -> None:
    """Both have requests of the tenant waiting; the third one begins, and no fourth one until one has ended."""
    async with fleet(tmp_path) as (_, client):
        client.answers = True
        await client.request(60)
        await until(lambda: client.ended == 60)
        assert await client.most() == LIMIT


@pytest.mark.slow
async def test_a_limit_holds_after_a_dispatcher_was_killed(tmp_path: Path) -> None:
    """What it has begun counts until it ends, and once; what waited with it begins elsewhere."""
    async with fleet(tmp_path) as (components, client):
        await client.request(20)
        await until(lambda: len(client.open_calls) == LIMIT)
        await components[0].end(signal.SIGKILL)
        await client.request(20)
        await client.answer()
        await until(lambda: client.ended == 40)  # a request that was in hand comes again more than once
        assert (client.begun, await client.most()) == (40, LIMIT)


async def test_a_turn_is_one_dispatchers_until_it_is_given_back_or_lost(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nc = await nats.connect(nats_url)
    js = nc.jetstream()
    await topology.declare(js, Settings(nats_url=nats_url))
    one, other, third = (Turns(js, name) for name in ("one", "other", "third"))
    assert [await one.take(), await other.take()] == [True, False]
    await one.give_back()
    assert sorted(await asyncio.gather(other.take(), third.take())) == [False, True]
    monkeypatch.setattr("fleet.control.admitting.turns.LOST_AFTER_S", 0.0)
    assert await one.take()
    for late in (other, third):  # it was not theirs any more
        await late.keep()
        await late.give_back()
    monkeypatch.undo()
    assert [await other.take(), await third.take()] == [False, False]
    await nc.close()


async def test_a_turn_in_a_bucket_that_was_made_anew_is_not_taken_for_an_old_one(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may stand under the revision that was seen long ago, before NATS was started again."""
    clock = Clock()
    monkeypatch.setattr("fleet.control.admitting.turns.time", clock)
    nc = await nats.connect(nats_url)
    js = nc.jetstream()
    await topology.declare(js, Settings(nats_url=nats_url))
    one, other, third = (Turns(js, name) for name in ("one", "other", "third"))
    assert [await one.take(), await other.take()] == [True, False]
    await js.delete_stream(subjects.WORKERS_STREAM)
    await topology.declare(js, Settings(nats_url=nats_url))
    assert await third.take()
    assert third._revision == one._revision
    clock.now += LOST_AFTER_S
    assert not await other.take()
    await nc.close()
