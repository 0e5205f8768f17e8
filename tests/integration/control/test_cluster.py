"""Three nats-servers with three replicas of everything: any of them may go, the leaders included."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest

from fleet import subjects
from fleet.config import Limits, load
from fleet.errors import Unreachable
from fleet.jetstream import connection, topology
from tests.support import servers
from tests.support.control_plane import Fleet
from tests.support.servers import Server
from tests.support.whole_fleet import whole
from workers.simulator.server import SimulatorConfig

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nats_binary")]

LIMITS = Limits(replicas=3)
PACE = SimulatorConfig(latency_ms=100)
"""So that there are always calls in flight."""


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
    async with asyncio.timeout(60):
        while True:
            try:
                await fleet.nc.jetstream().publish(subjects.REQUESTED, body, headers=headers, timeout=2)
                return
            except (nats.errors.Error, TimeoutError):
                await asyncio.sleep(0.1)


async def leader_of(fleet: Fleet, stream: str) -> str:
    """The name of the server that leads a stream's replicas."""
    async with asyncio.timeout(30):
        while True:
            try:
                info = await fleet.nc.jetstream().stream_info(stream)
                if info.cluster and info.cluster.leader:
                    return str(info.cluster.leader)
            except (nats.errors.Error, TimeoutError):
                pass
            await asyncio.sleep(0.1)


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
        async with asyncio.timeout(90):  # the bucket knows an end before it is said
            while len(found := await events(fleet)) < len(asked):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        assert sorted(found) == sorted(asked)
        assert {len(bodies) for bodies in found.values()} == {1}
        bucket = await fleet.nc.jetstream().key_value(subjects.BUCKET)
        for task_id, (body,) in found.items():
            state = json.loads((await bucket.get(task_id)).value or b"")
            assert state["result"] == body
            assert (body["status"], body["degraded"]) == ("COMPLETED", False)
        await idle(fleet)


async def ended(fleet: Fleet, task_ids: list[str]) -> None:
    async with asyncio.timeout(90):
        for task_id in task_ids:
            while True:
                try:
                    body = {"task_id": task_id, "wait_seconds": 20}
                    code, reply = await fleet.ask(subjects.RESULT, body)
                    if code is None and reply.get("result"):
                        break
                except nats.errors.Error:
                    pass
                await asyncio.sleep(0.2)


async def idle(fleet: Fleet) -> None:
    """Waits until no work queue holds a message, and no consumer has one pending or unacknowledged."""
    js = fleet.nc.jetstream()
    async with asyncio.timeout(60):
        while True:
            held = {
                name: (await js.stream_info(name)).state.messages
                for name in (subjects.DELIBERATION_REQUESTS, subjects.AGENT_REQUESTS, subjects.DELIBERATION_CONTROL)
            }
            for stream, consumer in topology.consumers(load({})):
                info = await js.consumer_info(stream, consumer.durable_name or "")
                held[info.name] = (info.num_pending or 0) + (info.num_ack_pending or 0)
            if not any(held.values()):
                return
            await asyncio.sleep(0.2)


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
