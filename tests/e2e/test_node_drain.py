"""A Ray cluster of several nodes: a node that is told to end gives its calls to the worker that follows it."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import psutil
import pytest
from nats.js import JetStreamContext

from fleet import subjects
from fleet.local import ray_head
from fleet.local.ports import free_port, is_free
from fleet.local.process_titles import is_a
from tests.e2e.conftest import environment
from tests.support.waiting import until, until_consumer
from workers.simulator.server import Simulator, SimulatorConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WITHIN_S = 240
NEVER = "[workers]\ncount = 1\nnum_cpus = 1\nack_wait_s = 3000\n"
"""A call that waited for `ack_wait` would not be answered within this test."""


class Nodes:
    """Each is a `ray start --block`, as the container of a pod is."""

    def __init__(self, env: dict[str, str], folder: Path) -> None:
        self._env = env
        self._folder = folder

    @asynccontextmanager
    async def node(self, *arguments: str) -> AsyncIterator[Process]:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        memory = ("--object-store-memory", "80000000")
        with (self._folder / "ray-nodes.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command, *memory, *arguments, env=self._env, stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield process
        finally:
            below = psutil.Process(process.pid).children(recursive=True) if process.returncode is None else []
            for child in below:
                child.kill()
            if process.returncode is None:
                process.kill()
            await process.wait()


@asynccontextmanager
async def listening(port: int) -> AsyncIterator[None]:
    """Somebody does, inside."""
    await until(lambda: not is_free(port), WITHIN_S)
    yield


async def taken(js: JetStreamContext) -> None:
    """Waits until a worker has a call."""
    await until_consumer(js, subjects.AGENT_REQUESTS, subjects.WORKERS, lambda info: info.num_ack_pending > 0)


def has_actor(node: Process) -> bool:
    """Whether the worker runs there."""
    if node.returncode is not None:
        return False
    return any(is_a(child, "actor") for child in psutil.Process(node.pid).children(recursive=True))


@asynccontextmanager
async def component(name: str, env: dict[str, str]) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fleet.cli", name, "--json", stdout=PIPE, env=env
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            assert json.loads(await process.stdout.readline())["ready"]
        yield
    finally:
        process.terminate()
        await process.wait()


async def test_a_node_that_ends_hands_its_calls_back(nats_url: str, tmp_path: Path) -> None:
    """Its worker takes nothing new, and ends by itself; the deliberation does not wait for `ack_wait`."""
    port = free_port()
    config = tmp_path / "fleet.toml"
    config.write_text(NEVER)
    # A call takes longer than a node is given.
    slow = SimulatorConfig(tokens_per_second=4, answer_tokens=60)
    with tempfile.TemporaryDirectory(prefix="fleet-", dir="/tmp") as folder:
        async with Simulator(slow) as model:
            env = environment(
                NATS_URL=nats_url,
                VLLM_URL=model.url,
                RAY_ADDRESS=f"127.0.0.1:{port}",
                FLEET_CONFIG=str(config),
                RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="20",
                **{**ray_head.QUIET, **ray_head.credentials(tmp_path), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"},
            )
            nodes = Nodes({**os.environ, **env}, tmp_path)
            head = ("--head", f"--port={port}", "--num-cpus=0", f"--temp-dir={folder}/ray", "--include-dashboard=false")
            other = (f"--address=127.0.0.1:{port}", "--num-cpus=1")
            async with (
                nodes.node(*head),
                listening(port),
                nodes.node(*other) as one,
                component("collector", env),
                component("dispatcher", env),
                nodes.node(*other) as two,
            ):
                nc = await nats.connect(nats_url)
                body = {"task_id": "moved", "task_description": "Design it", "num_agents": 1}
                await nc.jetstream().publish(subjects.REQUESTED, json.dumps(body).encode())
                await taken(nc.jetstream())
                assert has_actor(one)
                one.send_signal(signal.SIGTERM)
                result = json.dumps({"task_id": "moved", "wait_seconds": WITHIN_S}).encode()
                reply = json.loads((await nc.request(subjects.RESULT, result, timeout=WITHIN_S)).data)
                assert reply["result"]["status"] == "COMPLETED"
                assert has_actor(two)
                await nc.close()
