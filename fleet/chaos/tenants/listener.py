"""Connects as one tenant, and records what it hears and when its connection was broken."""

import hashlib
import time
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager

from nats.aio.client import Client
from nats.aio.msg import Msg

from fleet import subjects
from fleet.chaos.history import Heard, Outage
from fleet.config import Settings
from fleet.jetstream import connection
from fleet.tenants.names import DEFAULT_TENANT


class Listener:
    """A core subscriber in a tenant's own account. It reconnects for ever."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.heard: list[Heard] = []
        self.nc: Client
        self._outages: list[Outage] = []
        self._lost_at: float | None = None

    async def open(self, nats_url: str, reconnect_wait_s: float) -> None:
        """Connects past the proxy. Returns when NATS knows what it listens to."""
        user = None if self.tenant == DEFAULT_TENANT else self.tenant
        self.nc = await connection.connect(
            Settings(nats_url=nats_url, nats_user=user, nats_password=user),
            f"fleet-chaos-{self.tenant}",
            reconnect_time_wait=reconnect_wait_s,
            disconnected_cb=self._on_lost,
            reconnected_cb=self._on_back,
        )
        for subject in subjects.TERMINAL:
            await self.nc.subscribe(subject, cb=self._on_terminal)
        await self.nc.flush()

    @property
    def outages(self) -> list[Outage]:
        """When it was not connected, until now."""
        if self._lost_at is None:
            return self._outages
        return [*self._outages, Outage(tenant=self.tenant, began=self._lost_at, ended=time.time())]

    async def _on_terminal(self, msg: Msg) -> None:
        task_id = (msg.headers or {}).get("Task-Id", "")
        self.heard.append(
            Heard(tenant=self.tenant, subject=msg.subject, task_id=task_id, digest=digest_of_event(msg.data))
        )

    async def _on_lost(self) -> None:
        self._lost_at = self._lost_at or time.time()

    async def _on_back(self) -> None:
        self._outages, self._lost_at = self.outages, None


@asynccontextmanager
async def listening(
    nats_url: str, reconnect_wait_s: float, tenants: Collection[str]
) -> AsyncIterator[dict[str, Listener]]:
    """One of each tenant."""
    async with AsyncExitStack() as stack:
        listeners = {}
        for tenant in tenants:
            listeners[tenant] = Listener(tenant)
            await listeners[tenant].open(nats_url, reconnect_wait_s)
            stack.push_async_callback(listeners[tenant].nc.close)
        yield listeners


def digest_of_event(data: bytes) -> str:
    """Tells one event from every other one, whatever their ids."""
    return hashlib.sha256(data).hexdigest()
