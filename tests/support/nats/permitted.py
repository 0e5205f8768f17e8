"""Starts a nats-server with the shipped permissions, and connects as its users."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import nats
from nats.aio.client import Client

from fleet.local.nats_server import find_server
from tests.support.nats.servers import HOST, free_ports
from tests.support.waiting import until

PERMISSIONS = Path(__file__).parents[3] / "deploy" / "nats" / "permissions.conf"
CLIENTS_APART = PERMISSIONS.with_name("clients-apart.conf")
TENANTS = PERMISSIONS.with_name("tenants.conf")
USERS = ("client", "control", "viewer", "worker", "operator", "sys", "team-a", "team-b")


class Users:
    """Of one server."""

    def __init__(self, port: int, passwords: Mapping[str, str]) -> None:
        self._port = port
        self.passwords = passwords

    @property
    def address(self) -> str:
        """Without a user."""
        return f"nats://{HOST}:{self._port}"

    def url(self, name: str) -> str:
        return f"nats://{name}:{self.passwords[name]}@{HOST}:{self._port}"

    @asynccontextmanager
    async def connected(self, name: str) -> AsyncIterator[tuple[Client, list[str]]]:
        """A connection, and what the server has refused it so far."""
        refused: list[str] = []

        async def refuse(error: Exception) -> None:
            refused.append(str(error))

        nc = await nats.connect(self.url(name), error_cb=refuse)
        try:
            yield nc, refused
        finally:
            await nc.close()


@asynccontextmanager
async def permitted(
    directory: Path, more: str = "", passwords: Mapping[str, str] | None = None, permissions: Path = PERMISSIONS
) -> AsyncIterator[Users]:
    """It listens inside. `more`: of its configuration. `passwords` by user; by default `p` and the user's name."""
    passwords = passwords or {user: f"p{user}" for user in USERS}
    (port,) = free_ports(1)
    file = _configuration(directory, port, more, permissions)
    given = {f"NATS_{user.upper().replace('-', '_')}_PASSWORD": password for user, password in passwords.items()}
    with (directory / "nats-server.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            str(find_server()), "--config", str(file), env={**os.environ, **given}, stdout=log, stderr=log
        )
    try:
        users = Users(port, passwords)
        await until(lambda: _listens(port))  # a server says nothing by itself
        yield users
    finally:
        process.terminate()
        await process.wait()


async def settle(nc: Client) -> None:
    """Returns once the server has dealt with what was sent. Twice: nats-py's PING overtakes what is still buffered."""
    await nc.flush()
    await nc.flush()


def _configuration(directory: Path, port: int, more: str, permissions: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "nats-server.conf"
    included = os.path.relpath(permissions, directory)  # always relative
    file.write_text(f'listen: "{HOST}:{port}"\njetstream {{ store_dir: "{directory}" }}\ninclude "{included}"\n{more}')
    return file


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True
