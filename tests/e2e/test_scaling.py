"""Ray's own autoscaler on one machine: nodes come and go with the workers, and the workers with the work."""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import nats
import psutil
import pytest
import ray
from nats.aio.client import Client

from fleet import subjects
from fleet.jetstream import pool_size
from fleet.jetstream.history import events
from fleet.local import ray_head
from fleet.local.ports import free_port
from fleet.local.process_titles import is_a
from fleet.messages import AgentResponse
from fleet.messages.base import decoder
from tests.e2e.conftest import environment
from tests.e2e.test_node_drain import Nodes, component, listening
from tests.support.waiting import until
from workers.simulator.server import Simulator, SimulatorConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WITHIN_S = 240.0
COUNCILS, AGENTS = 8, 3
MOST_WORKERS, CALLS_EACH = 5, 4
SETTINGS = f"""[workers]
min = 1
max = {MOST_WORKERS}
calls_per_worker = {CALLS_EACH}
shrink_after_s = 20
"""
SOON_AGAIN = "ack_wait_s = 10\n"
COMMANDS = (
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files"),
)
NODES = {
    "cluster_name": "fleet-test",
    "max_workers": 3,
    "idle_timeout_minutes": 0.3,
    "auth": {"ssh_user": "root"},
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 3},
    },
    "file_mounts": {},
    **{key: [] for key in COMMANDS},
}
"""Ray takes no defaults from anywhere here."""
PROVIDER = {
    "type": "external",  # the kind `fake_multinode` needs a file that Ray's wheel has not
    "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
    "use_node_id_as_ip": True,
    "launch_multiple": True,
    "disable_node_updaters": True,
    "disable_launch_config_check": True,
}


MARK = "SCALING_TEST"
"""In the environment of every process of this Ray."""


def end_all(mark: str) -> None:
    """What is left of this Ray: actors may outlive their raylet."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                process.kill()


def raylets(head: int) -> Iterator[psutil.Process]:
    """Of each Ray node that runs. A raylet's child carries its name for a moment."""
    for process in psutil.Process(head).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            parent = process.parent()
            is_node = process.name() == "raylet" and (parent is None or parent.name() != "raylet")
            if is_node and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def nodes_of(head: int) -> int:
    """Ray nodes that run, the head not counted: it takes no actors."""
    return len(list(raylets(head))) - 1


def workers_below(raylet: psutil.Process) -> int:
    return sum(is_a(process, "actor") for process in raylet.children(recursive=True))


def kill_node(head: int) -> bool:
    """Kills one that has a worker, its raylet and all below it; False: there is none."""
    for raylet in raylets(head):
        with suppress(psutil.NoSuchProcess):
            if workers_below(raylet):
                for process in (raylet, *raylet.children(recursive=True)):
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
                return True
    return False


class Watch:
    """What was decided, and how many nodes there were, from beginning to end."""

    def __init__(self, nc: Client, head: int) -> None:
        self._nc = nc
        self.head = head
        self.wanted: list[int] = []
        self.nodes: list[int] = []
        self.lost: set[int] = set()
        """Raylets that ended while something was asked: now and then Ray takes a node away that has workers."""
        self._raylets: set[int] = set()

    async def until(self, fact: Callable[[], bool]) -> None:
        """Looks until it is so."""

        async def is_so() -> bool:
            size, _ = await pool_size.look(self._nc)
            if size is not None and self.wanted[-1:] != [size.wanted]:
                self.wanted.append(size.wanted)
            if self.nodes[-1:] != [nodes := nodes_of(self.head)]:
                self.nodes.append(nodes)
            return fact()

        await until(is_so, WITHIN_S, pause_s=0.2)

    async def until_done(self, asked: "Replies") -> None:
        """As `until`, and notes which nodes are lost meanwhile."""

        def is_done() -> bool:
            running = {each.pid for each in raylets(self.head)}
            self.lost |= self._raylets - running
            self._raylets |= running
            return asked.done()

        await self.until(is_done)


def turns(values: list[int]) -> int:
    """How often it goes the other way."""
    steps = [later > earlier for earlier, later in pairwise(values)]
    return sum(one is not other for one, other in pairwise(steps))


@asynccontextmanager
async def cluster(env: dict[str, str], folder: Path, port: int) -> AsyncIterator[int]:
    """A head with Ray's autoscaler, whose nodes are processes of this machine; the pid of its `ray start`."""
    config = folder / "nodes.yaml"
    address = f"{ray.util.get_node_ip_address()}:{port}"
    config.write_text(json.dumps({**NODES, "provider": PROVIDER | {"gcs_address": address}}))
    head = ("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false")
    autoscaling = (f"--autoscaling-config={config}", f"--temp-dir={folder}/ray")
    async with Nodes(env, folder).node(*head, *autoscaling) as process, listening(port):
        yield process.pid


