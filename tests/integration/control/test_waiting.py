"""What `/healthz` and `/readyz` say of real processes, from their first second."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fleet.config import unconfigured
from fleet.local.nats_server import find_server
from tests.support.fleets.unlaunched import STALE_S
from tests.support.nats.servers import HOST, Server, free_ports
from tests.support.variants import some_of
from tests.support.waiting import WITHIN_S, until

pytestmark = pytest.mark.usefixtures("nats_binary")
COLLECTOR = ("-m", "fleet.cli", "collector")
DISPATCHER = ("-m", "tests.support.fleets.dispatcher")
UNLAUNCHED = ("-m", "tests.support.fleets.unlaunched")


class Watched:
    """A process, and what it says of its health."""

    def __init__(self, process: Process, port: int, log: Path) -> None:
        self.process = process
        self.log = log
        self._url = f"http://{HOST}:{port}"

    async def look(self, path: str) -> tuple[int, dict[str, Any]]:
        async with aiohttp.ClientSession() as http, http.get(f"{self._url}/{path}") as answer:
            return answer.status, await answer.json()

    async def metrics(self) -> str:
        async with aiohttp.ClientSession() as http, http.get(f"{self._url}/metrics") as answer:
            return await answer.text()

    def events(self) -> list[dict[str, Any]]:
        """What it has logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    async def until(self, fact: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Waits until `fact` holds of the body of `/readyz`; `/healthz` is 200 whenever anything answers."""
        body: dict[str, Any] = {}

        async def is_so() -> bool:
            nonlocal body
            assert self.process.returncode is None, self.log.read_text()
            assert await self.look("healthz") == (200, {"alive": True})
            status, body = await self.look("readyz")
            assert (status == 200) is body["ready"] is (not body["problems"])
            assert body["details"].keys() >= {*body["problems"]}
            return fact(body)

        await until(is_so, pause_s=0.05, not_yet=(aiohttp.ClientError,))  # it does not listen yet
        return body

    async def drained(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(WITHIN_S):
            assert await self.process.wait() == 0
        assert "Traceback" not in self.log.read_text()


@asynccontextmanager
async def started(command: tuple[str, ...], nats_url: str, directory: Path) -> AsyncIterator[Watched]:
    (port,) = free_ports(1)
    log = directory / "component.log"
    given = {"NATS_URL": nats_url, "FLEET_HEALTH_PORT": str(port), "FLEET_HEALTH_HOST": HOST, "FLEET_LOG": "json"}
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=DEVNULL, stderr=file, env={**unconfigured(os.environ), **given}
        )
    try:
        yield Watched(process, port, log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def ready(body: dict[str, Any]) -> bool:
    return bool(body["ready"])


@pytest.mark.slow
async def test_a_dispatcher_that_cannot_launch_is_alive_and_not_ready(nats_url: str, tmp_path: Path) -> None:
    """For longer than a heartbeat may be old."""
    async with started(UNLAUNCHED, nats_url, tmp_path) as dispatcher:
        body = await dispatcher.until(lambda body: body["problems"] == ["workers"])
        assert body["details"] == {"workers": "0 of 1 workers answer"}
        over = time.monotonic() + 2 * STALE_S
        await dispatcher.until(lambda body: body["problems"] == ["workers"] and time.monotonic() > over)
        await dispatcher.drained()


@pytest.mark.parametrize(
    "command",
    [pytest.param(COLLECTOR, marks=pytest.mark.slow, id="collector"), pytest.param(DISPATCHER, id="dispatcher")],
)
async def test_who_is_started_before_nats_waits_for_it(command: tuple[str, ...], tmp_path: Path) -> None:
    """Says so, and becomes ready by itself; and asks for one that has gone again."""
    server = Server("late", tmp_path / "nats")
    async with started(command, server.url, tmp_path) as component:
        body = await component.until(lambda body: "no NATS server answers" in body["details"].get("nats", ""))
        assert {"nats", "streams"} <= {*body["problems"]}
        await component.until(lambda _: "nats.tried_again" in component.log.read_text())
        assert re.search(r'fleet_retries_total{error="Unreachable",what="\w+\.start"}', await component.metrics())
        try:
            await server.start()
            await component.until(ready)
            await server.kill()
            await component.until(lambda body: "nats" in body["problems"])
            await server.start()
            await component.until(ready)
            await component.drained()
        finally:
            await server.kill()
        tried = [event for event in component.events() if event["event"] == "nats.tried_again"]
        assert "no NATS server answers" in tried[0]["error"]


async def test_who_is_started_before_nats_can_be_ended(tmp_path: Path) -> None:
    """In good order."""
    async with started(COLLECTOR, f"nats://{HOST}:{free_ports(1)[0]}", tmp_path) as collector:
        await collector.until(lambda body: "no NATS server answers" in body["details"].get("nats", ""))
        await collector.drained()


@pytest.mark.slow
async def test_a_server_without_jetstream_and_one_that_lets_nobody_in_are_waited_for(tmp_path: Path) -> None:
    """Until one comes that has it."""
    server = Server("last", tmp_path / "nats")
    async with started(COLLECTOR, server.url, tmp_path) as collector:
        async with bare(server.port, "--user", "a", "--pass", "b"):
            await collector.until(lambda body: "refuses" in body["details"].get("nats", ""))
        async with bare(server.port):
            body = await collector.until(lambda body: body["problems"] == ["streams"])
            assert body["details"]["streams"]
        try:
            await server.start()
            await collector.until(ready)
            await collector.drained()
        finally:
            await server.kill()


@asynccontextmanager
async def bare(port: int, *arguments: str) -> AsyncIterator[None]:
    """A nats-server without JetStream."""
    command = (str(find_server()), "--addr", HOST, "--port", str(port), *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL, stderr=DEVNULL)
    try:
        yield
    finally:
        process.kill()
        await process.wait()


@some_of(1, "given", ["taken", "tcp://10.0.0.1:9464"])
async def test_a_health_port_that_cannot_be_had_ends_the_process(given: str, tmp_path: Path) -> None:
    """One line that names the setting and the port, exit status 2; NATS need not be there."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = str(taken.getsockname()[1]) if given == "taken" else given
        environ = {"NATS_URL": f"nats://{HOST}:1", "FLEET_HEALTH_PORT": port, "FLEET_HEALTH_HOST": HOST}
        process = await asyncio.create_subprocess_exec(
            sys.executable, *COLLECTOR, stdout=PIPE, stderr=PIPE, env={**unconfigured(os.environ), **environ}
        )
        async with asyncio.timeout(WITHIN_S):
            out, err = await process.communicate()
    text = err.decode()
    assert (process.returncode, out) == (2, b"")
    assert "FLEET_HEALTH_PORT" in text
    assert port in text
    assert "Traceback" not in text
    assert "never awaited" not in text
