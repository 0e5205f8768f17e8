"""Three nats-servers with three replicas of everything: any of them may go, the leaders included."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest

from fleet import subjects
from fleet.config import Limits, Settings, load
from fleet.control.publishing.terminal_events import TerminalEvents
from fleet.errors import Unreachable
from fleet.jetstream import connection, topology
from tests.support.fleets.control_plane import Fleet
from tests.support.fleets.whole_fleet import whole
from tests.support.nats import servers
from tests.support.nats.servers import Server
from tests.support.waiting import until, until_consumer, until_emptied
from workers.simulator.server import SimulatorConfig

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nats_binary")]

LIMITS = Limits(replicas=3)
PACE = SimulatorConfig(latency_ms=100)
"""So that there are always calls in flight."""
AWAY = (nats.errors.Error, TimeoutError)
"""What a client meets while a server is away."""


@asynccontextmanager
async def clustered(tmp_path: Path) -> AsyncIterator[tuple[list[Server], Fleet]]:
    async with servers.three(tmp_path) as nodes, whole(urls(nodes), PACE, LIMITS) as fleet:
        yield nodes, fleet


def urls(nodes: list[Server]) -> str:
    return ", ".join(node.url for node in nodes)


async def persistently(fleet: Fleet, task_id: str) -> None:
    """A client's request, published until it is acknowledged: the id makes the repetition harmless."""
    body = json.dumps({"task_id": task_id, "task_description": "Design it", "num_agents": 3}).encode()
    headers = {"Nats-Msg-Id": task_id}

    async def is_taken() -> bool:
        return bool(await fleet.nc.jetstream().publish(subjects.REQUESTED, body, headers=headers, timeout=2))

    await until(is_taken, not_yet=AWAY)


async def leader_of(fleet: Fleet, stream: str) -> str:
    """The name of the server that leads a stream's replicas."""
    leader = ""

    async def is_known() -> bool:
        nonlocal leader
        cluster = (await fleet.nc.jetstream().stream_info(stream)).cluster
        leader = (cluster and cluster.leader) or ""
        return bool(leader)

    await until(is_known, not_yet=AWAY)
    return leader


async def events(fleet: Fleet) -> dict[str, list[dict[str, Any]]]:
    """Terminal events by task, as their stream has them."""
    js = fleet.nc.jetstream()
    found: dict[str, list[dict[str, Any]]] = {}
    last = (await js.stream_info(subjects.DELIBERATIONS)).state.last_seq
    sequence = 0
    while sequence < last:
        msg = await js.get_msg(subjects.DELIBERATIONS, sequence + 1, subject="deliberation.*", next=True)
        sequence = msg.seq
        if msg.subject in subjects.TERMINAL:
            body = json.loads(msg.data or b"")
            found.setdefault(body["task_id"], []).append(body)
    return found


async def test_every_stream_and_bucket_has_three_replicas(tmp_path: Path) -> None:
    """`limits.replicas = 3`; also where there was one before."""
    async with servers.three(tmp_path) as nodes:
        nc = await connection.connect(load({"NATS_URL": urls(nodes)}), "test")
        js = nc.jetstream(timeout=10)
        await topology.declare(js, load({}))
        async with whole(urls(nodes), limits=LIMITS):
            kept = {info.config.name: info.config.num_replicas for info in await js.streams_info()}
            direct = (await js.stream_info(f"KV_{subjects.BUCKET}")).config.allow_direct
        await nc.close()
    assert set(kept.values()) == {3}
    assert not direct, "a replica may answer with an old state"


async def test_the_loss_of_any_node_loses_nothing(tmp_path: Path) -> None:
    """Under load each node is killed in turn, each leading some stream, and work goes on without it. In the end there
    is one terminal event for every request, the same as in the bucket, and nothing pending anywhere.
    """
    async with clustered(tmp_path) as (nodes, fleet):
        by_name = {node.name: node for node in nodes}
        asked: list[str] = []
        left = set(by_name)

        async def load(count: int) -> None:
            new = [f"cluster-{len(asked) + number}" for number in range(count)]
            asked.extend(new)
            await asyncio.gather(*(persistently(fleet, task_id) for task_id in new))

        await load(12)
        for stream in (subjects.DELIBERATION_REQUESTS, f"KV_{subjects.BUCKET}", subjects.AGENT_RESPONSES):
            leader = await leader_of(fleet, stream)
            node = by_name[leader if leader in left else left.pop()]
            left.discard(node.name)
            loading = asyncio.create_task(load(12))
            await node.kill()
            await loading
            await ended(fleet, asked)
            await node.start()
            await node.healthy()
        assert not left
        await load(12)
        await ended(fleet, asked)

        async def are_said() -> bool:  # the bucket knows an end before it is said
            return len(await events(fleet)) >= len(asked)

        await until(are_said, 90)
        found = await events(fleet)
        assert sorted(found) == sorted(asked)
        assert {len(bodies) for bodies in found.values()} == {1}
        bucket = await fleet.nc.jetstream().key_value(subjects.BUCKET)
        for task_id, (body,) in found.items():
            state = json.loads((await bucket.get(task_id)).value or b"")
            assert state["result"] == body
            assert (body["status"], body["degraded"]) == ("COMPLETED", False)
        await idle(fleet)


