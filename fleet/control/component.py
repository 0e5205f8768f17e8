"""What a component is made of (connection, topology, store, outbox, runner, health), and how it starts and stops."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

import structlog
from nats.js import JetStreamContext

from fleet.config import Settings
from fleet.control.background import Background
from fleet.control.fence import PublisherFence
from fleet.control.intake import Broker, OutboxHolder
from fleet.control.lost_tasks import UnendedTasks
from fleet.control.outbox import Outbox
from fleet.control.recovery.dead_letters import DeadLetters
from fleet.control.recovery.lost_streams import LostStreams
from fleet.control.recovery.watchdog import Watchdog
from fleet.control.runner import Runner
from fleet.control.store import KeyValueStore
from fleet.errors import Unreachable
from fleet.jetstream import topology
from fleet.jetstream.connection import OUTAGES, Connection, connect, disconnect
from fleet.jetstream.origin import CONTROL_INBOX
from fleet.jetstream.payloads import DAY_S, Texts
from fleet.observability.health import Health, Seen, listen

log = structlog.get_logger(__name__)

CONNECT_PAUSE_S = 2.0
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
        self._background = Background()
        self._created: list[str] = []
        self.nc: Connection
        self.out: Connection
        """What the events leave by."""
        self.js: JetStreamContext
        self.texts: Texts
        self.store: KeyValueStore
        self.dead_letters: DeadLetters
        self.lost_streams: LostStreams
        self.runner: Runner

    async def run(self, starting: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Serves health, then does `starting`, and goes on until cancelled. Raises what ended a part of it."""
        self.health.expect("nats", "NATS has not answered yet")
        self.health.expect("streams", "the streams have not been seen yet")
        self._background.start("heartbeat", self.health.keep_beating())
        if self.settings.health_port is not None:
            serving = await listen(self.health, self.settings.health_host, self.settings.health_port)
            self._background.start("health server", serving)
        await self._background.run(starting)

    def keep(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work` in the background; its end would be the component's."""
        self._background.start(name, work)

    async def stop(self, name: str) -> None:
        """Ends what `keep` has begun."""
        await self._background.stop(name)

    async def serve(self, announce: Callable[[], Awaitable[None]]) -> None:
        """Connects, declares the topology, awaits `announce`, and begins to consume: `/readyz` goes by what is seen.

        All of it is tried again, however long, while NATS is away, lets nobody in or has no leader: a server may be
        started later than its clients, and its users and certificates can be mended while it runs.
        """
        while True:
            try:
                await self._connect()
                await announce()
                await self._consume()
                break
            except (Unreachable, *OUTAGES) as error:
                reason = str(error) or type(error).__name__
                streams = hasattr(self, "nc") and self.nc.is_connected
                self.health.set("streams" if streams else "nats", ok=False, detail=reason)
                log.warning(f"{self.name}.waits_for_nats", error=reason, again_in_s=CONNECT_PAUSE_S)
            await self._disconnect()
            await asyncio.sleep(CONNECT_PAUSE_S)
        self.health.set("nats", ok=True)
        self.health.set("streams", ok=True)
        self.health.watch("writes fail", self._writes)
        self.health.gauge(
            "fleet_tasks_in_work", "Tasks whose events are being applied", lambda: len(self.runner.in_work)
        )
        clients = (self.nc, self.out, self._broker.connection)
        dog = Watchdog(self.settings, self.health, self.js, clients, self._reads, self.lost_streams)
        self.keep("connections", self._closings(clients))
        self.keep("watchdog", dog.run())
        self.keep("dead letters", self.dead_letters.run())
        self.keep("lost streams", self.lost_streams.run())

    async def _connect(self) -> None:
        self.nc = await connect(self.settings, f"fleet-{self.name}-publisher", inbox_prefix=CONTROL_INBOX)
        self.health.set("nats", ok=True)
        self.js = self.nc.jetstream(timeout=5.0)
        await topology.declare(self.js, self.settings, self._created)
        self.texts = Texts(self.js, self.nc.max_payload, self.settings.limits.results_days * DAY_S)
        self.store = await KeyValueStore.open(self.js, self.texts)
        fence = await PublisherFence.connect(self.settings, f"fleet-{self.name}-outbox")
        self.out = fence.nc
        self._holder.outbox = Outbox(self.out, self.out.jetstream(timeout=5.0), self.texts, self.name, fence)
        unended = UnendedTasks(self.js, self.texts)
        self.runner = Runner(self.store, self._holder.outbox, unended)
        self.dead_letters = DeadLetters(self.nc, self.js, self.store, self._holder.outbox, self.runner)
        self._holder.dead_letters = self.dead_letters
        self.lost_streams = LostStreams(self.js, self.runner, unended)
        await self.lost_streams.before_consuming(self._created)
        await fence.start(self.runner.in_work)

    async def _consume(self) -> None:
        await self.dead_letters.start()
        await self._broker.start()

    async def _closings(self, clients: Sequence[Connection]) -> None:
        """Raises `Unreachable` once one of them is closed for good."""
        closings = [asyncio.create_task(client.closed.wait()) for client in clients]
        try:
            await asyncio.wait(closings, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for closing in closings:
                closing.cancel()
        raise Unreachable("a connection to NATS was closed for good: a new process connects anew")

    def _writes(self) -> Seen:
        failing = self.runner.write_failing
        return Seen(not failing, "NATS did not take what had to be written: a full disk or stream?" if failing else "")

    async def drain(self) -> None:
        """Takes nothing new, and finishes what is in flight."""
        started = time.monotonic()
        self.health.expect("stopping", "this process takes nothing new")
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
        await self._background.stop()
        await self._disconnect()
        log.info(f"{self.name}.stopped")

    async def _disconnect(self) -> None:
        """Whatever there is, in whatever state."""
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self._broker.stop()
        except (*OUTAGES, ExceptionGroup):  # NATS is away
            if (connection := self._broker._connection) is not None:
                await disconnect(connection)
                self._broker._connection = None  # a later start connects anew
        for client in ("out", "nc"):
            if hasattr(self, client):
                await disconnect(getattr(self, client))
                delattr(self, client)
