"""What a component is made of (connection, topology, store, outbox, runner, health), and how it starts and stops."""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress

import nats.errors
import structlog
from faststream.nats import NatsBroker
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from fleet import topology
from fleet.config import Settings
from fleet.connection import connect
from fleet.errors import Unreachable
from fleet.health import Health, serve_health
from fleet.intake import OutboxHolder
from fleet.outbox import Outbox
from fleet.runner import Runner
from fleet.store import KeyValueStore
from fleet.texts import Texts
from fleet.undeliverable import Undeliverable

log = structlog.get_logger(__name__)

PROBE_INTERVAL_S = 2.0
PROBE_TIMEOUT_S = 3.0
DRAIN_S = 15.0


class Component:
    """One control-plane process, dispatcher or collector."""

    def __init__(self, settings: Settings, name: str, broker: NatsBroker, holder: OutboxHolder) -> None:
        self.settings = settings
        self.name = name
        self.health = Health(name)
        self._broker = broker
        self._holder = holder
        self._background: list[asyncio.Task[None]] = []
        self.nc: Client
        self.js: JetStreamContext
        self.texts: Texts
        self.store: KeyValueStore
        self.undeliverable: Undeliverable
        self.runner: Runner

    async def connect(self) -> None:
        """Connects and declares the topology; raises `Unreachable` when there is no server."""
        self.nc = await connect(self.settings, f"fleet-{self.name}-publisher")
        self.js = self.nc.jetstream(timeout=5.0)
        await topology.declare(self.js, self.settings)
        self.texts = Texts(self.js, self.nc.max_payload)
        self.store = await KeyValueStore.open(self.js, self.texts)
        self._holder.outbox = Outbox(self.nc, self.js, self.texts, self.name)
        self.undeliverable = Undeliverable(self.nc, self.js, self.store, self._holder.outbox)
        self._holder.undeliverable = self.undeliverable
        self.runner = Runner(self.store, self._holder.outbox)
        self.health.gauge("fleet_tasks_in_work", "Tasks whose events are being applied", lambda: self.runner.busy)

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
        """Probes NATS and the durables for ever; declares again what has vanished. Readiness follows."""
        while True:
            self.health.beat()
            if self.nc.is_closed:
                # The client has given up for good (a protocol violation, say): a new process connects anew.
                raise Unreachable("the connection to NATS was closed")
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    await self.nc.flush(timeout=PROBE_TIMEOUT_S)
                    await self._check_durables()
                self.health.set("nats", ok=True)
            except NotFoundError as error:
                self.health.set("nats", ok=False)
                log.error("topology.missing", error=str(error), action="declaring it again")
                await self._declare_again()
            except Exception as error:
                self.health.set("nats", ok=False)
                log.warning("nats.probe_failed", error=repr(error))
            await asyncio.sleep(PROBE_INTERVAL_S)

    async def _check_durables(self) -> None:
        for stream, consumer in topology.consumers(self.settings):
            await self.js.consumer_info(stream, consumer.durable_name or "")

    async def _declare_again(self) -> None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S * 3):
                await topology.declare(self.js, self.settings)
        except Exception as error:
            log.warning("topology.declare_failed", error=repr(error))

    async def drain(self) -> None:
        """Takes nothing new, and finishes what is in flight."""
        started = time.monotonic()
        for subscriber in self._broker.subscribers:
            # FastStream's own way would drop what NATS has sent already, for another to have after `ack_wait`.
            if (subscription := getattr(subscriber, "subscription", None)) is not None:
                with suppress(nats.errors.Error, TimeoutError):
                    await subscription.drain()
                subscriber.subscription = None  # type: ignore[attr-defined]
            await subscriber.stop()
        if hasattr(self, "runner"):
            await self.runner.drain(DRAIN_S)
        log.info(f"{self.name}.drained", drained_in_ms=round((time.monotonic() - started) * 1000))

    async def close(self) -> None:
        """Disconnects."""
        await self._broker.stop()
        for task in self._background:
            task.cancel()
        if hasattr(self, "nc"):
            await self.nc.drain()
        log.info(f"{self.name}.stopped")