async def test_an_end_is_missed_only_once_its_stream_takes_it(tmp_path: Path) -> None:
    """While the stream of events has no leader its replicas can be read, and nothing can be stored: an event that was
    published then would be seen by core subscribers, and published again.
    """
    async with servers.three(tmp_path) as nodes:
        nc = await connection.connect(load({"NATS_URL": urls(nodes)}), "test")
        js = nc.jetstream(timeout=2)
        try:
            await topology.declare(nc.jetstream(timeout=10), Settings(limits=LIMITS))
            info = await js.stream_info(subjects.DELIBERATIONS)
            assert info.cluster is not None
            await next(node for node in nodes if node.name == info.cluster.leader).kill()
            asked = TerminalEvents(js)

            async def is_missing() -> bool:
                return not await asked.is_stored("t")

            await until(is_missing, not_yet=AWAY)
            await js.publish(subjects.COMPLETED, b"{}", headers={"Nats-Msg-Id": "t.terminal"})
            assert await asked.is_stored("t")
        finally:
            await nc.close()


async def test_a_node_that_takes_its_leave_loses_nothing(tmp_path: Path) -> None:
    """Lame duck mode, as Helm charts end a server: it sends its clients away one by one, and then ends. Every request
    ends once, the fleet's connections are on the others, and no server refused one.
    """
    more = 'lame_duck_grace_period: "1s", lame_duck_duration: "30s"'
    async with servers.three(tmp_path, more=more) as nodes, whole(urls(nodes), PACE, LIMITS) as fleet:
        leaving, others = nodes[0], nodes[1:]
        asked = [f"before-{number}" for number in range(12)]
        await asyncio.gather(*(persistently(fleet, task_id) for task_id in asked))
        leaving.signal(signal.SIGUSR2)
        while leaving.runs:
            asked.append(f"meanwhile-{len(asked)}")
            await persistently(fleet, asked[-1])
            await ended(fleet, asked[-1:])
        await ended(fleet, asked)

        async def are_said() -> bool:
            return len(await events(fleet)) >= len(asked)

        await until(are_said, 90)
        found = await events(fleet)
        assert {task_id: len(bodies) for task_id, bodies in found.items()} == dict.fromkeys(asked, 1)
        assert {body["status"] for (body,) in found.values()} == {"COMPLETED"}
        assert [server.refusals for server in nodes] == [0, 0, 0]
        assert all([await server.connections() for server in others])
        await idle(fleet)


async def ended(fleet: Fleet, task_ids: list[str]) -> None:
    for task_id in task_ids:

        async def has_ended(task_id: str = task_id) -> bool:
            code, reply = await fleet.ask(subjects.RESULT, {"task_id": task_id, "wait_seconds": 20})
            return code is None and bool(reply.get("result"))

        await until(has_ended, 90, not_yet=AWAY)


async def idle(fleet: Fleet) -> None:
    """Waits until no work queue holds a message, and no consumer has one pending or unacknowledged."""
    js = fleet.nc.jetstream()
    for name in (subjects.DELIBERATION_REQUESTS, subjects.AGENT_REQUESTS, subjects.DELIBERATION_CONTROL):
        await until_emptied(js, name)
    for stream, consumer in topology.consumers(load({})):
        await until_consumer(
            js, stream, consumer.durable_name or "", lambda info: not info.num_pending and not info.num_ack_pending
        )


async def test_a_fleet_starts_while_a_node_of_three_is_away(tmp_path: Path) -> None:
    """`NATS_URL` names all three, separated by commas, and what is left has everything, what is in memory included."""
    async with servers.three(tmp_path) as nodes:
        async with whole(urls(nodes), limits=LIMITS) as fleet:
            leader = await leader_of(fleet, subjects.AGENT_PROGRESS_STREAM)
        await next(node for node in nodes if node.name == leader).kill()
        async with whole(urls(nodes), limits=LIMITS) as fleet:
            code, done = await fleet.ask(subjects.ASK, {"task_description": "Design it", "num_agents": 1})
            assert (code, done["status"]) == (None, "COMPLETED")


async def test_without_any_node_it_says_so(tmp_path: Path) -> None:
    """None of the servers that `NATS_URL` names answers."""
    settings = load({"NATS_URL": urls([Server("none", tmp_path), Server("neither", tmp_path)])})
    with pytest.raises(Unreachable, match="no NATS server answers"):
        await connection.connect(settings, "test")
