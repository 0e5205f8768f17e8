"""Starts the NATS under a fleet that is broken: one server, or several as a cluster."""

import asyncio
import json
from pathlib import Path

from fleet.local.nats_server import HOST, EmbeddedNats
from fleet.local.ports import free_port
from fleet.local.supervisor import Child

MAX_PAYLOAD = "128KB"
"""Small, so that long texts travel by reference."""
MAX_PAYLOAD_OF_TENANTS = "120KB"
"""Below the server's own: whatever a tenant sends becomes a dead letter in one message."""
MAX_STORE_BYTES = 1024 * 1024 * 1024
"""Soon full, when it is filled on purpose."""


class NatsServers:
    """Each is started again when it dies. Clients are not told of the servers: they reach them through the proxy.

    `more`: is added to the configuration of each.
    """

    def __init__(self, data_dir: Path, count: int = 1, more: str = "") -> None:
        if count == 1:
            self._servers = [_server(data_dir, "fleet", more)]
            return
        routes = [free_port() for _ in range(count)]
        self._servers = [
            _server(data_dir / f"nats-{number}", f"fleet-{number}", more + _clustered(route, routes))
            for number, route in enumerate(routes, 1)
        ]

    @property
    def url(self) -> str:
        """Of all of them. They are running."""
        return ",".join(server.url for server in self._servers)

    @property
    def ports(self) -> list[int]:
        return [int(server.url.rpartition(":")[2]) for server in self._servers]

    @property
    def pids(self) -> list[int]:
        """Of those that run."""
        return [server.pid for server in self._servers if server.pid is not None]

    def child(self, pid: int) -> Child:
        """The server that runs as this process. Raises StopIteration."""
        return next(server.child for server in self._servers if server.pid == pid)

    async def start(self) -> None:
        await asyncio.gather(*(server.start() for server in self._servers))

    async def stop(self) -> None:
        await asyncio.gather(*(server.stop() for server in self._servers))


def _server(data_dir: Path, name: str, more: str) -> EmbeddedNats:
    return EmbeddedNats(data_dir, max_payload=MAX_PAYLOAD, max_store_bytes=MAX_STORE_BYTES, name=name, more=more)


def _clustered(own: int, routes: list[int]) -> str:
    return f"""\
cluster {{
  name: fleet
  listen: "{HOST}:{own}"
  routes: {json.dumps([f"nats://{HOST}:{port}" for port in routes])}
  no_advertise: true
}}
"""
