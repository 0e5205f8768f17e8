"""Starts nats-servers that can be killed and looked into: alone, or three as a cluster, on free ports of loopback."""

import asyncio
import json
import os
import random
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import aiohttp

from fleet.local.nats_server import find_server
from fleet.local.ports import QUIET, is_free
from tests.support.waiting import until

HOST = "127.0.0.1"
READY_WITHIN_S = 60
PORTS = range(QUIET.stop, 32_768)
"""Above those that the fleet takes by itself, below those of outgoing connections."""
MOST_PROCESSES = 12


class Server:
    """One nats-server; `routes` are those of its cluster, itself included, and `more` is added to its configuration."""

    def __init__(
        self,
        name: str,
        directory: Path,
        *,
        routes: Sequence[int] = (),
        max_payload: str = "1MB",
        more: str = "",
        advertise: bool = True,
    ) -> None:
        self.name = name
        self.port, self._monitor = free_ports(2)
        self._directory = directory
        self._routes = routes
        self._max_payload = max_payload
        self.more = more
        self.secret = "secret"
        """Of its cluster: one that has another is cut off from the rest once it is started again."""
        self._advertise = advertise
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Returns once it listens; `healthy` says when it has joined its cluster."""
        self._directory.mkdir(parents=True, exist_ok=True)
        file = self._write()
        with (self._directory / "nats-server.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(find_server()), "--config", str(file), stdout=DEVNULL, stderr=log
            )
        await until(lambda: self.look("varz"), READY_WITHIN_S)

    async def healthy(self) -> None:
        """Waits until JetStream has what it had, and (in a cluster) a leader."""

        async def is_well() -> bool:
            return (await self.look("healthz") or {}).get("status") == "ok"

        await until(is_well, READY_WITHIN_S)

    async def kill(self) -> None:
        """SIGKILL."""
        if self.runs:
            self.signal(signal.SIGKILL)
            assert self._process is not None
            await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM, as in a rolling restart."""
        self.signal(signal.SIGTERM)
        assert self._process is not None
        await self._process.wait()

    def reload(self) -> None:
        """Takes over what `more` says now."""
        self._write()
        self.signal(signal.SIGHUP)

    @property
    def refusals(self) -> int:
        """How many connections it did not let in."""
        return (self._directory / "nats-server.log").read_text().count("authentication error")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def look(self, what: str) -> dict[str, Any] | None:
        """What it says of itself; None while it says nothing."""
        try:
            async with (
                aiohttp.ClientSession() as http,
                http.get(f"http://{HOST}:{self._monitor}/{what}") as reply,
            ):
                return dict(json.loads(await reply.read()))
        except (aiohttp.ClientError, OSError):
            return None

    async def connections(self) -> dict[str, list[dict[str, Any]]]:
        """By the name that the client gave, each with its subscriptions and what was delivered to them."""
        found = await self.look("connz?subs=detail") or {}
        by_name: dict[str, list[dict[str, Any]]] = {}
        for connection in found.get("connections", ()):
            by_name.setdefault(connection.get("name", ""), []).append(connection)
        return by_name

    async def delivered(self, subject: str) -> list[int]:
        """How many messages each subscription to `subject` was given."""
        return [
            sub["msgs"]
            for connections in (await self.connections()).values()
            for connection in connections
            for sub in connection.get("subscriptions_list_detail", ())
            if sub["subject"] == subject
        ]

    def _write(self) -> Path:
        file = self._directory / "nats-server.conf"
        file.write_text(self._config())
        return file

    def _config(self) -> str:
        own, *_ = [port for port in self._routes if str(port) in self.name] or [0]
        routes = ", ".join(f'"nats://route:{self.secret}@{HOST}:{port}"' for port in self._routes)
        cluster = f"""
cluster {{
  name: fleet
  listen: "{HOST}:{own}"
  authorization {{ user: route, password: {self.secret} }}
  routes: [{routes}]
  no_advertise: {json.dumps(not self._advertise)}
}}"""
        return f"""\
server_name: {self.name}
listen: "{HOST}:{self.port}"
http: "{HOST}:{self._monitor}"
max_payload: {self._max_payload}
jetstream {{
  store_dir: {json.dumps(str(self._directory.absolute()))}
  sync_interval: 100ms
}}
{cluster if self._routes else ""}
{self.more}
"""


@asynccontextmanager
async def one(directory: Path, **more: Any) -> AsyncIterator[Server]:
    """A server of one's own."""
    server = Server("alone", directory, **more)
    try:
        await server.start()
        await server.healthy()
        yield server
    finally:
        await server.kill()


@asynccontextmanager
async def three(directory: Path, **more: Any) -> AsyncIterator[list[Server]]:
    """A cluster as in `deploy/nats/nats-cluster.conf`, without its permissions."""
    routes = free_ports(3)
    servers = [Server(f"nats-{route}", directory / str(route), routes=routes, **more) for route in routes]
    try:
        await asyncio.gather(*(server.start() for server in servers))
        await asyncio.gather(*(server.healthy() for server in servers))
        yield servers
    finally:
        await asyncio.gather(*(server.kill() for server in servers))


def free_ports(count: int) -> list[int]:
    """Free just now, and asked for by nobody else for a while: a server may be started again on its own."""
    return list(islice(filter(is_free, _PORTS), count))


def _of_this_process() -> Iterator[int]:
    """For ever, one after the other: those of one of the processes that run tests side by side."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = PORTS[number % MOST_PROCESSES :: MOST_PROCESSES]
    begin = random.SystemRandom().randrange(len(own))
    return cycle((*own[begin:], *own[:begin]))


_PORTS = _of_this_process()
