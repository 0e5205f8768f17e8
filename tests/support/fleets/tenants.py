"""Runs a fleet that two tenants share, on a server with the shipped `tenants.conf`."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.config import Limits
from fleet.tenants.limits import Tenant
from fleet.tenants.names import DEFAULT_TENANT
from tests.support.fleets.control_plane import Fleet, client_on
from tests.support.fleets.whole_fleet import whole
from tests.support.nats.permitted import TENANTS, Users, permitted
from workers.simulator.server import SimulatorConfig

A, B = "team-a", "team-b"
USERS = {A: A, B: B, DEFAULT_TENANT: "client"}
"""Tenant -> the user of its clients."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A fleet, and a client of each tenant, the default one among them."""

    users: Users
    clients: dict[str, Fleet]
    refused: dict[str, list[str]]

    def __getitem__(self, tenant: str) -> Fleet:
        return self.clients[tenant]

    def url(self, tenant: str) -> str:
        """With which a client of the tenant connects."""
        return self.users.url(USERS[tenant])


@asynccontextmanager
async def shared(
    folder: Path,
    simulated: SimulatorConfig | None = None,
    more: str = "",
    limits: dict[str, Tenant] | None = None,
    room: Limits | None = None,
    **settings: Any,
) -> AsyncIterator[Stage]:
    """`more`: of the server's configuration. `settings`: further ones of the fleet."""
    tenants = {name: Tenant() for name in (A, B)} | (limits or {})
    async with AsyncExitStack() as stack:
        users = await stack.enter_async_context(permitted(folder / "server", more, permissions=TENANTS))
        names: dict[str, Any] = {"worker_url": users.url("worker"), "client_url": users.url("operator")}
        await stack.enter_async_context(
            whole(users.url("control"), simulated, room, tenants=tenants, **names, **settings)
        )
        clients, refused = {}, {}
        for name, user in USERS.items():
            nc, refused[name] = await stack.enter_async_context(users.connected(user))
            clients[name] = await client_on(nc)
        yield Stage(users, clients, refused)
