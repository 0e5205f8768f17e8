"""Several dispatchers and collectors at once: they share the work, and none of them is missed by a client."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

import nats
import pytest
from nats.aio.msg import Msg

from fleet import subjects
from fleet.control import collector, dispatcher
from fleet.local.testbed import NoWorkers
from tests.support import agents
from tests.support.client.following import Follower, steps
from tests.support.fleets.control_plane import Fleet, Inbox
from tests.support.fleets.instances import held
from tests.support.fleets.processes import Component
from tests.support.nats import servers
from tests.support.nats.servers import Server
from tests.support.waiting import WITHIN_S, until

pytestmark = pytest.mark.usefixtures("nats_binary")

KINDS = ("dispatcher", "dispatcher", "collector", "collector")


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Fleet]:
    """A client, who hears all events, and workers."""
    nc, inbox = await nats.connect(url), Inbox()
    for subject in (subjects.ACCEPTED, subjects.REJECTED, *subjects.TERMINAL):
        await nc.subscribe(subject, cb=inbox.take)
    await nc.flush()
    async with agents.answering(nc):
        yield Fleet(nc, inbox)
    await nc.close()


@asynccontextmanager
async def replicas(tmp_path: Path) -> AsyncIterator[tuple[Server, list[Component], Fleet]]:
    """Two dispatchers and two collectors, each in a process of its own."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(servers.one(tmp_path / "nats"))
        components = [
            Component(kind, tmp_path / f"{kind}-{index}.log", NATS_URL=server.url) for index, kind in enumerate(KINDS)
        ]
        for component in components:
            stack.push_async_callback(component.end, signal.SIGKILL)
        await asyncio.gather(*(component.start() for component in components))
        yield server, components, await stack.enter_async_context(client(server.url))


