"""NATS as others run it: a deliberation completes on it, and before and after a restart."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from msgspec import structs
from nats.js.api import RetentionPolicy, StorageType, StreamConfig, StreamSource

from fleet import subjects
from fleet.clock import now_ms
from fleet.exits import Exit
from fleet.limits.streams import DEFAULTS, StreamLimits
from tests.support import agents
from tests.support.client import commands
from tests.support.fleets.control_plane import client_on, running, without_workers
from tests.support.nats import servers
from tests.support.nats.servers import HOST, Server, free_ports
from tests.support.variants import some_of
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("nats_binary")


def account(limits: str) -> str:
    return f"accounts {{ one {{ jetstream: {{ {limits} }}, users: [{{ user: u, password: p }}] }} }}\nno_auth_user: u"


def jetstream(directory: Path, more: str) -> str:
    """In place of the block that the server would have."""
    return f'jetstream {{ store_dir: "{directory}", sync_interval: 100ms, {more} }}'


def on_disk(limits: StreamLimits) -> StreamLimits:
    return structs.replace(limits, storage="file") if limits.storage == "memory" else limits


SERVERS: Mapping[str, Any] = {
    "each stream must have a limit": lambda _: account("max_memory: 1GB, max_file: 20GB, max_bytes_required: true"),
    "no room in memory": lambda _: account("max_memory: 0, max_file: 20GB"),
    "a domain": lambda directory: jetstream(directory, "domain: hub"),
    "encryption at rest": lambda directory: jetstream(directory, 'cipher: aes, key: "secret"'),
}


@some_of(1, "name", SERVERS)
async def test_a_deliberation_completes(tmp_path: Path, name: str) -> None:
    """One that began before a restart, too. A deadline that falls due while NATS is away ends its task afterwards."""
    settings: dict[str, Any] = {}
    if name == "no room in memory":
        settings = {"streams": {stream: on_disk(limits) for stream, limits in DEFAULTS.items()}}
    async with servers.one(tmp_path, more=SERVERS[name](tmp_path)) as server:
        async with without_workers(server.url, **settings) as fleet:
            await fleet.request(task_id="before", num_agents=2, rounds=0)
            await fleet.request(task_id="due", num_agents=2, constraints={"timeout_seconds": 1})
            for task_id in ("before", "due"):
                await fleet.inbox.next(subjects.ACCEPTED, task_id=task_id)
            due_ms = now_ms() + 1000
        await server.stop()
        await until(lambda: now_ms() > due_ms)
        await server.start()
        await server.healthy()
        async with running(
            server.url, lambda call: None if call.task_id == "due" else agents.answer(call), **settings
        ) as fleet:
            await fleet.request(task_id="after", num_agents=2)
            for task_id in ("after", "before"):
                await fleet.inbox.next(subjects.COMPLETED, task_id=task_id)
            _, reply = await fleet.ask(subjects.RESULT, {"task_id": "due", "wait_seconds": 20})
            assert reply["status"] == "TIMEOUT"


@pytest.mark.filterwarnings("ignore:parameter 'timeout' of type 'float':DeprecationWarning")  # nats-py's own
async def test_websocket_is_enough(tmp_path: Path) -> None:
    """Where a firewall lets nothing else through."""
    (port,) = free_ports(1)
    more = f'websocket {{ listen: "{HOST}:{port}", no_tls: true }}'
    async with servers.one(tmp_path, more=more), running(f"ws://{HOST}:{port}", agents.answer) as fleet:
        await fleet.request(task_id="t", num_agents=2)
        await fleet.inbox.next(subjects.COMPLETED, task_id="t")


@asynccontextmanager
async def leaf_of_a_fleet(directory: Path, own_jetstream: bool) -> AsyncIterator[str]:
    """The URL of a leaf node, with JetStream of its own or without; the fleet is at its hub."""
    (port,) = free_ports(1)
    hub_conf = f'{jetstream(directory / "hub", "domain: hub")}\nleafnodes {{ listen: "{HOST}:{port}" }}'
    leaf_conf = f'leafnodes {{ remotes: [{{ url: "nats://{HOST}:{port}" }}] }}\n'
    leaf_conf += jetstream(directory / "leaf", "domain: leaf" if own_jetstream else "enabled: false")
    async with servers.one(directory / "hub", more=hub_conf) as hub:
        leaf = Server("leaf", directory / "leaf", more=leaf_conf)
        try:
            await leaf.start()
            async with running(hub.url, agents.answer):
                yield leaf.url
        finally:
            await leaf.kill()


@pytest.mark.parametrize("own_jetstream", [True, False])
async def test_clients_behind_a_leaf_node_ask_and_publish(tmp_path: Path, own_jetstream: bool) -> None:
    """What they need is core NATS: JetStream of the leaf's own, in its domain, is not in the way."""
    async with leaf_of_a_fleet(tmp_path, own_jetstream) as url:
        nc = await nats.connect(url)
        fleet = await client_on(nc)
        code, reply = await fleet.ask(subjects.ASK, {"task_description": "x", "num_agents": 2})
        assert (code, reply["status"]) == (None, "COMPLETED")
        await fleet.request(task_id="published", num_agents=2)
        await fleet.inbox.next(subjects.COMPLETED, task_id="published")
        await nc.close()