@asynccontextmanager
async def fleet(nats_url: str, tmp_path: Path, more: str) -> AsyncIterator[tuple[Client, Watch]]:
    """On a Ray with its autoscaler, with its first node. `more`: of the settings of workers."""
    port = free_port()
    config = tmp_path / "fleet.toml"
    config.write_text(SETTINGS + more)
    with tempfile.TemporaryDirectory(prefix="fleet-", dir="/tmp") as temp:
        async with Simulator(SimulatorConfig(tokens_per_second=15, answer_tokens=60)) as model:
            env = environment(
                NATS_URL=nats_url,
                VLLM_URL=model.url,
                RAY_ADDRESS=f"127.0.0.1:{port}",
                FLEET_CONFIG=str(config),
                RAY_FAKE_CLUSTER="1",
                AUTOSCALER_UPDATE_INTERVAL_S="1",
                **{MARK: str(tmp_path), **ray_head.credentials(tmp_path)},
            )
            env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1"
            try:
                async with (
                    cluster({**os.environ, **env}, Path(temp), port) as head,
                    component("collector", env),
                    component("dispatcher", env),
                ):
                    nc = await nats.connect(nats_url)
                    watch = Watch(nc, head)
                    await watch.until(lambda: watch.nodes[-1:] == [1])
                    yield nc, watch
                    await nc.close()
            finally:
                end_all(str(tmp_path))


async def test_nodes_come_with_the_work_and_go_with_it(nats_url: str, tmp_path: Path) -> None:
    """From one to several and back; no deliberation is lost or degraded, no call is made twice unless Ray took away the
    node that made it, nothing flaps."""
    async with fleet(nats_url, tmp_path, SOON_AGAIN) as (nc, watch):
        await all_complete(ask(nc), watch)
        assert max(watch.wanted) == MOST_WORKERS
        assert max(watch.nodes) >= 3  # one that ends may still be there when another one begins
        assert turns(watch.wanted) == 1  # of nodes Ray decides, which may replace an idle one too early
        assert await deliveries(nc) == {1} or watch.lost


async def test_a_node_that_is_killed_while_the_pool_has_grown_is_missed_by_nobody(
    nats_url: str, tmp_path: Path
) -> None:
    """Its calls are made again by others, no deliberation is lost or degraded, and the pool comes back to its size."""
    async with fleet(nats_url, tmp_path, SOON_AGAIN) as (nc, watch):
        asked = ask(nc)
        await until(lambda: all_have_calls(nc, watch.head), WITHIN_S, pause_s=0.2, not_yet=(psutil.Error,))
        assert kill_node(watch.head)
        assert not asked.done()
        await all_complete(asked, watch)
        assert 2 in await deliveries(nc)  # what was lost with the node


Replies = asyncio.Future[list[dict[str, Any]]]


def ask(nc: Client) -> Replies:
    return asyncio.gather(*(deliberate(nc, f"t-{number}") for number in range(COUNCILS)))


async def all_complete(asked: Replies, watch: Watch) -> None:
    """Each council completes, and nothing of it is missing; then one node is left, and one worker."""
    await watch.until_done(asked)
    results = await asked
    await watch.until(lambda: (watch.wanted[-1:], watch.nodes[-1:]) == ([1], [1]))
    sys.stderr.write(f"wanted {watch.wanted}, nodes {watch.nodes}\n")
    assert [result["status"] for result in results] == ["COMPLETED"] * COUNCILS
    assert [result["result"]["degraded"] for result in results] == [False] * COUNCILS


async def deliberate(nc: Client, task_id: str) -> dict[str, Any]:
    body = {"task_id": task_id, "task_description": "Design it", "num_agents": AGENTS, "rounds": 1}
    await nc.jetstream().publish(subjects.REQUESTED, json.dumps(body).encode())
    question = json.dumps({"task_id": task_id, "wait_seconds": WITHIN_S}).encode()
    answer: dict[str, Any] = json.loads((await nc.request(subjects.RESULT, question, timeout=WITHIN_S)).data)
    return answer


async def all_have_calls(nc: Client, head: int) -> bool:
    """More are open than all workers but one can have: whichever node is killed, calls are lost with it. More than the
    first node's two workers run.
    """
    workers = sum(map(workers_below, raylets(head)))
    info = await nc.jetstream().consumer_info(subjects.AGENT_REQUESTS, subjects.WORKERS)
    return workers > 2 and int(info.num_ack_pending or 0) > (workers - 1) * CALLS_EACH


async def deliveries(nc: Client) -> set[int]:
    """Which deliveries of their calls were answered: 1 is the first one."""
    stream = subjects.AGENT_RESPONSES
    answers = events(nc.jetstream(), (subjects.AGENT_COMPLETED, subjects.AGENT_FAILED), None, stream=stream)
    async with aclosing(answers) as found:
        return {decoder(AgentResponse).decode(msg.data).facts.delivery async for msg in found}
