"""Ten rolling restarts of a cluster of three servers, as upgrades make them, while clients ask without a pause."""

import asyncio
import os
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import pytest
from msgspec import structs

from fleet.client import connect
from fleet.config import Limits, RoleProfile, Settings, Workers, unconfigured
from fleet.control import collector, dispatcher
from fleet.local.testbed import NoWorkers
from tests.support.nats import servers
from tests.support.nats.servers import HOST, Server, free_ports
from tests.support.waiting import until
from workers.calls.worker import AgentWorker
from workers.simulator.server import Simulator, SimulatorConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500), pytest.mark.usefixtures("nats_binary")]

ROUNDS = 10
USERS = 'authorization { user: fleet, password: "p@ss" }'
READY_WITHIN_S = 60


def login(nodes: Sequence[Server]) -> str:
    return ",".join(node.url.replace("://", "://fleet:p%40ss@") for node in nodes)


@asynccontextmanager
async def fleet_at(url: str) -> AsyncIterator[list[int]]:
    """Dispatcher, collector and worker that know this URL; inside are the ports of their health."""
    ports = free_ports(2)
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(Simulator(SimulatorConfig()))
        settings = Settings(
            nats_url=url,
            vllm_urls=(simulator.url,),
            roles={"DEV": RoleProfile(persona="You are a developer.")},
            limits=Limits(replicas=3),
            workers=Workers(ack_wait_s=3, calls_per_worker=32),
            health_host=HOST,
        )
        runs: list[Callable[[Settings, asyncio.Event], Any]] = [
            lambda own, up: dispatcher.run(own, NoWorkers(), on_ready=up.set),
            lambda own, up: collector.run(own, on_ready=up.set),
        ]
        for run, port in zip(runs, ports, strict=True):
            up = asyncio.Event()
            task = asyncio.create_task(run(structs.replace(settings, health_port=port), up))
            stack.push_async_callback(_ended, task)
            async with asyncio.timeout(READY_WITHIN_S):
                await up.wait()
        await stack.enter_async_context(AgentWorker.open(settings, "worker-rolled"))
        yield ports


async def _ended(task: "asyncio.Task[None]") -> None:
    assert not task.done(), task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def all_ready(ports: Sequence[int]) -> float:
    """Waits until every component says so; after how many seconds."""
    begun = time.monotonic()
    async with aiohttp.ClientSession() as http:

        async def are_ready() -> bool:
            answers = [await http.get(f"http://{HOST}:{port}/readyz") for port in ports]
            return all([(await answer.json())["ready"] for answer in answers])

        await until(are_ready, READY_WITHIN_S)
    return time.monotonic() - begun


async def again_and_again(
    ask: Callable[[], Awaitable[str]], said: list[str], took_s: list[float], enough: asyncio.Event
) -> None:
    while not enough.is_set():
        begun = time.monotonic()
        said.append(await ask())
        took_s.append(time.monotonic() - begun)


async def by_the_command_line(url: str, folder: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fleet.cli", "ask", "Design it", "--agents", "1", "--json"),
        *("--nats-url", url, "--data-dir", str(folder)),
        stdout=PIPE,
        stderr=PIPE,
        env=unconfigured(os.environ),
    )
    out, err = await process.communicate()
    assert process.returncode == 0, (process.returncode, out.decode(), err.decode())
    return "COMPLETED" if b'"COMPLETED"' in out else out.decode()


async def test_clients_are_answered_and_components_come_back(tmp_path: Path) -> None:
    """The fleet is told of one server, and learns of the others; no server refuses anybody."""
    async with servers.three(tmp_path, more=USERS) as nodes, fleet_at(login(nodes[:1])) as ports:
        async with connect(login(nodes[:1])) as client:

            async def by_the_client() -> str:
                return type(await client.ask("Design it", agents=1)).__name__

            enough = asyncio.Event()
            said: dict[str, list[str]] = {"client": [], "command line": []}
            took_s: dict[str, list[float]] = {"client": [], "command line": [], "until all are ready": []}
            async with asyncio.TaskGroup() as asking:
                asking.create_task(again_and_again(by_the_client, said["client"], took_s["client"], enough))
                commands = again_and_again(
                    lambda: by_the_command_line(login(nodes), tmp_path),
                    said["command line"],
                    took_s["command line"],
                    enough,
                )
                asking.create_task(commands)
                for _ in range(ROUNDS):
                    for node in nodes:
                        await node.stop()
                        await node.start()
                        await node.healthy()
                        took_s["until all are ready"].append(await all_ready(ports))
                enough.set()
        for what, seconds in took_s.items():
            print(f"{what}: {len(seconds)} times, median {median(seconds):.2f} s, longest {max(seconds):.2f} s")
        assert [node.refusals for node in nodes] == [0, 0, 0]
        assert {*said["client"]} == {"DeliberationCompleted"}
        assert {*said["command line"]} == {"COMPLETED"}
        assert min(map(len, said.values())) >= ROUNDS