@pytest.mark.parametrize("own_jetstream", [True, False])
async def test_commands_behind_a_leaf_node_work_or_say_where_the_streams_are(
    tmp_path: Path, own_jetstream: bool
) -> None:
    """Those of a client work; those that read streams do not say that there is no fleet."""
    async with leaf_of_a_fleet(tmp_path, own_jetstream) as address:
        url = {"NATS_URL": address}
        status, out, err = await commands.fleet("ask", "Design it", "--id", "one", "--agents", "2", "--json", **url)
        assert (status, json.loads(out)["status"]) == (Exit.DONE, "COMPLETED"), err
        status, out, err = await commands.fleet("submit", "Design it", "--id", "two", **url)
        assert (status, out.strip()) == (Exit.DONE, "two"), err
        for task_id in ("one", "two"):
            status, out, err = await commands.fleet("watch", task_id, **url)
            assert (status, "completed" in out) == (Exit.DONE, True), err
        status, out, err = await commands.fleet("result", "two", "--json", **url)
        assert (status, json.loads(out)["status"]) == (Exit.DONE, "COMPLETED"), err
        for words in (["list"], ["tenants"], ["deadletter", "list"]):
            status, _, err = await commands.fleet(*words, **url)
            assert (status, "its streams are not in the JetStream of this server" in err) == (Exit.UNREACHABLE, True), (
                words,
                err,
            )
        # No advice to start a second fleet here, nor to give this server a JetStream.
        status, out, _ = await commands.fleet("doctor", "--json", **url)
        (streams,) = (each for each in json.loads(out) if each["what"] == "streams")
        assert (streams["verdict"], "connect to the fleet's own NATS" in streams["todo"]) == ("warn", True)
        assert not {"fleet", "JetStream"} & {each["what"] for each in json.loads(out) if each["verdict"] == "fail"}


async def test_copies_of_its_streams_take_nothing_away(nats_url: str) -> None:
    """Mirrors and sources that somebody has made, of work queues and of events, before the fleet comes back."""
    async with without_workers(nats_url) as fleet:
        await fleet.request(task_id="begun", num_agents=2, rounds=0)
        await fleet.inbox.next(subjects.ACCEPTED, task_id="begun")
        js = fleet.nc.jetstream()
        for stream in (subjects.DELIBERATION_REQUESTS, subjects.AGENT_REQUESTS, subjects.DELIBERATIONS):
            mirror = StreamConfig(name=f"COPY_{stream}", mirror=StreamSource(name=stream), storage=StorageType.MEMORY)
            await js.add_stream(mirror)
        source = StreamConfig(
            name="COPY_CONTROL",
            sources=[StreamSource(name=subjects.DELIBERATION_CONTROL)],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.MEMORY,
        )
        await js.add_stream(source)
    async with without_workers(nats_url) as fleet, agents.answering(fleet.nc):
        await fleet.request(task_id="afterwards", num_agents=2, rounds=0)
        for task_id in ("begun", "afterwards"):
            await fleet.inbox.next(subjects.COMPLETED, task_id=task_id)
            assert fleet.inbox.of(task_id).count(subjects.COMPLETED) == 1
