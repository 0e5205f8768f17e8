"""What a component is made of (connection, topology, store, outbox, runner, health), and how it starts and stops."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import structlog
from nats.js import JetStreamContext

from fleet.config import Settings
from fleet.control.fence import Fence
from fleet.control.intake import Broker, OutboxHolder
from fleet.control.outbox import Outbox
from fleet.control.recovery.dead_letters import Undeliverable
from fleet.control.recovery.lost_streams import Resumption
from fleet.control.recovery.watchdog import Watchdog
from fleet.control.runner import Runner
from fleet.control.store import KeyValueStore
from fleet.errors import Unreachable
from fleet.jetstream import topology
from fleet.jetstream.connection import OUTAGES, Connection, connect, disconnect
from fleet.jetstream.payloads import DAY_S, Texts
from fleet.observability.health import Health, serve_health

log = structlog.get_logger(__name__)

DECLARE_WITHIN_S, DECLARE_PAUSE_S = 30.0, 0.5
DRAIN_S, CLOSE_WITHIN_S = 8.0, 2.0
"""With all other steps, also where NATS has stopped to answer, less than the 20 s in which a component must end."""


class Component:
    """One control-plane process, dispatcher or collector. `reads`: the (stream, consumer) that it serves."""

    def __init__(
        self, settings: Settings, name: str, broker: Broker, holder: OutboxHolder, reads: Sequence[tuple[str, str]]
    ) -> None:
        self.settings = settings
        self._reads = reads
        self.name = name
        self.health = Health(name)
        self._broker = broker
        self._holder = holder
        self._background: list[asyncio.Task[Any]] = []
        self.nc: Connection
        self.out: Connection
        """What the events leave by."""
        self.js: JetStreamContext
        self.texts: Texts
        self.store: KeyValueStore
        self.undeliverable: Undeliverable
        self.resumption: Resumption
        self.runner: Runner

    async def connect(self) -> None:
        """Connects and declares the topology; raises `Unreachable` when there is no server."""
        self.nc = await connect(self.settings, f"fleet-{self.name}-publisher")
        self.js = self.nc.jetstream(timeout=5.0)
        created = await self._declare()
        self.texts = Texts(self.js, self.nc.max_payload, self.settings.limits.results_days * DAY_S)
        self.store = await KeyValueStore.open(self.js, self.texts)
        fence = await Fence.connect(self.settings, f"fleet-{self.name}-outbox")
        self.out = fence.nc
        self._holder.outbox = Outbox(self.out, self.out.jetstream(timeout=5.0), self.texts, self.name, fence)
        self.undeliverable = Undeliverable(self.nc, self.js, self.store, self._holder.outbox)
        self._holder.undeliverable = self.undeliverable
        self.resumption = Resumption(self.js, self.store, self._holder.outbox, self.texts)
        self.resumption.after_loss_of(created)
        self.runner = Runner(self.store, self._holder.outbox, self.resumption.fail_if_lost)
        await fence.start(self.runner.works_on)
        self.health.watch("NATS takes what is written", lambda: not self.runner.hindered)
        self.health.gauge("fleet_tasks_in_work", "Tasks whose events are being applied", lambda: self.runner.busy)

    async def _declare(self) -> list[str]:
        """Tried again while streams have no leader: a server of the cluster may have gone a moment ago."""
        until = time.monotonic() + DECLARE_WITHIN_S
        while True:
            try:
                return await topology.declare(self.js, self.settings)
            except OUTAGES as error:
                if time.monotonic() > until:
                    raise
                log.warning("topology.not_declared", error=repr(error), again_in_s=DECLARE_PAUSE_S)
            await asyncio.sleep(DECLARE_PAUSE_S)

    async def start(self) -> None:
        """Begins to consume."""
        await self.undeliverable.start()
        await self._broker.start()
        self._background.append(asyncio.create_task(self.undeliverable.run()))
        if port := os.environ.get("FLEET_HEALTH_PORT"):
            self._background.append(asyncio.create_task(serve_health(self.health, int(port))))

    def watch(self, what: str, probe: Callable[[], bool]) -> None:
        """Makes readiness depend on `probe`."""
        self.health.watch(what, probe)

    async def watchdog(self) -> None:
        """Looks for what is wedged, for ever. Raises `Unreachable` where only a new process can help."""
        broker: Connection = self._broker.connection
        clients = (self.nc, self.out, broker)
        dog = Watchdog(self.settings, self.health, self.js, clients, self._reads, self.resumption)
        # A task of its own: nats-py takes a cancellation for the end of its time, and the watchdog would go on.
        watching = asyncio.create_task(dog.run())
        closings = [asyncio.create_task(client.closed.wait()) for client in clients]
        self._background += [watching, *closings]
        await asyncio.wait([watching, *closings], return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            watching.result()
        raise Unreachable("a connection to NATS was closed for good: a new process connects anew")

    async def drain(self) -> None:
        """Takes nothing new, and finishes what is in flight."""
        started = time.monotonic()
        for subscriber in self._broker.subscribers:
            # FastStream's own way would drop what NATS has sent already, for another to have after `ack_wait`.
            if (subscription := getattr(subscriber, "subscription", None)) is not None:
                with suppress(*OUTAGES):
                    async with asyncio.timeout(CLOSE_WITHIN_S):
                        await subscription.drain()
                subscriber.subscription = None  # type: ignore[attr-defined]
            await subscriber.stop()
        if hasattr(self, "runner"):
            await self.runner.drain(DRAIN_S)
        log.info(f"{self.name}.drained", drained_in_ms=round((time.monotonic() - started) * 1000))

    async def close(self) -> None:
        """Disconnects."""
        for task in self._background:
            task.cancel()
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self._broker.stop()
        except OUTAGES:  # NATS is away
            await disconnect(self._broker.connection)
        for client in ("out", "nc"):
            if hasattr(self, client):
                await disconnect(getattr(self, client))
        log.info(f"{self.name}.stopped")