class Load:
    """Clients that ask, look and cancel one after another, until told to stop; what went wrong is kept."""

    def __init__(self, fleet: Fleet, clients: int = 6) -> None:
        self.fleet = fleet
        self.asked: list[str] = []
        self.wrong: list[Any] = []
        self._clients = clients
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def more(self, count: int) -> None:
        """Waits until as many more have been asked."""
        wanted = len(self.asked) + count
        await until(lambda: len(self.asked) >= wanted)

    async def end(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _client(self, number: int) -> None:
        turn = 0
        while not self._stop.is_set():
            turn += 1
            task_id = f"load-{number}-{turn}"
            try:
                await self._turn(task_id, cancels=turn % 3 == 0)
            except Exception as error:
                self.wrong.append((task_id, repr(error)))
            self.asked.append(task_id)

    async def _turn(self, task_id: str, *, cancels: bool) -> None:
        body = {"task_id": task_id, "task_description": "Design it", "num_agents": 2}
        asking = asyncio.create_task(self.fleet.ask(subjects.ASK, body))
        if cancels:
            await self.fleet.inbox.next(subjects.ACCEPTED, task_id=task_id)
            code, reply = await self.fleet.ask(subjects.CANCEL, {"task_id": task_id})
            if code not in (None, "409"):  # it may have ended just before
                self.wrong.append((task_id, code, reply))
        code, reply = await asking
        if code or reply["status"] not in ("COMPLETED", "CANCELLED"):
            self.wrong.append((task_id, code, reply))
        code, reply = await self.fleet.ask(subjects.RESULT, {"task_id": task_id, "wait_seconds": 10})
        if code or not reply.get("result"):
            self.wrong.append((task_id, code, reply))


@pytest.mark.slow
async def test_two_of_each_share_the_work(tmp_path: Path) -> None:
    """NATS gave some of the requests, and of the responses, to each of them."""
    async with replicas(tmp_path) as (server, _, fleet):
        for number in range(20):
            await fleet.request(task_id=f"shared-{number}", num_agents=2)
        for number in range(20):
            await fleet.inbox.next(subjects.COMPLETED, task_id=f"shared-{number}")
        for subject in (subjects.DELIVER_REQUESTS, subjects.DELIVER_RESPONSES):
            first, second = await server.delivered(subject)
            assert first > 0
            assert second > 0


@pytest.mark.slow
async def test_killing_any_of_them_loses_nothing(tmp_path: Path) -> None:
    """Each is killed under load, and starts again: every request has exactly one terminal event."""
    async with replicas(tmp_path) as (_, components, fleet):
        asked = []
        for component in components:
            asked += [await fleet.request(num_agents=2, task_description=f"{len(asked)}") for _ in range(15)]
            await component.end(signal.SIGKILL)
            asked += [await fleet.request(num_agents=2, task_description=f"{len(asked)}") for _ in range(5)]
            await component.start()
        for task_id in asked:
            await fleet.inbox.next(subjects.COMPLETED, task_id=task_id)
        assert [fleet.inbox.of(task_id).count(subjects.COMPLETED) for task_id in asked] == [1] * len(asked)


@pytest.mark.slow
async def test_rolling_restart_under_load_shows_no_error_to_clients(tmp_path: Path) -> None:
    """Plain requests to the service are all answered while every instance is ended by SIGTERM and started again."""
    async with replicas(tmp_path) as (_, components, fleet):
        async with Load(fleet) as load:
            await load.more(20)
            for component in components:
                await component.drained()
                await load.more(10)
                await component.start()
                await load.more(10)
            await load.end()
        assert load.wrong == []


async def test_a_waiting_ask_is_answered_by_another_instance(nats_url: str) -> None:
    """Asked without an id, at whichever instance: each is ended in turn, and the one request is answered once."""
    async with held(nats_url) as instances:
        fleet = instances.fleet
        asking = asyncio.create_task(fleet.ask(subjects.ASK, {"task_description": "Take your time", "num_agents": 1}))
        await fleet.inbox.next(subjects.ACCEPTED)
        await instances.end(0)
        await instances.begin(dispatcher.run, NoWorkers())
        await instances.end(1)
        async with agents.answering(fleet.nc):
            await instances.begin(collector.run)
            code, reply = await asking
            assert (code, reply["status"]) == (None, "COMPLETED")
            assert (
                len({body["task_id"] for subject, _, body in fleet.inbox.events if subject == subjects.ACCEPTED}) == 1
            )


async def test_a_waiting_result_is_handed_over_with_the_time_that_is_left(nats_url: str) -> None:
    """Whoever waits for 3 s is answered, and not later for having been handed over: IN_PROGRESS, no error."""
    async with held(nats_url) as instances:
        fleet = instances.fleet
        await fleet.request(task_id="slow", num_agents=1)
        await fleet.inbox.next(subjects.ACCEPTED, task_id="slow")
        body = json.dumps({"task_id": "slow", "wait_seconds": 3}).encode()
        waiting = [asyncio.create_task(fleet.nc.request(subjects.RESULT, body, timeout=WITHIN_S)) for _ in range(8)]
        await fleet.ask(subjects.RESULT, "slow")  # those before it have arrived
        await instances.end(0)
        replies = await asyncio.gather(*waiting)
        assert {json.loads(reply.data)["status"] for reply in replies} == {"IN_PROGRESS"}


async def test_the_last_instance_says_503_and_where_to_ask(nats_url: str) -> None:
    """Nobody is left to hand over to: the caller is told that the deliberation goes on."""
    async with held(nats_url) as instances:
        fleet = instances.fleet
        asking = asyncio.create_task(fleet.ask(subjects.ASK, {"task_id": "alone", "task_description": "Wait"}))
        await fleet.inbox.next(subjects.ACCEPTED, task_id="alone")
        await instances.end(0)
        await instances.end(1)
        code, reply = await asking
        assert code == "503"
        assert "deliberation.result" in reply["error"]


async def test_followers_are_handed_over_and_miss_nothing(nats_url: str) -> None:
    """Each instance is ended in turn: every phase and every call is told once, and the end."""
    async with held(nats_url) as instances:
        fleet = instances.fleet
        body = {"task_id": "long", "task_description": "Take your time", "num_agents": 2}
        followers = [await Follower(fleet).call(body) for _ in range(8)]
        await fleet.inbox.next(subjects.ACCEPTED)
        for follower in followers:
            while not steps(follower.replies):
                await follower.next()
        await instances.end(0)
        await instances.begin(dispatcher.run, NoWorkers())
        await instances.end(1)
        async with agents.answering(fleet.nc):
            await instances.begin(collector.run)
            for follower in followers:
                replies = await follower.rest()
                assert (set(follower.codes), replies[-1]["status"]) == ({None}, "COMPLETED")
                told = [(phase, agent) for phase, _, _, _, agent, _ in steps(replies) if agent is not None]
                assert sorted(told) == sorted(
                    (phase, f"agent-dev-00{number}")
                    for phase in ("propose", "critique", "revise", "score")
                    for number in (1, 2)
                )


async def test_the_last_instance_ends_its_followers(nats_url: str) -> None:
    """503, and the empty message."""
    async with held(nats_url) as instances:
        fleet = instances.fleet
        follower = await Follower(fleet).call({"task_id": "alone", "task_description": "Wait"})
        await fleet.inbox.next(subjects.ACCEPTED, task_id="alone")
        await instances.end(0)
        await instances.end(1)
        replies = await follower.rest()
        assert follower.codes[-1] == "503"
        assert "deliberation.result" in replies[-1]["error"]


async def test_calls_that_are_answered_while_an_instance_leaves_do_not_disturb_it(nats_url: str) -> None:
    """It asks who else is there; until somebody says so, nothing waits any more that could be handed over."""
    async with held(nats_url) as instances:
        fleet = instances.fleet
        await instances.end(1)
        await fleet.request(task_id="slow", num_agents=1)
        await fleet.inbox.next(subjects.ACCEPTED, task_id="slow")
        body = json.dumps({"task_id": "slow", "wait_seconds": 1}).encode()
        waiting = asyncio.create_task(fleet.nc.request(subjects.RESULT, body, timeout=WITHIN_S))

        async def answer(ping: Msg) -> None:
            await waiting
            await ping.respond(b"{}")

        await fleet.nc.subscribe(f"$SRV.PING.{subjects.SERVICE}", cb=answer)
        await fleet.ask(subjects.RESULT, "slow")  # the one before it has arrived
        await instances.end(0)
        assert waiting.done()
        assert instances.running[0].cancelled()
